//! Scenarios over HTTP: calls, first events and open streams, with stand-ins for relay and agent.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::reports::assert_is_well_formed;
use crate::stand_in::{relay_and_agent, relay_and_agent_with};
use crate::{Target, loadgen, number, stderr};

fn bench(folder: &Path, (relay, agent): (String, String), arguments: &[&str]) -> Output {
    loadgen(&["bench", "--name", "try", "--relay-bin", &relay])
        .args(["--agent-bin", &agent, "--out", folder.to_str().unwrap()])
        .args(["--duration", "100ms", "--warm-up", "20ms"])
        .args(arguments)
        .output()
        .unwrap()
}

fn path<'a>(report: &'a Value, scenario: usize, name: &str) -> &'a Value {
    let paths = report["scenarios"][scenario]["paths"].as_array().unwrap();
    let found = paths.iter().find(|path| path["path"] == name);
    found.unwrap_or_else(|| panic!("no {name}: {report}"))
}

#[test]
fn calls_events_and_streams_make_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let programs = relay_and_agent(folder.path());
    let scenarios = ["--scenario", "calls-1,calls-4,events-4@100,streams-150"];
    let paths = ["--path", "direct,forwarder-tokio,relay", "--rounds", "2"];
    let output = bench(
        folder.path(),
        programs,
        &[scenarios, [paths[0], paths[1]], [paths[2], paths[3]]].concat(),
    );
    assert!(output.status.success(), "{}", stderr(&output));

    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let json: Value = serde_json::from_str(&read("try.json")).unwrap();
    for name in ["direct", "forwarder-tokio", "relay"] {
        for scenario in 0..2 {
            let calls = path(&json, scenario, name);
            assert!(number(&calls["answers_per_s"]["median"]) > 50.0, "{calls}");
        }
        let events = path(&json, 2, name);
        assert_eq!(events["unanswered"], 0);
        assert!(
            (18.0..=22.0).contains(&number(&events["round_trips"])),
            "{events}"
        );
        // The second event comes 10 ms later and must not count. A noisy round may add as much, so it is skipped.
        let rounds = events["rounds"].as_array().unwrap();
        let quiet = rounds.iter().filter(|round| round["noisy"] == false);
        for round in quiet {
            assert!(number(&round["p50_us"]) < 9_000.0, "{round}");
        }
    }
    let relay = path(&json, 2, "relay");
    for metric in ["p50_us", "p99_us"] {
        assert!(relay["added"][metric]["median"].is_number(), "{relay}");
    }
    let forwarder = path(&json, 3, "forwarder-tokio");
    let kib = number(&forwarder["near_kib"]["median"]);
    assert!((0.01..64.0).contains(&kib), "{forwarder}");

    let document = read("try.md");
    for word in ["tools/call over HTTP", "p99 added µs", "open event streams"] {
        assert!(document.contains(word), "{word}: {document}");
    }
    let page = read("try.html");
    assert_is_well_formed(&page);
    for section in ["calls-1", "events-4@100", "streams-150"] {
        assert!(
            page.contains(&format!("<section id=\"{section}\">")),
            "{section}"
        );
    }
}

#[test]
fn one_changed_byte_of_an_answer_or_an_event_fails_the_run() {
    for scenario in ["calls-2", "events-2@100", "streams-20"] {
        let folder = tempfile::tempdir().unwrap();
        // Byte 330 lies beyond every head and within every first answer.
        let flip = |bytes: &mut [u8]| {
            if let Some(byte) = bytes.get_mut(330) {
                *byte ^= 1;
            }
        };
        let programs = relay_and_agent_with(folder.path(), flip);
        let arguments = ["--scenario", scenario, "--path", "relay", "--rounds", "1"];
        let output = bench(folder.path(), programs, &arguments);
        assert_eq!(output.status.code(), Some(1), "{scenario}");
        let error = stderr(&output);
        assert!(
            error.contains("is not the one that was sent"),
            "{scenario}: {error}"
        );
    }
}

#[test]
fn loads_that_need_different_targets_are_not_run_together() {
    let output = loadgen(&["bench", "--scenario", "calls-1,1x64"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("different target"));
}

#[test]
fn without_nginx_the_paths_over_it_are_left_out_with_a_note() {
    let folder = tempfile::tempdir().unwrap();
    let binaries = folder.path().join("bin");
    fs::create_dir(&binaries).unwrap();
    let broken = binaries.join("nginx");
    fs::write(&broken, "#!/bin/sh\nexit 7\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&broken, mode).unwrap();
    let out = folder.path().to_str().unwrap();
    let arguments = ["--scenario", "calls-1", "--path", "direct", "--rounds", "1"];
    let programs = ("unused".to_owned(), "unused".to_owned());
    let arguments = [&arguments[..], &["--known-peers", out]].concat();
    let output = bench(folder.path(), programs, &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("nginx-tokio left out"), "{told}");
}

/// Speaks HTTP over a plain socket, without the load generator's client.
#[test]
fn the_target_answers_calls_on_a_connection_that_is_kept() {
    let target = Target::start("http");
    let mut stream = TcpStream::connect(target.address).unwrap();
    for id in [5, 6] {
        let body = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/call\",\
             \"params\":{{\"name\":\"call\",\"arguments\":{{\"text\":\"some words\"}}}}}}"
        );
        let length = body.len();
        write!(
            stream,
            "POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut reader = BufReader::new(&stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut answer = vec![0; length];
        reader.read_exact(&mut answer).unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["id"], id);
        let text = answer["result"]["content"][0]["text"].as_str().unwrap();
        assert!(text.starts_with("some words"), "{text}");
    }
}
