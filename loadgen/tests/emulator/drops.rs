//! What the path drops, answers and changes.

use crate::{Fact, number, run, run_commands};

pub const FACTS: &[Fact] = &[
    (
        "without_flags_datagrams_and_connections_pass",
        false,
        all_passes,
    ),
    (
        "drop_udp_leaves_tcp_alone",
        false,
        drop_udp_leaves_tcp_alone,
    ),
    ("ipv6_passes_and_its_udp_can_be_dropped", false, ipv6_passes),
    (
        "tcp_learns_a_smaller_path_mtu_from_the_answers",
        false,
        tcp_learns_the_mtu,
    ),
    (
        "without_icmp_a_clamped_segment_size_lets_tcp_pass",
        false,
        clamped_tcp_passes,
    ),
    (
        "tcp_survives_loss_and_reordering",
        false,
        tcp_survives_loss_and_reordering,
    ),
];

fn all_passes() {
    let ran = run("--delay 2ms", "probe", "echo");
    assert_eq!(
        (&ran.near["udp"], &ran.near["tcp"]),
        (&5.into(), &true.into())
    );
}

fn drop_udp_leaves_tcp_alone() {
    let ran = run("--delay 2ms --drop-udp", "probe", "echo");
    assert_eq!(
        (&ran.near["udp"], &ran.near["tcp"]),
        (&0.into(), &true.into())
    );
    assert_eq!(ran.report["near_to_far"]["udp_dropped"], 5);
}

fn ipv6_passes() {
    let ran = run("--v6 --delay 2ms", "probe", "echo");
    assert_eq!(
        (&ran.near["udp"], &ran.near["tcp"]),
        (&5.into(), &true.into())
    );
    let ran = run("--v6 --drop-udp", "probe", "echo");
    assert_eq!(
        (&ran.near["udp"], &ran.near["tcp"]),
        (&0.into(), &true.into())
    );
}

/// Uploads for a moment; every byte is checked at the far end.
const UPLOAD: &str = "exec \"$LOADGEN\" bulk up --path direct --target $EMULATED_FAR:7000 --rounds 1 \
                      --warm-up 100ms --duration 500ms --json";

const TARGET: &str = "exec \"$LOADGEN\" target any --listen $EMULATED_FAR:7000 >/dev/null";

fn tcp_learns_the_mtu() {
    let flags = "--delay 2ms --path-mtu 1250 --far-port 7000";
    let ran = run_commands(flags, UPLOAD, TARGET);
    let way = &ran.report["near_to_far"];
    // The first segments only.
    let too_big = number(&way["too_big"]);
    assert!((1.0..1_000.0).contains(&too_big), "{way}");
    assert!(number(&ran.near["scenarios"][0]["paths"][0]["bulk_bytes"]) > 1e6);
}

fn clamped_tcp_passes() {
    let flags = "--delay 2ms --path-mtu 1250 --drop-icmp --clamp-mss --far-port 7000";
    let ran = run_commands(flags, UPLOAD, TARGET);
    assert_eq!(ran.report["near_to_far"]["too_big"], 0);
    assert!(number(&ran.near["scenarios"][0]["paths"][0]["bulk_bytes"]) > 1e6);
}

fn tcp_survives_loss_and_reordering() {
    let flags = "--delay 2ms --loss 0.5% --reorder 1% --rate 100mbit --seed 3 --far-port 7000";
    let ran = run_commands(flags, UPLOAD, TARGET);
    let way = &ran.report["near_to_far"];
    assert!(number(&way["lost"]) > 0.0 && number(&way["held_back"]) > 0.0);
    assert_eq!(way["refused"], 0, "{way}");
    assert!(number(&ran.near["scenarios"][0]["paths"][0]["bulk_bytes"]) > 1e6);
}
