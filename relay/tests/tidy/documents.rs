//! Rule about guides: the files and folders that they name exist.

use crate::Finding;
use crate::source::Source;

/// Guides that change with the code; ADRs keep the paths of their time.
const GUIDES: &[&str] = &["CONTRIBUTING.md", "docs/ARCHITECTURE.md", "docs/STYLE.md"];

/// Marks of a word that stands for several names; the folder in front of it must exist.
const WILDCARDS: &[&str] = &["*", "NNNN"];

pub(crate) fn guides_name_what_exists(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for guide in sources
        .iter()
        .filter(|source| GUIDES.contains(&source.path.as_str()))
    {
        let mut is_block = false;
        for (at, line) in guide.text.lines().enumerate() {
            is_block ^= line.starts_with("```");
            // Every second piece is between backticks.
            let words = line.split('`').skip(1).step_by(2);
            for word in words.filter(|word| !is_block && is_path(word)) {
                if !sources.iter().any(|source| fits(&source.path, word)) {
                    let what = format!("`{word}` does not exist");
                    findings.push(Finding::new(guide, at + 1, what));
                }
            }
        }
    }
    findings
}

/// True for a Rust file, and for a path with a folder.
fn is_path(word: &str) -> bool {
    let is_written_so = |c: char| c.is_ascii_alphanumeric() || "_-./*".contains(c);
    (word.contains('/') || word.ends_with(".rs"))
        && !word.starts_with('/')
        && word.chars().all(is_written_so)
}

/// Whether `path` is the file `word`, or in the folder `word`. Guides leave out folders in front of a word that its
/// context names, and `.rs` of a module.
fn fits(path: &str, word: &str) -> bool {
    let is_wild = |part: &&str| WILDCARDS.iter().any(|mark| part.contains(mark));
    let parts: Vec<_> = word.split('/').take_while(|part| !is_wild(part)).collect();
    let word = format!("/{}", parts.join("/").trim_end_matches('/'));
    let path = format!("/{path}");
    path.ends_with(&word)
        || path.ends_with(&format!("{word}.rs"))
        || path.contains(&format!("{word}/"))
}
