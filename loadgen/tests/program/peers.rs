//! Other programs as additional paths.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::thread;

use crate::{Target, loadgen, number, path, pump, relay_in_small, report, run, stderr};

#[test]
fn a_peer_with_a_preamble_is_one_more_path() {
    let target = Target::start("any");
    let address = target.address.to_string();
    let peer = relay_in_small("frp", target.address, |_| {}, |_| {});
    let by_hex = format!("hex-peer={peer},hex:0003667270");
    let by_text = format!("text-peer={peer},text:\\0\\x03frp");
    let pid = format!("hex-peer={}", std::process::id());
    for command in [&["rtt"][..], &["bulk", "both"]] {
        let output = run(
            command,
            &[
                "--target",
                &address,
                "--peer",
                &by_hex,
                "--peer",
                &by_text,
                "--peer-pid",
                &pid,
                "--path",
                "direct,forwarder-tokio",
                "--json",
            ],
        );
        let report = report(&output);
        let peer = path(&report, "hex-peer");
        assert!(number(&peer["cpu"]["near_hop"]["median"]) >= 0.0);
        assert!(peer["hops_cpu"]["median"].is_number() && peer["to_forwarder"].is_object());
        // Without --peer-pid, the process of this peer is unknown.
        let peer = path(&report, "text-peer");
        assert!(peer.get("hops_cpu").is_none() && peer["to_direct"].is_object());
    }
}

#[test]
fn the_relay_is_compared_with_the_best_peer() {
    let target = Target::start("any");
    let address = target.address.to_string();
    let relay = relay_in_small("maya-1", target.address, |_| {}, |_| {}).to_string();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = format!("plain={}", listener.local_addr().unwrap());
    let to = target.address;
    thread::spawn(move || {
        for near in listener.incoming() {
            let (near, far) = (near.unwrap(), TcpStream::connect(to).unwrap());
            let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
            thread::spawn(move || pump(back.0, back.1, |_| {}));
            thread::spawn(move || pump(near, far, |_| {}));
        }
    });
    let output = run(
        &["rtt"],
        &[
            "--target",
            &address,
            "--peer",
            &peer,
            "--path",
            "relay",
            "--relay-tcp",
            &relay,
            "--tunnel",
            "maya-1",
            "--json",
        ],
    );
    let report = report(&output);
    assert_eq!(path(&report, "relay")["to_peer"]["p50_us"]["to"], "plain");
}

#[test]
fn wrong_peers_exit_with_2_and_say_what_is_expected() {
    for (arguments, word) in [
        (&["--peer", "a=127.0.0.1:1"][..], "--target"),
        (
            &["--target", "127.0.0.1:1", "--peer", "a"],
            "NAME=HOST:PORT",
        ),
        (
            &["--target", "127.0.0.1:1", "--peer", "a=127.0.0.1:1,ff"],
            "text:... or hex:...",
        ),
        (&["--peer-pid", "a=1"], "--peer"),
    ] {
        let output = run(&["rtt"], arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let error = stderr(&output);
        assert!(error.contains(word), "{arguments:?}: {error}");
    }
}

#[test]
fn a_known_peer_that_cannot_be_started_is_left_out_with_a_note() {
    let folder = tempfile::tempdir().unwrap();
    let binaries = folder.path().join("bin");
    std::fs::create_dir(&binaries).unwrap();
    // This stand-in exits at once and never listens.
    let mut file = std::fs::File::create(binaries.join("rathole")).unwrap();
    file.write_all(b"#!/bin/sh\nexit 7\n").unwrap();
    drop(file);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(binaries.join("rathole"), mode).unwrap();
    let out = folder.path().to_str().unwrap();
    let output = loadgen(&["bench", "--path", "direct", "--scenario", "1x64"])
        .args(["--rounds", "1", "--duration", "50ms", "--out", out])
        .args(["--known-peers", out])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("rathole left out"), "{told}");
}
