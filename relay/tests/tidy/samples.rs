//! Samples for each rule: lines that break it, and similar lines that do not.
//!
//! Long because a rule's samples stand together, and the rules are many.

use crate::circles::folders_have_no_circles;
use crate::documents::guides_name_what_exists;
use crate::layering::{
    bytes_move_through_streams, crates_have_no_features, crates_keep_apart,
    imports_point_downwards, pure_crates_stay_pure, rooms_import_downwards, shards_share_nothing,
    the_directory_knows_names_alone, unsafe_stays_behind_its_doors,
};
use crate::rules::{
    comments_name_their_nouns, files_say_what_they_hold, files_stay_short, functions_stay_short,
    ignored_tests_say_why, modules_have_real_names, names_follow_the_glossary,
    nothing_is_left_undone, nothing_unwraps_outside_tests, text_is_clean,
};
use crate::source::Source;
use crate::{Finding, Rule};

fn findings(rule: Rule, path: &str, text: &str) -> Vec<Finding> {
    rule(&[Source::new(path, text)])
}

/// Asserts that the rule finds exactly these lines in `text`.
#[track_caller]
fn catches(rule: Rule, path: &str, text: &str, lines: &[usize]) {
    let found = findings(rule, path, text);
    let found_lines: Vec<_> = found.iter().map(|finding| finding.line).collect();
    assert_eq!(found_lines, lines, "in {path}:\n{text}\n{found:?}");
}

#[track_caller]
fn passes(rule: Rule, path: &str, text: &str) {
    catches(rule, path, text, &[]);
}

#[test]
fn an_upward_import_is_caught() {
    let rule = imports_point_downwards;
    catches(
        rule,
        "relay/src/registry.rs",
        "use crate::shard::Shard;\n",
        &[1],
    );
    catches(
        rule,
        "relay/src/registry.rs",
        "use crate::{\n    error::E,\n    link::L,\n};\n",
        &[3],
    );
    catches(
        rule,
        "relay/src/registry.rs",
        "fn f() {\n    crate::listen::go()\n}\n",
        &[2],
    );
    catches(
        rule,
        "relay/src/splice/slices.rs",
        "use super::super::frontend::F;\n",
        &[1],
    );
    catches(
        rule,
        "relay/src/splice/mod.rs",
        "use super::sweep::S;\n",
        &[1],
    );
    catches(rule, "relay/src/shard/mod.rs", "use crate::Relay;\n", &[1]);
    catches(rule, "relay/src/oddments.rs", "//! x\n", &[1]);
    passes(
        rule,
        "relay/src/splice/slices.rs",
        "use super::kernel::K;\nuse crate::io::Pool;\n",
    );
    passes(
        rule,
        "relay/src/shard/mod.rs",
        "mod routes;\nuse crate::link::Link;\n",
    );
    passes(rule, "relay/src/lib.rs", "use crate::shard::Shard;\n");
    passes(
        rule,
        "relay/src/link.rs",
        "pub(crate) struct Link;\npub(super) fn f() {}\n",
    );
    passes(
        rule,
        "relay/src/link.rs",
        "mod inner {\n    use super::f;\n}\nfn f() {}\n",
    );
}

#[test]
fn an_upward_import_in_tests_or_text_is_not_one() {
    let text = "// crate::shard\nconst S: &str = \"crate::shard\";\n#[cfg(test)]\nmod tests {\n    \
                use crate::shard::Shard;\n}\n";
    passes(imports_point_downwards, "relay/src/io/mod.rs", text);
}

#[test]
fn an_upward_import_between_rooms_is_caught() {
    let rule = rooms_import_downwards;
    let path = "relay/src/listen/http/policy/callers.rs";
    catches(
        rule,
        path,
        "use crate::listen::http::serve::front::Front;\n",
        &[1],
    );
    catches(
        rule,
        path,
        "use super::super::frontend::state::State;\n",
        &[1],
    );
    catches(rule, path, "use crate::listen::http::serve;\n", &[1]);
    passes(
        rule,
        path,
        "use super::origin::Page;\nuse crate::listen::http::gateway::Gateway;\n",
    );
    catches(
        rule,
        "relay/src/listen/http/elsewhere.rs",
        "fn f() {}\n",
        &[1],
    );
}

#[test]
fn a_circle_between_files_of_a_folder_is_caught() {
    let found = |files: &[(&str, &str)]| {
        let sources = files.iter().map(|(path, text)| Source::new(path, text));
        let found = folders_have_no_circles(&sources.collect::<Vec<_>>());
        let places = found.iter().map(|it| format!("{}:{}", it.path, it.line));
        places.collect::<Vec<_>>()
    };
    let (a, b, c) = ("relay/src/x/a.rs", "relay/src/x/b.rs", "relay/src/x/c.rs");
    let (head, inside) = ("relay/src/x/mod.rs", "relay/src/x/b/inside.rs");
    let ab = (a, "//! A.\nuse super::b::B;\n");
    assert_eq!(
        found(&[ab, (b, "use super::a::A;\n")]),
        [format!("{a}:2"), format!("{b}:1")]
    );
    // The circle may be longer, use full paths and lie in functions.
    let (bc, ca) = (
        (b, "use crate::x::c::C;\n"),
        (c, "fn f() {\n    super::a::f();\n}\n"),
    );
    assert_eq!(found(&[ab, bc, ca]).len(), 3);
    assert!(found(&[ab, bc, (c, "fn f() {}\n")]).is_empty());
    // A folder counts as one part, and a `use` of a head leads to the part that has the item.
    let of_inside = (inside, "use super::super::a::A;\n");
    assert_eq!(found(&[ab, of_inside]).len(), 2);
    let through_head = [(head, "pub(crate) use a::A;\n"), ab, (b, "use super::A;\n")];
    assert_eq!(found(&through_head), [format!("{a}:2"), format!("{b}:1")]);
    // The head holds the parts together, and tests may import everything.
    assert!(found(&[(head, "use a::A;\nstruct X;\n"), (a, "use super::X;\n")]).is_empty());
    let in_test = "#[cfg(test)]\nmod tests {\n    use super::super::a::A;\n}\n";
    assert!(found(&[ab, (b, in_test)]).is_empty());
    let strict = [
        ("relay/src/shard/mail/mod.rs", "use a::A;\nstruct X;\n"),
        ("relay/src/shard/mail/a.rs", "use super::X;\n"),
    ];
    assert_eq!(found(&strict).len(), 2);
    let visible = (strict[1].0, "pub(in crate::shard::mail) struct A;\n");
    assert!(found(&[strict[0], visible]).is_empty());
}

#[test]
fn a_frame_in_io_is_caught() {
    let text = "use tieline_wire::FrameHeader;\n";
    catches(imports_point_downwards, "relay/src/io/send.rs", text, &[1]);
    passes(imports_point_downwards, "relay/src/metrics.rs", text);
}

#[test]
fn http_and_sockets_in_the_directory_are_caught() {
    let rule = the_directory_knows_names_alone;
    let text = "use http::HeaderMap;\nuse crate::io::timeout;\nuse crate::registry::LinkRef;\n";
    catches(rule, "relay/src/directory/routes/mod.rs", text, &[1, 2]);
    passes(rule, "relay/src/shard/routing.rs", text);
}

#[test]
fn a_plain_socket_above_the_streams_is_caught() {
    let rule = bytes_move_through_streams;
    let text = "use crate::io::{Socket, Stream};\nfn f(it: &crate::io::Socket) {}\n";
    catches(rule, "relay/src/splice/mod.rs", text, &[1, 2]);
    passes(rule, "relay/src/splice/lane.rs", text);
    passes(rule, "relay/src/io/poll.rs", text);
    passes(rule, "relay/src/link/mod.rs", "use crate::io::Stream;\n");
}

#[test]
fn io_in_a_pure_crate_is_caught() {
    let rule = pure_crates_stay_pure;
    catches(
        rule,
        "wire/src/mux/mod.rs",
        "use std::{fmt, net::SocketAddr};\n",
        &[1],
    );
    catches(
        rule,
        "wire/src/mux/mod.rs",
        "use std::time::{Duration, Instant};\n",
        &[1],
    );
    catches(
        rule,
        "wire/src/mux/mod.rs",
        "\nfn f() { std::time::SystemTime::now(); }\n",
        &[2],
    );
    catches(rule, "wire/tests/simulation.rs", "use std::thread;\n", &[1]);
    catches(
        rule,
        "wire/src/lib.rs",
        "use tokio::net::TcpStream;\nuse io_uring::IoUring;\n",
        &[1, 2],
    );
    passes(
        rule,
        "wire/src/lib.rs",
        "use std::time::Duration;\nuse std::io::IoSlice;\n",
    );
    catches(rule, "hop/src/body.rs", "use tokio::time::sleep;\n", &[1]);
    catches(
        rule,
        "token/src/lib.rs",
        "use std::time::SystemTime;\n",
        &[1],
    );
    passes(rule, "relay/src/io/mod.rs", "use std::net::TcpStream;\n");
    let clock = "use std::time::Instant;\n";
    catches(rule, "transport/src/quic/config.rs", clock, &[1]);
    passes(rule, "transport/src/quic/tests/mod.rs", clock);
}

#[test]
fn crates_that_meet_are_caught() {
    let rule = crates_keep_apart;
    catches(
        rule,
        "agent/src/link.rs",
        "use tieline_relay::Relay;\n",
        &[1],
    );
    catches(
        rule,
        "relay/tests/route.rs",
        "use tieline_agent::run_once;\n",
        &[1],
    );
    catches(rule, "wire/src/lib.rs", "use tieline_relay::Relay;\n", &[1]);
    catches(rule, "hop/src/lib.rs", "use tieline_wire::Mux;\n", &[1]);
    catches(rule, "wire/src/lib.rs", "use tieline_token::Key;\n", &[1]);
    catches(rule, "agent/src/link.rs", "use tieline_token::Key;\n", &[1]);
    catches(
        rule,
        "loadgen/src/main.rs",
        "use tieline_wire::Mux;\n",
        &[1],
    );
    passes(
        rule,
        "tieline/src/demo/mod.rs",
        "use tieline_relay::Relay;\n",
    );
    catches(
        rule,
        "tieline/src/list/mod.rs",
        "use tieline_relay::Relay;\n",
        &[1],
    );
    passes(
        rule,
        "e2e/tests/route.rs",
        "use {tieline_agent::A, tieline_relay::R};\n",
    );
    passes(
        rule,
        "agent/src/link.rs",
        "// tieline_relay\nuse tieline_wire::Mux;\n",
    );
}

#[test]
fn a_lock_in_a_shard_is_caught() {
    let rule = shards_share_nothing;
    catches(
        rule,
        "relay/src/shard/routes.rs",
        "use std::sync::{Arc, Mutex};\n",
        &[1],
    );
    catches(
        rule,
        "relay/src/splice/mod.rs",
        "struct S {\n    a: dashmap::DashMap<u8, u8>,\n}\n",
        &[2, 2],
    );
    passes(
        rule,
        "relay/src/shard/mail/mailbox/mod.rs",
        "use std::sync::Mutex;\n",
    );
    passes(rule, "relay/src/control/mod.rs", "use std::sync::RwLock;\n");
    passes(rule, "relay/src/link.rs", "// a Mutex\nuse std::rc::Rc;\n");
}

#[test]
fn unsafe_outside_its_doors_is_caught() {
    let rule = unsafe_stays_behind_its_doors;
    catches(
        rule,
        "relay/src/link.rs",
        "fn f() {\n    unsafe { g() }\n}\n",
        &[2],
    );
    catches(
        rule,
        "e2e/tests/memory.rs",
        "unsafe impl Send for S {}\n",
        &[1],
    );
    passes(rule, "relay/src/io/send.rs", "unsafe fn f() {}\n");
    let emulator = "loadgen/src/emulator";
    passes(rule, &format!("{emulator}/kernel.rs"), "unsafe { g() }\n");
    catches(
        rule,
        &format!("{emulator}/device.rs"),
        "unsafe { g() }\n",
        &[1],
    );
    let allocator = "unsafe impl GlobalAlloc for A {}\n";
    for folder in ["relay/tests/memory", "wire/benches/state"] {
        passes(rule, &format!("{folder}/counting_allocator.rs"), allocator);
    }
    catches(rule, "wire/src/counting_allocator.rs", allocator, &[1]);
    passes(
        rule,
        "relay/src/link.rs",
        "#![deny(unsafe_code)] // unsafe\nconst A: &str = \"unsafe\";\n",
    );
}

#[test]
fn a_feature_is_caught() {
    let text = "[package]\nname = \"x\"\n\n[features]\n";
    catches(crates_have_no_features, "relay/Cargo.toml", text, &[4]);
    let text = "[dependencies]\na = { version = \"1\", features = [\"b\"] }\n";
    passes(crates_have_no_features, "relay/Cargo.toml", text);
}

#[test]
fn a_long_file_is_caught() {
    let rule = files_stay_short;
    let with_head =
        |head: &str, lines: usize| format!("{head}\n{}", "fn f() {}\n".repeat(lines - 1));
    passes(rule, "relay/src/a.rs", &with_head("//! A.", 600));
    catches(rule, "relay/src/a.rs", &with_head("//! A.", 601), &[1]);
    catches(
        rule,
        "relay/src/a.rs",
        &with_head("//! Long because so.", 601),
        &[1],
    );
    let reason = "//! A.\n//!\n//! Long because the table of states is read in one piece.";
    passes(rule, "relay/src/a.rs", &with_head(reason, 798));
    catches(rule, "relay/src/a.rs", &with_head(reason, 800), &[801]);
    catches(rule, "e2e/fixtures/a.py", &with_head("# A", 801), &[801]);
    passes(rule, "wire/src/generated.rs", &with_head("//! A.", 9000));
}

#[test]
fn a_long_function_is_caught() {
    let rule = functions_stay_short;
    let of_lines = |head: &str, lines: usize| {
        let body = "    // A line.\n".repeat(lines - 2);
        format!("{head} {{\n{body}}}\n")
    };
    let path = "relay/src/a.rs";
    passes(rule, path, &of_lines("fn f()", 70));
    catches(rule, path, &of_lines("fn f()", 71), &[1]);
    // The length counts from `fn`, over brackets of arguments, result and bounds.
    let head =
        "#[inline]\nasync fn f(\n    a: &[u8; 2],\n) -> [u8; { 1 + 1 }]\nwhere\n    F: Fn(u8)";
    passes(rule, path, &of_lines(head, 66));
    catches(rule, path, &of_lines(head, 67), &[2]);
    let inside = format!("impl A {{\n    fn f();\n{}}}\n", of_lines("    fn g()", 71));
    catches(rule, path, &inside, &[3]);
    let quoted = format!("fn f() {{\n    r#\"\n}}{}\"#;\n}}\n", "\n".repeat(70));
    catches(rule, path, &quoted, &[1]);
    let types = "struct A {\n    f: fn(u8),\n}\n";
    passes(rule, path, &format!("{types}{}", of_lines("mod b", 80)));
    passes(
        rule,
        path,
        &format!("#[cfg(test)]\n{}", of_lines("fn f()", 71)),
    );
    passes(rule, "relay/tests/a.rs", &of_lines("fn f()", 71));
    passes(rule, "wire/src/mux/input.rs", &of_lines("fn next()", 99));
}

#[test]
fn a_file_without_a_head_is_caught() {
    catches(
        files_say_what_they_hold,
        "relay/src/a.rs",
        "use std::fmt;\n",
        &[1],
    );
    passes(
        files_say_what_they_hold,
        "relay/src/a.rs",
        "//! Holds A.\nuse std::fmt;\n",
    );
}

#[test]
fn an_empty_module_name_is_caught() {
    let rule = modules_have_real_names;
    catches(rule, "agent/src/util.rs", "//! x\n", &[1]);
    catches(rule, "e2e/tests/common/mod.rs", "//! x\n", &[1]);
    catches(rule, "agent/src/link.rs", "\nmod helpers {\n}\n", &[2]);
    passes(rule, "agent/src/link.rs", "mod common_name {\n}\n");
}

#[test]
fn an_empty_name_is_caught() {
    let rule = names_follow_the_glossary;
    catches(
        rule,
        "agent/src/link.rs",
        "fn get_link() {}\nstruct LinkManager;\n",
        &[1, 2],
    );
    passes(
        rule,
        "agent/src/link.rs",
        "fn link() { map.get_mut(); }\nimpl Service for S {}\n",
    );
}

#[test]
fn an_unwrap_is_caught() {
    let rule = nothing_unwraps_outside_tests;
    catches(
        rule,
        "agent/src/link.rs",
        "fn f() {\n    a()\n        .unwrap();\n}\n",
        &[3],
    );
    catches(
        rule,
        "agent/src/link.rs",
        "#[cfg(not(test))]\nfn f() { a.unwrap() }\n",
        &[2],
    );
    passes(
        rule,
        "agent/src/link.rs",
        "#[cfg(all(test, unix))]\nmod t { fn f() { a.unwrap() } }\n",
    );
    passes(
        rule,
        "agent/src/link.rs",
        "#[tokio::test(start = 1)]\nasync fn f() { a.unwrap() }\n",
    );
    passes(rule, "agent/tests/link.rs", "fn f() { a.unwrap() }\n");
    passes(
        rule,
        "agent/src/link.rs",
        "/// a.unwrap()\nfn f() { a.unwrap_or(1); r#\"a.unwrap()\"#; }\n",
    );
    catches(
        rule,
        "agent/src/link.rs",
        "#[test]\nfn t() { a.unwrap() }\nfn f() { a.unwrap() }\n",
        &[3],
    );
}

#[test]
fn a_leftover_is_caught() {
    let rule = nothing_is_left_undone;
    let text = "fn f() { todo!() }\nfn g() { dbg!(1); }\nfn h() { unimplemented!() }\n";
    let mut lines: Vec<_> = findings(rule, "agent/src/a.rs", text)
        .iter()
        .map(|finding| finding.line)
        .collect();
    lines.sort_unstable();
    assert_eq!(lines, [1, 2, 3]);
    catches(rule, "agent/tests/a.rs", "fn f() { dbg!(1) }\n", &[1]);
    passes(
        rule,
        "agent/src/a.rs",
        "// todo!\nfn todo() {}\nconst A: char = '\"'; // dbg!\n",
    );
}

#[test]
fn an_ignored_test_without_reason_is_caught() {
    let rule = ignored_tests_say_why;
    catches(
        rule,
        "agent/src/a.rs",
        "#[test]\n#[ignore]\nfn f() {}\n",
        &[2],
    );
    passes(
        rule,
        "agent/src/a.rs",
        "#[test]\n#[ignore = \"needs a GPU\"]\nfn f() {}\n",
    );
}

#[test]
fn a_tab_or_a_trailing_blank_is_caught() {
    catches(text_is_clean, "docs/A.md", "a\tb\nc \nd", &[1, 2, 3]);
    passes(text_is_clean, "docs/A.md", "a b\n\nc\n");
}

#[test]
fn a_path_that_does_not_exist_is_caught() {
    let rule = guides_name_what_exists;
    let text = "`docs/STYLE.md`\n`docs/GONE.md`, `docs`, `docs/adr/NNNN.md`\n`gone.rs`\n";
    catches(rule, "docs/STYLE.md", text, &[2, 2, 3]);
    passes(rule, "docs/README.md", text);
    let text = "`docs/`, `docs/STYLE.md`, `docs/NNNN.md`, `docs/S*.md`, `/a/b`, `a/b c`\n";
    passes(rule, "docs/STYLE.md", text);
    passes(rule, "docs/STYLE.md", "```\n`gone.rs`\n```\n");
}

#[test]
fn the_lexer_sees_through_literals_and_comments() {
    let text = "/* a /* b */ c */ d('\\'', 'x', b\"\\\"e\", r##\"f\"#g\"##, 'life: loop {}) // h\n\"i\nj\" k";
    let source = Source::new("agent/src/a.rs", text);
    let words: Vec<_> = source
        .tokens
        .iter()
        .map(|token| token.text.as_str())
        .collect();
    assert_eq!(
        words,
        [
            "d", "(", "\"", ",", "\"", ",", "\"", ",", "\"", ",", "'", "life", ":", "loop", "{",
            "}", ")", "\"", "k"
        ]
    );
    assert_eq!(source.tokens.last().map(|token| token.line), Some(3));
}

#[test]
fn a_comment_without_a_noun_is_caught() {
    let rule = comments_name_their_nouns;
    catches(
        rule,
        "wire/src/a.rs",
        "/// For whoever asks.\nfn f() {}\n",
        &[1],
    );
    catches(
        rule,
        "agent/src/a.rs",
        "fn f() {\n    // Nobody waits.\n}\n",
        &[2],
    );
    passes(
        rule,
        "wire/src/a.rs",
        "const A: &str = \"http://nobody\";\n// The caller waits.\n",
    );
}

#[test]
fn an_upward_import_in_another_crate_is_caught() {
    let rule = imports_point_downwards;
    catches(rule, "wire/src/ids.rs", "use crate::frame::F;\n", &[1]);
    catches(rule, "token/src/pem.rs", "use super::key::Key;\n", &[1]);
    catches(
        rule,
        "hop/src/continue_wait.rs",
        "use crate::Progress;\n",
        &[1],
    );
    passes(
        rule,
        "hop/src/body.rs",
        "use crate::continue_wait::ContinueWait;\n",
    );
    catches(
        rule,
        "agent/src/transport/dial.rs",
        "use crate::link::Link;\n",
        &[1],
    );
    catches(
        rule,
        "tieline/src/outbound/tls.rs",
        "use crate::connect::Connect;\n",
        &[1],
    );
    passes(
        rule,
        "tieline/src/init/args.rs",
        "use crate::connect::DEFAULT_LISTEN;\n",
    );
}
