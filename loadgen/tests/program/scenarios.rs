//! Each scenario with few connections, over paths that need no other program.

use serde_json::Value;

use crate::{Target, number, path, relay_in_small, report, run, stderr};

const PATHS: [&str; 3] = ["--path", "direct,forwarder-tokio", "--json"];

fn median(value: &Value) -> f64 {
    number(&value["median"])
}

#[test]
fn bulk_moves_and_checks_bytes_in_every_direction() {
    for (direction, connections, ways) in [
        ("up", "1", ["up_mib_per_s", "up_mib_per_s"]),
        ("down", "3", ["down_mib_per_s", "down_mib_per_s"]),
        ("both", "2", ["up_mib_per_s", "down_mib_per_s"]),
    ] {
        let arguments = [&PATHS[..], &["--connections", connections]].concat();
        let report = report(&run(&["bulk", direction], &arguments));
        assert_eq!(report["scenarios"][0]["cpu_unit"], "s per GiB");
        for name in ["direct", "forwarder-tokio"] {
            let path = path(&report, name);
            assert!(number(&path["bulk_bytes"]) > 1e6, "{path}");
            assert!(median(&path["mib_per_s"]) > 1.0, "{path}");
            for way in ways {
                assert!(median(&path[way]) > 0.5, "{direction}: {path}");
            }
        }
        assert!(path(&report, "forwarder-tokio")["to_direct"]["mib_per_s"]["median"].is_number());
    }
}

#[test]
fn one_changed_byte_fails_a_bulk_run_in_either_direction() {
    let target = Target::start("any");
    let address = target.address.to_string();
    // Byte 3000 of a read: requests are shorter, so only blocks are changed.
    let flip = |bytes: &mut [u8]| {
        if let Some(byte) = bytes.get_mut(3000) {
            *byte ^= 1;
        }
    };
    let up = relay_in_small("maya-1", target.address, flip, |_| {}).to_string();
    let down = relay_in_small("maya-1", target.address, |_| {}, flip).to_string();
    for (direction, relay) in [("up", up), ("down", down)] {
        let output = run(
            &["bulk", direction],
            &[
                "--path",
                "relay",
                "--target",
                &address,
                "--relay-tcp",
                &relay,
                "--tunnel",
                "maya-1",
            ],
        );
        assert_eq!(output.status.code(), Some(1), "{direction}");
        let error = stderr(&output);
        let expected = format!("of the bulk transfer {direction} is not the one that was sent");
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn bulk_to_a_plain_echo_server_says_what_is_missing() {
    let target = Target::start("echo");
    let address = target.address.to_string();
    let output = run(&["bulk", "up"], &["--path", "direct", "--target", &address]);
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(error.contains("target any"), "{error}");
}

#[test]
fn connect_counts_new_connections_with_their_answer() {
    let arguments = [&PATHS[..], &["--at-once", "4", "--threads", "2"]].concat();
    let report = report(&run(&["connect"], &arguments));
    for name in ["direct", "forwarder-tokio"] {
        let path = path(&report, name);
        assert!(median(&path["connections_per_s"]) > 100.0, "{path}");
        assert!(median(&path["p99_us"]) >= median(&path["p50_us"]));
        assert_eq!(path["unanswered"], 0);
    }
}

#[test]
fn a_wrong_answer_fails_a_run_of_new_connections() {
    let target = Target::start("any");
    let flip = |bytes: &mut [u8]| bytes[0] ^= 1;
    let relay = relay_in_small("maya-1", target.address, |_| {}, flip).to_string();
    let output = run(
        &["connect"],
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
    assert!(error.contains("byte 0 of answer 0"), "{error}");
}

#[test]
fn idle_tells_the_memory_of_each_hop_per_session() {
    let arguments = [&PATHS[..], &["--sessions", "200"]].concat();
    let report = report(&run(&["idle"], &arguments));
    let forwarder = path(&report, "forwarder-tokio");
    for name in ["near_kib", "far_kib", "hops_kib"] {
        // tokio needs some memory per socket pair, but much less than a buffer of 64 KiB.
        let kib = median(&forwarder[name]);
        assert!((0.01..64.0).contains(&kib), "{name}: {forwarder}");
    }
    assert!(path(&report, "direct").get("hops_kib").is_none());
}

#[test]
fn fanout_tells_when_the_last_answer_of_a_burst_came() {
    let arguments = [&PATHS[..], &["--connections", "50"]].concat();
    let report = report(&run(&["fanout"], &arguments));
    for name in ["direct", "forwarder-tokio"] {
        let path = path(&report, name);
        assert!(
            median(&path["last_p50_us"]) >= median(&path["p50_us"]),
            "{path}"
        );
        assert!(number(&path["round_trips"]) >= 100.0);
    }
}

#[test]
fn mixed_keeps_its_rate_beside_a_download() {
    let arguments = [&PATHS[..], &["--connections", "4", "--rate", "1000"]].concat();
    let report = report(&run(&["mixed"], &arguments));
    for name in ["direct", "forwarder-tokio"] {
        let path = path(&report, name);
        let round_trips = number(&path["round_trips"]);
        assert!((198.0..=202.0).contains(&round_trips), "{path}");
        assert!(median(&path["mib_per_s"]) > 1.0, "{path}");
        assert!(median(&path["p99_us"]) > 1.0, "{path}");
    }
}

#[test]
fn a_download_beside_messages_keeps_its_own_rate() {
    let load = [
        "--connections",
        "4",
        "--rate",
        "500",
        "--bulk-rate",
        "8mbit",
    ];
    let report = report(&run(&["mixed"], &[&PATHS[..], &load].concat()));
    for name in ["direct", "forwarder-tokio"] {
        let mib = median(&path(&report, name)["mib_per_s"]);
        let mbit = mib * 1024.0 * 1024.0 * 8.0 / 1e6;
        assert!((6.0..=10.0).contains(&mbit), "{name}: {mbit} Mbit/s");
    }
}

#[test]
fn connections_take_turns_over_several_tunnels() {
    let target = Target::start("any");
    let address = target.address.to_string();
    let relay = relay_in_small("maya-1", target.address, |_| {}, |_| {}).to_string();
    let run = |tunnels: &str| {
        run(
            &["fanout"],
            &[
                "--path",
                "relay",
                "--target",
                &address,
                "--relay-tcp",
                &relay,
                "--tunnel",
                tunnels,
                "--connections",
                "4",
                "--json",
            ],
        )
    };
    report(&run("maya-1,maya-1"));
    let output = run("maya-1,houdini");
    let error = stderr(&output);
    assert!(
        error.contains("connection") && error.contains("tunnel"),
        "{error}"
    );
}
