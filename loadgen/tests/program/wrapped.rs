//! Wrapped paths: TLS, WebSockets and QUIC between client and target.

use std::fs;

use serde_json::Value;

use crate::{loadgen, number, stderr};

/// The direct paths, in the order of a report.
const PATHS: [&str; 5] = [
    "direct",
    "direct-tls",
    "direct-ws",
    "direct-wss",
    "direct-quic",
];

#[test]
fn tls_websockets_and_quic_carry_every_load() {
    let folder = tempfile::tempdir().unwrap();
    let output = loadgen(&["bench", "--suite", "tls", "--name", "try", "--rounds", "2"])
        .args(["--out", folder.path().to_str().unwrap()])
        .args(["--duration", "100ms", "--warm-up", "20ms"])
        .args(["--path", &PATHS.join(",")])
        .arg("--scenario=4x256,2x200000,4x64@200,bulk-up-2,bulk-down-1,bulk-both-1,idle-20")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));

    let json = fs::read_to_string(folder.path().join("try.json")).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    let scenarios = json["scenarios"].as_array().unwrap();
    assert_eq!(scenarios.len(), 7);
    for scenario in scenarios {
        let paths = scenario["paths"].as_array().unwrap();
        let names: Vec<&Value> = paths.iter().map(|path| &path["path"]).collect();
        assert_eq!(names, PATHS);
        for path in paths {
            match scenario["scenario"]["kind"].as_str().unwrap() {
                "rtt" => assert!(number(&path["round_trips"]) > 0.0, "{path}"),
                "bulk" => assert!(number(&path["bulk_bytes"]) > 0.0, "{path}"),
                _ => {}
            }
        }
    }
    let document = fs::read_to_string(folder.path().join("try.md")).unwrap();
    for row in ["direct-wss, direct", "direct-quic, direct"] {
        assert!(document.contains(row), "{document}");
    }
}

#[test]
fn handshakes_are_counted_per_cpu_second_of_their_server() {
    let folder = tempfile::tempdir().unwrap();
    let output = loadgen(&["bench", "--suite", "tls", "--name", "try", "--rounds", "2"])
        .args(["--out", folder.path().to_str().unwrap()])
        .args(["--duration", "200ms", "--warm-up", "20ms"])
        .args(["--path", "direct,direct-tls"])
        .args(["--scenario", "handshakes-x25519-4,handshakes-resumed-12"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));

    let json = fs::read_to_string(folder.path().join("try.json")).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    for scenario in json["scenarios"].as_array().unwrap() {
        assert_eq!(scenario["left_out"][0]["path"], "direct");
        let paths = scenario["paths"].as_array().unwrap();
        let [path] = paths.as_slice() else {
            panic!("{scenario}");
        };
        assert_eq!(path["path"], "direct-tls");
        let per_second = number(&path["handshakes_per_cpu_s"]["median"]);
        assert!(per_second > 10.0, "{path}");
    }
}

#[test]
fn a_peer_that_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let output = loadgen(&["bench", "--suite", "tls", "--name", "try", "--rounds", "1"])
        .args(["--out", folder.path().to_str().unwrap()])
        .args(["--duration", "50ms", "--warm-up", "0s"])
        .args(["--known-peers", folder.path().to_str().unwrap()])
        .args(["--path", "direct", "--scenario", "1x256"])
        .env("PATH", folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let document = fs::read_to_string(folder.path().join("try.md")).unwrap();
    assert!(
        document.contains("wstunnel-wss-link left out: no wstunnel in"),
        "{document}"
    );
}
