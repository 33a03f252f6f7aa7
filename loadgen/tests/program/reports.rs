//! The `bench` command and the files it writes.

use serde_json::Value;

use crate::{FAST, loadgen, stderr};

#[test]
fn a_bench_without_its_relay_says_how_to_build_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let output = loadgen(&[
        "bench",
        "--relay-bin",
        "/nonexistent/tieline-relay",
        "--out",
        out,
    ])
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(
        error.contains("/nonexistent/tieline-relay") && error.contains("cargo build"),
        "{error}"
    );
}

#[test]
fn without_a_counter_the_way_to_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let output = loadgen(&["instructions", "--out", out])
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(
        error.contains("perf stat") && error.contains("apt-get install valgrind"),
        "{error}"
    );
}

#[test]
fn a_bench_writes_document_json_logs_and_page() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let scenarios =
        "2x64,1x64,4x64,2x64@500,bulk-up-1,connect-2,fanout-3x64,mixed-2x64@500,idle-20";
    let output = loadgen(&["bench", "--path", "direct,forwarder-tokio", "--out", out])
        .args(["--name", "try", "--scenario", scenarios])
        // A recipe's flag and the caller's override after it: the later value counts.
        .args(["--rounds", "9", "--rounds", "1"])
        .args(["--duration", "60ms", "--warm-up", "10ms"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let document = read("try.md");
    for word in [
        "p99.9",
        "machine",
        "kernel",
        "commit",
        "command",
        "forwarder-tokio",
        "seed",
        "try.html",
    ] {
        assert!(document.contains(word), "{word}: {document}");
    }
    let json: Value = serde_json::from_str(&read("try.json")).unwrap();
    assert_eq!(json["scenarios"].as_array().unwrap().len(), 9);
    assert_eq!(json["method"]["rounds"], 1);
    let log = read("try.hlog");
    for scenario in [
        "2x64",
        "2x64@500",
        "connect-2",
        "fanout-3x64",
        "mixed-2x64@500",
    ] {
        for path in ["direct", "forwarder-tokio"] {
            let tag = format!("Tag={scenario}:{path},");
            assert_eq!(log.matches(&tag).count(), 1, "{tag}: {log}");
        }
    }
    let page = read("try.html");
    assert_is_well_formed(&page);
    for word in [
        "direct",
        "forwarder-tokio",
        "Linux",
        "commit",
        "seed",
        "MiB/s",
        "Cost of a round trip by the number of connections",
        "Latency by percentile",
    ] {
        assert!(page.contains(word), "{word}");
    }
    for scenario in scenarios.split(',') {
        let section = format!("<section id=\"{scenario}\">");
        assert!(page.contains(&section), "{section}");
    }
    // The page is self-contained: it loads no external resources.
    for word in [
        "http:", "https:", "src=", "url(", "@import", "<script", "<link",
    ] {
        assert!(!page.contains(word), "{word}");
    }
}

/// Asserts that every element is closed in order and that every `&` starts an entity.
pub fn assert_is_well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page.strip_prefix("<!DOCTYPE html>").unwrap();
    while let Some((text, tail)) = rest.split_once('<') {
        assert!(
            !text.contains('>') || open.last() == Some(&"style"),
            "{text}"
        );
        for (at, _) in text.match_indices('&') {
            let entity = text[at..].split_once(';').unwrap().0;
            assert!(
                ["&amp", "&lt", "&gt", "&quot"].contains(&entity),
                "{entity}"
            );
        }
        let (tag, tail) = tail.split_once('>').unwrap();
        rest = tail;
        assert!(tag.matches('"').count().is_multiple_of(2), "<{tag}>");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().unwrap());
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn one_scenario_writes_a_page_and_a_log_where_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let output = loadgen(&[
        "mixed",
        "--path",
        "direct",
        "--connections",
        "2",
        "--rate",
        "500",
    ])
    .args(FAST)
    .args(["--html", &file("page.html"), "--log", &file("log.hlog")])
    .output()
    .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_is_well_formed(&std::fs::read_to_string(file("page.html")).unwrap());
    let log = std::fs::read_to_string(file("log.hlog")).unwrap();
    assert_eq!(log.matches("Tag=direct,").count(), 2, "{log}");
}

#[test]
fn an_unknown_scenario_or_flag_is_answered_with_what_there_is() {
    for (arguments, word) in [
        (&["bench", "--scenario", "pour-3"][..], "bulk-down-N"),
        (&["bench", "--sceario", "1x1"], "--scenario"),
        (&["bulk", "sideways"], "down"),
        (&["bench", "--name", "../x"], "--name"),
        (&["bench", "--tunnels", "0"], "--tunnels"),
        (&["scaling", "--sessions", "0"], "--sessions"),
        (&["scaling", "--only", "links"], "tunnels"),
        (&["target"], "any"),
    ] {
        let output = loadgen(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let error = stderr(&output);
        assert!(error.contains(word), "{arguments:?}: {error}");
    }
}
