//! Checks all sources of the repository against `docs/STYLE.md`, rule by rule.
//!
//! A rule is a function from sources to findings. It runs here on the repository, and in `samples.rs` on a few lines
//! that break the rule, so that a rule that finds nothing is noticed.

mod circles;
mod documents;
mod layering;
mod lexer;
mod rules;
mod samples;
mod source;

use std::fmt;
use std::sync::LazyLock;

use source::Source;

/// A line that breaks a rule.
#[derive(Debug)]
struct Finding {
    path: String,
    line: usize,
    what: String,
}

impl Finding {
    fn new(source: &Source, line: usize, what: impl Into<String>) -> Self {
        Self {
            path: source.path.clone(),
            line,
            what: what.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

type Rule = fn(&[Source]) -> Vec<Finding>;

static REPOSITORY: LazyLock<Vec<Source>> = LazyLock::new(source::read_repository);

fn hold(rule: Rule) {
    let findings = rule(&REPOSITORY);
    let lines: Vec<_> = findings
        .iter()
        .map(|finding| format!("  {finding}\n"))
        .collect();
    assert!(
        findings.is_empty(),
        "these lines break docs/STYLE.md:\n{}",
        lines.concat()
    );
}

#[test]
fn all_our_sources_are_read() {
    for path in [
        ".ci/run",
        "justfile",
        "wire/schema/wire.fbs",
        "wire/src/generated.rs",
        "hop/src/lib.rs",
        "bridge/src/lib.rs",
        "relay/src/main.rs",
        "relay/tests/tidy/main.rs",
        "agent/src/targets/mod.rs",
        "tieline/src/main.rs",
        "loadgen/src/main.rs",
        "tools/schema/src/main.rs",
    ] {
        assert!(
            REPOSITORY.iter().any(|source| source.path == path),
            "{path} was not read"
        );
    }
}

#[test]
fn files_import_only_from_lower_rows() {
    hold(layering::imports_point_downwards);
}

#[test]
fn rooms_import_only_from_lower_rooms() {
    hold(layering::rooms_import_downwards);
}

#[test]
fn files_of_a_folder_import_each_other_without_circles() {
    hold(circles::folders_have_no_circles);
}

#[test]
fn the_directory_knows_neither_http_nor_a_socket() {
    hold(layering::the_directory_knows_names_alone);
}

#[test]
fn wire_and_hop_have_no_clock_no_socket_and_no_thread() {
    hold(layering::pure_crates_stay_pure);
}

#[test]
fn crates_name_only_those_they_may() {
    hold(layering::crates_keep_apart);
}

#[test]
fn shards_hold_no_lock_and_no_shared_map() {
    hold(layering::shards_share_nothing);
}

#[test]
fn bytes_move_through_streams() {
    hold(layering::bytes_move_through_streams);
}

#[test]
fn unsafe_stays_behind_its_doors() {
    hold(layering::unsafe_stays_behind_its_doors);
}

#[test]
fn crates_have_no_features() {
    hold(layering::crates_have_no_features);
}

#[test]
fn files_are_short_or_say_why_not() {
    hold(rules::files_stay_short);
}

#[test]
fn functions_are_short() {
    hold(rules::functions_stay_short);
}

#[test]
fn files_say_what_they_hold() {
    hold(rules::files_say_what_they_hold);
}

#[test]
fn modules_are_named_after_what_they_hold() {
    hold(rules::modules_have_real_names);
}

#[test]
fn names_follow_the_glossary() {
    hold(rules::names_follow_the_glossary);
}

#[test]
fn comments_name_their_nouns() {
    hold(rules::comments_name_their_nouns);
}

#[test]
fn nothing_unwraps_outside_tests() {
    hold(rules::nothing_unwraps_outside_tests);
}

#[test]
fn nothing_is_left_undone() {
    hold(rules::nothing_is_left_undone);
}

#[test]
fn ignored_tests_say_why() {
    hold(rules::ignored_tests_say_why);
}

#[test]
fn guides_name_files_that_exist() {
    hold(documents::guides_name_what_exists);
}

#[test]
fn lines_have_no_tabs_and_no_trailing_blanks() {
    hold(rules::text_is_clean);
}
