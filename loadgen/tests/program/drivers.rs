//! The relay's drivers compared, with stand-in programs for relay and agent.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::reports::assert_is_well_formed;
use crate::stand_in::relay_and_agent;
use crate::{loadgen, path, stderr};

/// Runs a short bench; returns its report and the command lines of the relays that it started.
fn bench(folder: &Path, arguments: &[&str]) -> (Value, Vec<String>) {
    let (relay, agent) = relay_and_agent(folder);
    let output = loadgen(&["bench", "--scenario", "2x64"])
        .args(["--rounds", "2", "--duration", "60ms", "--warm-up", "10ms"])
        .args(["--relay-bin", &relay, "--agent-bin", &agent])
        .args(["--out", folder.to_str().unwrap(), "--json"])
        .args(arguments)
        // A setting of the user's own relay, which must not reach the stand-ins.
        .env("TIELINE_RELAY_DRIVER", "uring")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let started = fs::read_to_string(folder.join("started")).unwrap();
    (
        serde_json::from_slice(&output.stdout).unwrap(),
        started.lines().map(str::to_owned).collect(),
    )
}

#[test]
fn a_bench_runs_the_relay_on_its_default_driver_and_on_epoll() {
    let folder = tempfile::tempdir().unwrap();
    let (report, started) = bench(folder.path(), &[]);
    assert_eq!(started.len(), 2, "{started:?}");
    assert!(!started[0].contains("--driver"), "{started:?}");
    assert!(started[1].contains("--driver=epoll"), "{started:?}");
    // Proves that the environment variable did not reach the relays.
    assert!(started.iter().all(|line| line.ends_with("variable=.")));
    let epoll = path(&report, "relay-epoll");
    for ratios in ["to_relay", "to_direct", "to_forwarder"] {
        let p50 = &epoll[ratios]["p50_us"];
        assert!(p50["median"].is_number(), "{ratios}: {epoll}");
    }
    assert!(epoll["to_peer"].is_null() && epoll["hops_cpu"]["median"].is_number());
    let relay = path(&report, "relay");
    assert!(relay["to_relay"].is_null() && relay["to_peer"].is_null());
    assert_eq!(report["relays"][0]["changed"], Value::Array(Vec::new()));
    assert_eq!(report["relays"][1]["changed"][0], "--driver=epoll");

    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let (document, page) = (read("bench.md"), read("bench.html"));
    assert_is_well_formed(&page);
    for word in ["relay-epoll", "--driver auto (default)", "--driver=epoll"] {
        assert!(document.contains(word) && page.contains(word), "{word}");
    }
    assert!(page.contains("The same relay on its epoll driver"));
    assert!(read("bench.hlog").contains("Tag=2x64:relay-epoll,"));
}

#[test]
fn the_path_relay_alone_starts_the_default_driver_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (report, started) = bench(folder.path(), &["--path", "direct,relay"]);
    assert_eq!(started.len(), 1, "{started:?}");
    assert!(!started[0].contains("--driver"), "{started:?}");
    let paths = report["scenarios"][0]["paths"].as_array().unwrap();
    assert_eq!(paths.len(), 2, "{report}");
    let page = fs::read_to_string(folder.path().join("bench.html")).unwrap();
    assert!(!page.contains("epoll driver"));
}
