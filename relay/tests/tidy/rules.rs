//! Rules for a single file: length, functions, head, names, leftovers, blanks.

use crate::Finding;
use crate::source::Source;

/// Lines of a file above which its head must give a reason for the length.
const LINES_WITHOUT_REASON_MAX: usize = 600;
/// Lines that a file may have at most.
const LINES_MAX: usize = 800;
/// Beginning of the line that gives the reason.
const REASON: &str = "//! Long because ";

/// Lines that a function may have at most, from `fn` to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;

/// Files whose functions may be longer: the mux's state machine of frames is read as one table.
const LONG_FUNCTIONS: &[&str] = &["wire/src/mux/input.rs", "wire/src/mux/receive.rs"];

/// Module names that do not tell the content.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "misc", "shared", "stuff",
];

/// Endings of type names that do not tell what the type is.
const EMPTY_ENDINGS: &[&str] = &["Manager", "Handler", "Service", "Helper", "Util"];

pub(crate) fn files_stay_short(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources
        .iter()
        .filter(|source| is_code(source) && !source.is_generated())
    {
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            let what = format!("{lines} lines; split it, {LINES_MAX} is the most");
            findings.push(Finding::new(source, LINES_MAX + 1, what));
        } else if lines > LINES_WITHOUT_REASON_MAX && source.is_rust() && !gives_reason(source) {
            let what = format!(
                "{lines} lines; split it, or give the reason in its head: `{REASON}...` (from \
                 {LINES_WITHOUT_REASON_MAX} lines)"
            );
            findings.push(Finding::new(source, 1, what));
        }
    }
    findings
}

fn gives_reason(source: &Source) -> bool {
    let mut head = source
        .text
        .lines()
        .take_while(|line| line.starts_with("//!"));
    head.any(|line| {
        line.strip_prefix(REASON)
            .is_some_and(|reason| reason.trim().len() > 10)
    })
}

pub(crate) fn functions_stay_short(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        let is_exempt = source.is_generated() || LONG_FUNCTIONS.contains(&&*source.path);
        if is_exempt || !source.path.contains("/src/") {
            continue;
        }
        for (at, token) in source.tokens.iter().enumerate() {
            if token.text != "fn" || token.is_test {
                continue;
            }
            let Some(last) = source.body_end(at) else {
                continue;
            };
            let lines = last - token.line + 1;
            if lines > FUNCTION_LINES_MAX {
                let name = &source.tokens[at + 1].text;
                let what = format!(
                    "`{name}` has {lines} lines; split it where its parts have names, \
                     {FUNCTION_LINES_MAX} is the most"
                );
                findings.push(Finding::new(source, token.line, what));
            }
        }
    }
    findings
}

/// True for everything except Markdown and TOML.
fn is_code(source: &Source) -> bool {
    !source.path.ends_with(".md") && !source.path.ends_with(".toml")
}

pub(crate) fn files_say_what_they_hold(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        // A file of unit tests needs no head: its place in the tree tells what it tests.
        let (_, inside) = source.path.split_once("/src/").unwrap_or_default();
        if inside
            .split('/')
            .any(|part| matches!(part, "tests" | "tests.rs"))
        {
            continue;
        }
        let head = source.text.lines().find(|line| !line.starts_with("#!"));
        if !head.is_some_and(|head| head.starts_with("//! ")) {
            let what = "starts without a `//!` line that says what the file holds";
            findings.push(Finding::new(source, 1, what));
        }
    }
    findings
}

pub(crate) fn modules_have_real_names(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let mut parts = source.path.trim_end_matches(".rs").split('/');
        if let Some(name) = parts.find(|part| EMPTY_NAMES.contains(part)) {
            let what = format!("`{name}` says nothing about what is inside");
            findings.push(Finding::new(source, 1, what));
        }
        for at in 0..source.tokens.len().saturating_sub(2) {
            let name = &source.tokens[at + 1];
            let is_inline = source.spells(at, &["mod"]) && source.spells(at + 2, &["{"]);
            if is_inline && EMPTY_NAMES.contains(&name.text.as_str()) {
                let what = format!("`{}` says nothing about what is inside", name.text);
                findings.push(Finding::new(source, name.line, what));
            }
        }
    }
    findings
}

/// Words that stand for a person or thing without naming it.
const VAGUE_WORDS: &[&str] = &[
    "whoever",
    "whom",
    "somebody",
    "someone",
    "nobody",
    "anybody",
    "everybody",
    "everyone",
];

pub(crate) fn comments_name_their_nouns(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources
        .iter()
        .filter(|it| it.is_rust() && !it.is_generated())
    {
        for (at, line) in source.text.lines().enumerate() {
            let Some((code, comment)) = line.split_once("//") else {
                continue;
            };
            // A `//` behind code may be part of a URL in a literal.
            if !code.trim().is_empty() {
                continue;
            }
            let mut words = comment.split(|c: char| !c.is_alphabetic());
            if let Some(word) = words.find(|it| VAGUE_WORDS.contains(&it.to_lowercase().as_str())) {
                let what = format!("`{word}`: name the caller, agent, task or person");
                findings.push(Finding::new(source, at + 1, what));
            }
        }
    }
    findings
}

pub(crate) fn names_follow_the_glossary(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| !source.is_generated()) {
        for pair in source.tokens.windows(2) {
            let name = pair[1].text.as_str();
            let what = match pair[0].text.as_str() {
                // In a test, `get_...` may be about the HTTP method.
                "fn" if name.starts_with("get_") && !pair[1].is_test => {
                    format!("`{name}`: leave out `get_`, or say what it does")
                }
                "struct" | "enum" | "trait" | "type"
                    if EMPTY_ENDINGS.iter().any(|ending| name.ends_with(ending)) =>
                {
                    format!("`{name}`: name the type after what it is")
                }
                _ => continue,
            };
            findings.push(Finding::new(source, pair[1].line, what));
        }
    }
    findings
}

pub(crate) fn nothing_unwraps_outside_tests(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| !source.is_generated()) {
        for line in source.lines_with(&[".", "unwrap", "(", ")"], false) {
            let what = "`.unwrap()`: return an error, or `expect` with the invariant";
            findings.push(Finding::new(source, line, what));
        }
    }
    findings
}

pub(crate) fn nothing_is_left_undone(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        for name in ["todo", "unimplemented", "dbg"] {
            for line in source.lines_with(&[name, "!"], true) {
                findings.push(Finding::new(
                    source,
                    line,
                    format!("`{name}!` is left over"),
                ));
            }
        }
    }
    findings
}

pub(crate) fn ignored_tests_say_why(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        for line in source.lines_with(&["#", "[", "ignore", "]"], true) {
            let what = "`#[ignore]` without a reason; write `#[ignore = \"...\"]`";
            findings.push(Finding::new(source, line, what));
        }
    }
    findings
}

pub(crate) fn text_is_clean(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| !source.is_generated()) {
        for (at, line) in source.text.split_terminator('\n').enumerate() {
            if line.contains('\t') {
                findings.push(Finding::new(source, at + 1, "holds a tab"));
            }
            if line.ends_with(char::is_whitespace) {
                findings.push(Finding::new(source, at + 1, "ends in a blank"));
            }
        }
        if !source.text.is_empty() && !source.text.ends_with('\n') {
            let last = source.text.lines().count();
            findings.push(Finding::new(source, last, "the last line does not end"));
        }
    }
    findings
}
