//! The repository's sources as the rules see them: text, tokens, module paths, and which code is test code.
//!
//! `use` groups are split into single paths, which are made absolute as far as that needs no compiler.

use std::fs;
use std::path::Path;

use crate::lexer::{Token, item_end, lex, mark_tests};

/// Folders that are skipped wherever they are.
const FOLDERS_SKIPPED: &[&str] = &[
    "target",
    "node_modules",
    "corpus",
    "artifacts",
    "coverage",
    "__pycache__",
];

/// Extensions and names of the files that the text rules read; the other rules read `rs` only.
const EXTENSIONS: &[&str] = &[
    "rs", "toml", "md", "fbs", "cmake", "sh", "py", "js", "cjs", "mjs", "just",
];
const NAMES: &[&str] = &["justfile", ".ci/run"];

/// A file of the repository.
pub(crate) struct Source {
    /// Path from the repository's root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// Tokens of a Rust file; empty for other files.
    pub(crate) tokens: Vec<Token>,
}

/// A path in the code, as written.
pub(crate) struct PathUse {
    pub(crate) segments: Vec<String>,
    /// Path from the crate's root, for `crate::`, `self::` and `super::`.
    pub(crate) in_crate: Option<Vec<String>>,
    pub(crate) line: usize,
    pub(crate) is_test: bool,
    /// Whether a `use` has the path.
    pub(crate) is_import: bool,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let mut tokens = if path.ends_with(".rs") {
            lex(text)
        } else {
            Vec::new()
        };
        mark_tests(&mut tokens, is_test_path(path));
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            tokens,
        }
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    pub(crate) fn is_generated(&self) -> bool {
        self.path == "wire/src/generated.rs"
    }

    /// Modules from the crate's root to this file: `shard` for `relay/src/shard/mod.rs`.
    pub(crate) fn module(&self) -> Vec<String> {
        let inside = self
            .path
            .split_once("/src/")
            .map_or("", |(_, inside)| inside);
        let mut parts: Vec<_> = inside
            .trim_end_matches(".rs")
            .split('/')
            .map(str::to_owned)
            .collect();
        if parts
            .last()
            .is_some_and(|last| matches!(last.as_str(), "lib" | "main" | "mod" | ""))
        {
            parts.pop();
        }
        parts
    }

    /// True if the tokens from `at` on are `words`.
    pub(crate) fn spells(&self, at: usize, words: &[&str]) -> bool {
        self.tokens.get(at..at + words.len()).is_some_and(|found| {
            found
                .iter()
                .zip(words)
                .all(|(token, word)| token.text == *word)
        })
    }

    /// Line of the brace that closes the body of the function whose `fn` is the token at `at`; `None` for a function
    /// without a body, and for a type such as `fn(u8)`.
    pub(crate) fn body_end(&self, at: usize) -> Option<usize> {
        if !self.word(at + 1) {
            return None;
        }
        let last = item_end(&self.tokens, at).checked_sub(1)?;
        let last = self.tokens.get(last)?;
        (last.text == "}").then_some(last.line)
    }

    /// Lines where `words` follow each other; in test code only if `tests_too`.
    pub(crate) fn lines_with(&self, words: &[&str], tests_too: bool) -> Vec<usize> {
        (0..self.tokens.len())
            .filter(|&at| self.spells(at, words))
            .map(|at| &self.tokens[at])
            .filter(|token| tests_too || !token.is_test)
            .map(|token| token.line)
            .collect()
    }

    /// All paths in the file, in order.
    pub(crate) fn paths(&self) -> Vec<PathUse> {
        let mut found = Vec::new();
        let mut inner: Vec<Option<String>> = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            let module = || {
                let mut module = self.module();
                module.extend(inner.iter().flatten().cloned());
                module
            };
            match self.tokens[at].text.as_str() {
                "mod" if self.word(at + 1) && self.spells(at + 2, &["{"]) => {
                    inner.push(Some(self.tokens[at + 1].text.clone()));
                    at += 3;
                }
                "{" => {
                    inner.push(None);
                    at += 1;
                }
                "}" => {
                    inner.pop();
                    at += 1;
                }
                "use" if !self.spells(at + 1, &["<"]) => {
                    at = self.use_tree(at + 1, Vec::new(), &module(), &mut found);
                }
                _ if self.word(at) => at = self.plain_path(at, &module(), &mut found),
                _ => at += 1,
            }
        }
        found
    }

    fn word(&self, at: usize) -> bool {
        self.tokens.get(at).is_some_and(|token| {
            token
                .text
                .starts_with(|first: char| first.is_alphanumeric() || first == '_')
        })
    }

    fn plain_path(&self, start: usize, module: &[String], found: &mut Vec<PathUse>) -> usize {
        let mut at = start;
        let mut segments = vec![self.tokens[at].text.clone()];
        while self.spells(at + 1, &[":", ":"]) && self.word(at + 3) {
            at += 3;
            segments.push(self.tokens[at].text.clone());
        }
        found.push(self.path_use(segments, start, module, false));
        at + 1
    }

    /// Reads one tree of a `use`; returns the index of its end: at `,`, `}`, `;` or the file's end.
    fn use_tree(
        &self,
        mut at: usize,
        mut prefix: Vec<String>,
        module: &[String],
        found: &mut Vec<PathUse>,
    ) -> usize {
        let start = at;
        while let Some(token) = self.tokens.get(at) {
            match token.text.as_str() {
                ":" => at += 1,
                "as" => at += 2,
                "{" => loop {
                    at = self.use_tree(at + 1, prefix.clone(), module, found);
                    if !self.spells(at, &[","]) {
                        return at + 1;
                    }
                },
                "," | "}" | ";" => break,
                word => {
                    prefix.push(word.to_owned());
                    at += 1;
                }
            }
        }
        // A comma at the end of a group leaves an empty tree.
        if at > start {
            found.push(self.path_use(prefix, start, module, true));
        }
        at
    }

    fn path_use(
        &self,
        segments: Vec<String>,
        at: usize,
        module: &[String],
        is_import: bool,
    ) -> PathUse {
        let token = &self.tokens[at];
        PathUse {
            in_crate: in_crate(&segments, module),
            segments,
            line: token.line,
            is_test: token.is_test,
            is_import,
        }
    }
}

fn in_crate(segments: &[String], module: &[String]) -> Option<Vec<String>> {
    let mut base = match segments.first()?.as_str() {
        // `crate` alone comes from `pub(crate)`.
        "crate" if segments.len() > 1 => Vec::new(),
        "self" | "super" if segments.len() > 1 => module.to_vec(),
        _ => return None,
    };
    let mut rest = segments;
    while let Some((first, after)) = rest.split_first() {
        match first.as_str() {
            "crate" | "self" => {}
            "super" => {
                base.pop();
            }
            _ => break,
        }
        rest = after;
    }
    base.extend_from_slice(rest);
    Some(base)
}

fn is_test_path(path: &str) -> bool {
    path.split('/')
        .any(|part| matches!(part, "tests" | "tests.rs" | "fuzz"))
}

/// All files of the repository, in the order of their paths.
pub(crate) fn read_repository() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the relay's package stands in a folder of the repository");
    let mut files = Vec::new();
    read_folder(root, "", &mut files);
    files.sort();
    let mut sources: Vec<_> = files
        .iter()
        .map(|(path, text)| Source::new(path, text))
        .collect();
    mark_test_files(&mut sources);
    sources
}

fn read_folder(folder: &Path, prefix: &str, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a folder of the repository can be read") {
        let entry = entry.expect("a folder of the repository can be read");
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let kind = entry
            .file_type()
            .expect("a file of the repository has a type");
        if kind.is_dir() {
            let hidden = name.starts_with('.') && name != ".ci" && name != ".github";
            if !hidden && !FOLDERS_SKIPPED.contains(&name.as_str()) {
                read_folder(&entry.path(), &format!("{path}/"), files);
            }
        } else if kind.is_file() && is_read(&path) {
            let text = fs::read_to_string(entry.path())
                .unwrap_or_else(|error| panic!("{path} is not readable text: {error}"));
            files.push((path, text));
        }
    }
}

fn is_read(path: &str) -> bool {
    NAMES.contains(&path)
        || path
            .rsplit_once('.')
            .is_some_and(|(_, end)| EXTENSIONS.contains(&end))
}

/// Marks files that are declared as test modules, such as by `#[cfg(test)] mod pair;`.
fn mark_test_files(sources: &mut [Source]) {
    let mut modules = Vec::new();
    for source in sources.iter() {
        let folder = match source.path.rsplit_once('/') {
            Some((folder, "lib.rs" | "main.rs" | "mod.rs")) => folder.to_owned(),
            _ => source.path.trim_end_matches(".rs").to_owned(),
        };
        for at in 0..source.tokens.len() {
            let token = &source.tokens[at];
            if token.is_test && token.text == "mod" && source.spells(at + 2, &[";"]) {
                modules.push(format!("{folder}/{}", source.tokens[at + 1].text));
            }
        }
    }
    for source in sources {
        let path = &source.path;
        let is_inside = |module: &String| {
            path.strip_prefix(module.as_str())
                .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        if modules.iter().any(is_inside) {
            source
                .tokens
                .iter_mut()
                .for_each(|token| token.is_test = true);
        }
    }
}
