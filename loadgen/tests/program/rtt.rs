//! Round trips over direct and relayed paths, and their errors.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;

use crate::{Target, loadgen, number, path, relay_in_small, report, run, stderr};

fn assert_is_plausible(path: &Value, process_count: usize) {
    assert!(number(&path["round_trips"]) >= 20.0, "{path}");
    assert_eq!(path["unanswered"], 0);
    assert_eq!(path["rounds"].as_array().unwrap().len(), 2);
    let quantiles = ["p50_us", "p90_us", "p99_us", "p999_us", "max_us"];
    let values = quantiles.map(|name| number(&path[name]["median"]));
    assert!(values[0] > 1.0 && values.is_sorted(), "{values:?}");
    assert_eq!(
        path["cpu"].as_object().unwrap().len(),
        process_count,
        "{path}"
    );
}

#[test]
fn direct_and_forwarder_carry_every_byte_in_a_closed_loop() {
    let report = report(&run(&["rtt"], &["--connections", "8", "--json"]));
    assert_is_plausible(path(&report, "direct"), 2);
    assert_is_plausible(path(&report, "forwarder-tokio"), 4);
    let added = number(&path(&report, "forwarder-tokio")["to_direct"]["p50_us"]["median"]);
    assert!(added > 1.0, "two hops cost something: {added}");
    // If io_uring is refused, the run leaves out that forwarder and adds a note.
    let notes = report["notes"].to_string();
    if !notes.contains("io_uring") {
        assert_is_plausible(path(&report, "forwarder-tokio-uring"), 4);
    }
}

#[test]
fn the_forwarder_on_monoio_carries_every_byte_where_io_uring_is_allowed() {
    let paths = ["--path", "direct,forwarder-monoio", "--json"];
    let report = report(&run(&["rtt"], &[&["-c", "8"][..], &paths].concat()));
    assert_is_plausible(path(&report, "direct"), 2);
    let notes = report["notes"].to_string();
    if notes.contains("io_uring is refused") {
        eprintln!("ignored: {notes}");
        return;
    }
    let monoio = path(&report, "forwarder-monoio");
    assert_is_plausible(monoio, 4);
    let added = number(&monoio["to_direct"]["p50_us"]["median"]);
    assert!(added > 1.0, "two hops cost something: {added}");
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
    let report = report(&run(
        &["rtt"],
        &[&arguments[..], &["--threads", "2", "--json"]].concat(),
    ));
    for name in ["direct", "forwarder-tokio"] {
        let path = path(&report, name);
        // 2,000/s in 2 rounds of 0.1 s: the number of requests depends on the schedule alone.
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
    let target = Target::start("echo");
    let relay = relay_in_small("maya-1", target.address, |_| {}, |_| {}).to_string();
    let address = target.address.to_string();
    let (pid, target_pid) = (
        std::process::id().to_string(),
        target.child.id().to_string(),
    );
    let output = run(
        &["rtt"],
        &[
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
        ],
    );
    let report = report(&output);
    let relay = path(&report, "relay");
    assert_is_plausible(relay, 3);
    assert_eq!(relay["to_forwarder"]["p50_us"]["to"], "forwarder-tokio");
}

#[test]
fn a_refused_tunnel_fails_and_names_path_and_cause() {
    let target = Target::start("echo");
    let relay = relay_in_small("maya-1", target.address, |_| {}, |_| {}).to_string();
    let output = run(
        &["rtt"],
        &[
            "--path",
            "relay",
            "--relay-tcp",
            &relay,
            "--tunnel",
            "houdini",
        ],
    );
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(
        error.contains("path relay") && error.contains("tunnel"),
        "{error}"
    );
}

#[test]
fn one_changed_byte_fails_the_run() {
    let target = Target::start("echo");
    let flip = |bytes: &mut [u8]| bytes[bytes.len() - 1] ^= 1;
    let relay = relay_in_small("maya-1", target.address, |_| {}, flip).to_string();
    let output = run(
        &["rtt"],
        &[
            "--path",
            "relay",
            "--relay-tcp",
            &relay,
            "--tunnel",
            "maya-1",
        ],
    );
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
    let output = run(&["rtt"], &["--path", "direct", "--target", &address]);
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(
        error.contains("path direct") && error.contains("cannot connect"),
        "{error}"
    );
}

#[test]
fn a_round_beside_a_busy_process_is_run_again_and_marked() {
    let stop = Arc::new(AtomicBool::new(false));
    let cores = thread::available_parallelism().unwrap().get();
    let busy: Vec<_> = (0..cores)
        .map(|_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || while !stop.load(Ordering::Relaxed) {})
        })
        .collect();
    let arguments = ["--path", "direct", "--repeat-noisy", "1", "--json"];
    let output = run(&["rtt"], &arguments);
    stop.store(true, Ordering::Relaxed);
    busy.into_iter().for_each(|thread| thread.join().unwrap());
    let report = report(&output);
    assert_eq!(report["scenarios"][0]["repeated"], 1);
    let rounds = path(&report, "direct")["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2);
    for round in rounds {
        assert!(number(&round["others_share"]) > 0.1 && round["noisy"] == true);
    }
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
        // Not through `run`, which sets some of these flags already, and a flag may be given only once.
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
