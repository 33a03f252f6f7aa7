//! Runs the program as a user does, over real sockets and real processes.

// The helpers of these tests are not tests themselves, so the exemption for tests does not reach them.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use serde_json::Value;

const FAST: [&str; 6] = ["--rounds", "2", "--duration", "100ms", "--warm-up", "20ms"];

fn loadgen(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tieline-loadgen"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn rtt(arguments: &[&str]) -> Output {
    loadgen(&["rtt"])
        .args(FAST)
        .args(arguments)
        .output()
        .unwrap()
}

/// The report, if the run succeeded.
fn report(output: &Output) -> Value {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn path<'a>(report: &'a Value, name: &str) -> &'a Value {
    let paths = report["scenarios"][0]["paths"].as_array().unwrap();
    paths
        .iter()
        .find(|path| path["path"] == name)
        .unwrap_or_else(|| panic!("no {name}: {report}"))
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("not a number: {value}"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An echo target in a process of its own, ended at the end of the test.
struct Target {
    child: Child,
    address: SocketAddr,
}

impl Target {
    fn start() -> Self {
        let mut child = loadgen(&["target", "echo"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&line["event"], &line["kind"]),
            (&"listening".into(), &"echo".into())
        );
        Self {
            child,
            address: line["address"].as_str().unwrap().parse().unwrap(),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A relay as far as its preamble goes: forwards to `to` whoever asks for `tunnel`, through `change`.
fn relay_in_small(tunnel: &'static str, to: SocketAddr, change: fn(&mut [u8])) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for near in listener.incoming() {
            let mut near = near.unwrap();
            thread::spawn(move || {
                let mut length = [0; 2];
                near.read_exact(&mut length).unwrap();
                let mut name = vec![0; usize::from(u16::from_be_bytes(length))];
                near.read_exact(&mut name).unwrap();
                if name != tunnel.as_bytes() {
                    return;
                }
                near.set_nodelay(true).unwrap();
                let far = TcpStream::connect(to).unwrap();
                far.set_nodelay(true).unwrap();
                let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
                thread::spawn(move || pump(back.0, back.1, change));
                pump(near, far, |_| {});
            });
        }
    });
    address
}

fn pump(mut from: TcpStream, mut to: TcpStream, change: fn(&mut [u8])) {
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        change(&mut buffer[..len]);
        if to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn assert_is_plausible(path: &Value, process_count: usize) {
    assert!(number(&path["round_trips"]) >= 20.0, "{path}");
    assert_eq!(path["unanswered"], 0);
    assert_eq!(path["rounds"].as_array().unwrap().len(), 2);
    let quantiles = ["p50_us", "p90_us", "p99_us", "p999_us", "max_us"];
    let values = quantiles.map(|name| number(&path[name]["median"]));
    assert!(values[0] > 1.0 && values.is_sorted(), "{values:?}");
    assert_eq!(
        path["cpu_us"].as_object().unwrap().len(),
        process_count,
        "{path}"
    );
}

#[test]
fn direct_and_forwarder_carry_every_byte_in_a_closed_loop() {
    let report = report(&rtt(&["--connections", "8", "--json"]));
    assert_is_plausible(path(&report, "direct"), 2);
    assert_is_plausible(path(&report, "forwarder-tokio"), 4);
    let added = number(&path(&report, "forwarder-tokio")["to_direct"]["p50"]["median"]);
    assert!(added > 1.0, "two hops cost something: {added}");
    // Where io_uring is refused the run goes on without that forwarder and says so.
    let notes = report["notes"].to_string();
    if !notes.contains("io_uring") {
        assert_is_plausible(path(&report, "forwarder-tokio-uring"), 4);
    }
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let arguments = [
        "--connections",
        "4",
        "--rate",
        "2000",
        "--path",
        "direct,forwarder-tokio",
    ];
    let report = report(&rtt(
        &[&arguments[..], &["--threads", "2", "--json"]].concat()
    ));
    for name in ["direct", "forwarder-tokio"] {
        let path = path(&report, name);
        // 2,000/s in 2 rounds of 0.1 s: the schedule alone decides the number.
        let round_trips = number(&path["round_trips"]);
        assert!(
            (398.0..=402.0).contains(&round_trips),
            "{name}: {round_trips}"
        );
        assert!(path["send_delay_p99_us"]["median"].is_number());
    }
}

#[test]
fn messages_larger_than_any_buffer_come_back_whole() {
    let arguments = [
        "--size",
        "3000000",
        "--connections",
        "2",
        "--duration",
        "300ms",
    ];
    let output = loadgen(&["rtt", "--rounds", "1", "--json"])
        .args(arguments)
        .output()
        .unwrap();
    let report = report(&output);
    for name in ["direct", "forwarder-tokio"] {
        assert!(number(&path(&report, name)["round_trips"]) >= 2.0);
    }
}

#[test]
fn the_relay_path_sends_its_preamble() {
    let target = Target::start();
    let relay = relay_in_small("maya-1", target.address, |_| {}).to_string();
    let address = target.address.to_string();
    let (pid, target_pid) = (
        std::process::id().to_string(),
        target.child.id().to_string(),
    );
    let output = rtt(&[
        "--target",
        &address,
        "--target-pid",
        &target_pid,
        "--relay-tcp",
        &relay,
        "--tunnel",
        "maya-1",
        "--relay-pid",
        &pid,
        "--path",
        "direct,forwarder-tokio,relay",
        "--json",
    ]);
    let report = report(&output);
    let relay = path(&report, "relay");
    assert_is_plausible(relay, 3);
    assert_eq!(relay["to_forwarder"]["p50"]["to"], "forwarder-tokio");
}

#[test]
fn a_refused_tunnel_fails_and_names_path_and_cause() {
    let target = Target::start();
    let relay = relay_in_small("maya-1", target.address, |_| {}).to_string();
    let output = rtt(&[
        "--path",
        "relay",
        "--relay-tcp",
        &relay,
        "--tunnel",
        "houdini",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(
        error.contains("path relay") && error.contains("tunnel"),
        "{error}"
    );
}

#[test]
fn one_changed_byte_fails_the_run() {
    let target = Target::start();
    let flip = |bytes: &mut [u8]| bytes[bytes.len() - 1] ^= 1;
    let relay = relay_in_small("maya-1", target.address, flip).to_string();
    let output = rtt(&[
        "--path",
        "relay",
        "--relay-tcp",
        &relay,
        "--tunnel",
        "maya-1",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(
        error.contains("byte 255 of answer 0 is not the one that was sent"),
        "{error}"
    );
}

#[test]
fn nobody_listening_is_an_error_that_names_the_path() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let output = rtt(&["--path", "direct", "--target", &address]);
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(
        error.contains("path direct") && error.contains("cannot connect"),
        "{error}"
    );
}

#[test]
fn wrong_flags_exit_with_2() {
    for arguments in [
        &["--connections", "none"][..],
        &["--path", "relay"],
        &["--tunnel", "maya-1"],
        &["--rounds", "0"],
        &["--rate", "0"],
        &["--unknown"],
    ] {
        // Not `rtt`: a flag may be given once.
        let output = loadgen(&["rtt"]).args(arguments).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert!(stderr(&output).contains("error: "), "{arguments:?}");
    }
}

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
fn a_bench_writes_document_json_and_logs() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let output = loadgen(&["bench", "--path", "direct,forwarder-tokio", "--out", out])
        .args(["--name", "try", "--scenario", "2x64,2x64@500"])
        .args(FAST)
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
    ] {
        assert!(document.contains(word), "{word}: {document}");
    }
    let json: Value = serde_json::from_str(&read("try.json")).unwrap();
    assert_eq!(json["scenarios"].as_array().unwrap().len(), 2);
    let log = read("try.hlog");
    for scenario in ["2x64", "2x64@500"] {
        for path in ["direct", "forwarder-tokio"] {
            assert_eq!(
                log.matches(&format!("Tag={scenario}:{path},")).count(),
                1,
                "{log}"
            );
        }
    }
}
