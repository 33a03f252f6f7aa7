//! Delay, loss and rate are those asked for.

use serde_json::Value;

use crate::{Fact, number, run, run_commands};

pub const FACTS: &[Fact] = &[
    (
        "a_delay_is_exact_to_half_a_millisecond",
        false,
        a_delay_is_exact,
    ),
    (
        "loss_is_within_its_confidence_interval_by_nftables",
        true,
        loss_by_nftables,
    ),
    (
        "loss_is_within_its_confidence_interval",
        false,
        loss_by_the_receiver,
    ),
    (
        "datagrams_arrive_at_the_rate_to_3_percent",
        false,
        datagrams_arrive_at_the_rate,
    ),
    (
        "300_mbit_of_tcp_pass_in_packets_of_1500_bytes",
        false,
        tcp_in_small_packets,
    ),
    (
        "1_gbit_of_tcp_passes_in_packets_of_9000_bytes",
        false,
        tcp_in_large_packets,
    ),
    (
        "tcp_over_ipv6_passes_at_the_rate",
        false,
        tcp_over_ipv6_passes,
    ),
];

fn a_delay_is_exact() {
    for delay_ms in [0.5, 10.0, 50.0, 150.0] {
        let ran = run(&format!("--delay {delay_ms}ms"), "ping 60", "echo");
        let mut trips: Vec<f64> = numbers(&ran.near);
        trips.sort_by(f64::total_cmp);
        let (least, median) = (trips[0] / 2e6, trips[trips.len() / 2] / 2e6);
        // Half of a round trip contains half of the work of both ends, too.
        assert!(
            least >= delay_ms && median - delay_ms < 0.5,
            "{delay_ms} ms: {least:.3} at least, {median:.3} ms in the middle; {}",
            ran.report
        );
    }
}

fn numbers(list: &Value) -> Vec<f64> {
    let list = list.as_array().unwrap();
    list.iter().map(number).collect()
}

/// Sends 20,000 datagrams over a path that loses 2 %; returns those sent and lost as `count` tells it.
fn lost(nft: u8, count: &str) -> (f64, f64) {
    let near = format!("flood 20000 200 {nft}");
    let ran = run(
        "--delay 5ms --loss 2% --seed 42",
        &near,
        &format!("sink {nft}"),
    );
    let way = &ran.report["near_to_far"];
    for dropped in ["queue_full", "unread", "refused"] {
        assert_eq!(way[dropped], 0, "{way}");
    }
    let sent = number(&ran.near["sent"]);
    let lost = sent - number(&ran.near["arrived"][count]);
    // Segments of the question about the count may be lost as well.
    let of_path = number(&way["lost"]);
    assert!((lost..lost + 20.0).contains(&of_path), "{way}");
    (sent, lost)
}

/// Fails unless `lost` of `sent` packets is within four standard deviations of a binomial distribution around 2 %, which
/// chance misses once in 15,000 seeds.
fn assert_likely(sent: f64, lost: f64) {
    let deviation = (sent * 0.02 * 0.98).sqrt();
    assert!(
        (lost - sent * 0.02).abs() <= 4.0 * deviation,
        "{lost} of {sent} were lost"
    );
}

fn loss_by_nftables() {
    let (sent, lost) = lost(1, "counted");
    assert!((sent - 20_000.0).abs() < f64::EPSILON, "{sent}");
    assert_likely(sent, lost);
}

fn loss_by_the_receiver() {
    let (sent, lost) = lost(0, "packets");
    assert_likely(sent, lost);
}

fn datagrams_arrive_at_the_rate() {
    // 236 Mbit/s are sent, in packets of 1500 bytes.
    let flags = "--delay 5ms --rate 100mbit --queue 64kib";
    let ran = run(flags, "flood 20000 1472 0", "sink 0");
    let arrived = &ran.near["arrived"];
    let bits = (number(&arrived["packets"]) - 1.0) * 1500.0 * 8.0;
    let mbit = bits / number(&arrived["ns"]) * 1e3;
    assert!(
        (mbit - 100.0).abs() <= 3.0,
        "{mbit:.2} Mbit/s; {}",
        ran.report
    );
    assert!(number(&ran.report["near_to_far"]["queue_full"]) > 1_000.0);
}

/// Downloads over TCP at `rate_mbit` with `mtu` and `flags`; returns the share of the rate that its packets, IP headers
/// included, make up.
fn tcp_share(rate_mbit: f64, mtu: f64, header_bytes: f64, flags: &str) -> (f64, Value) {
    let flags = format!("{flags} {RENO} --far-port 7000 --rate {rate_mbit}mbit --mtu {mtu}");
    let address = match flags.contains("--v6") {
        true => "[$EMULATED_FAR]:7000",
        false => "$EMULATED_FAR:7000",
    };
    let near = format!(
        "exec \"$LOADGEN\" bulk down --path direct --target \"{address}\" --rounds 1 --warm-up 1s --duration 3s --json"
    );
    let far = format!("exec \"$LOADGEN\" target any --listen \"{address}\" >/dev/null");
    let ran = run_commands(&flags, &near, &far);
    let mib = number(&ran.near["scenarios"][0]["paths"][0]["mib_per_s"]["median"]);
    let payload_mbit = mib * 1024.0 * 1024.0 * 8.0 / 1e6;
    let share = payload_mbit * mtu / (mtu - header_bytes) / rate_mbit;
    (share, ran.report)
}

/// Every namespace may choose this congestion control; others only if the machine's list of allowed ones has them.
const RENO: &str = "--sysctl net.ipv4.tcp_congestion_control=reno";

/// Headers of TCP with timestamps over IPv4 and over IPv6.
const V4_HEADERS: f64 = 52.0;
const V6_HEADERS: f64 = 72.0;

fn tcp_in_small_packets() {
    let (share, report) = tcp_share(300.0, 1500.0, V4_HEADERS, "--delay 5ms");
    assert!((0.95..=1.03).contains(&share), "{share:.3}; {report}");
}

fn tcp_in_large_packets() {
    let (share, report) = tcp_share(1000.0, 9000.0, V4_HEADERS, "--delay 5ms");
    assert!((0.95..=1.03).contains(&share), "{share:.3}; {report}");
}

fn tcp_over_ipv6_passes() {
    let (share, report) = tcp_share(100.0, 1500.0, V6_HEADERS, "--delay 5ms --v6");
    assert!((0.95..=1.03).contains(&share), "{share:.3}; {report}");
}
