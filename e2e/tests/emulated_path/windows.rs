//! Windows over real sockets: bulk through relay and agent fills a path of 200 Mbit/s with round trips of 1, 20, 100 and
//! 300 ms over TCP, and with 100 ms over the other transports, since QUIC's windows are made for no more.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tieline_e2e::process::Process;

use crate::Fact;
use crate::near::{LOADGEN, Near, TUNNEL, variable};

/// Time limit of a transfer, which is measured for 5 s after the first 5 s.
const TRANSFER_LIMIT: Duration = Duration::from_secs(60);

/// Rate of the path.
const RATE_MBIT: f64 = 200.0;

/// Share of the rate that the payload must reach. The headers of TCP and IP alone take 3.5 %, those of QUIC, UDP and IP
/// 4.5 % with datagrams of 1452 bytes.
const SHARE_MIN: f64 = 0.9;

pub(crate) fn facts() -> Vec<Fact> {
    let control = match has_bbr() {
        true => " --sysctl net.ipv4.tcp_congestion_control=bbr",
        false => "",
    };
    let fact = |round_trip_ms: u32, direction: &str, scheme: &str, carrier: &str| {
        // The delay is that of one direction.
        let delay_ms = f64::from(round_trip_ms) / 2.0;
        let carried = match scheme {
            "tcp" => format!("on_a_{carrier}"),
            _ => format!("over_{scheme}"),
        };
        Fact::new(
            format!("bulk_{direction}_{carried}_fills_a_path_of_{round_trip_ms}_ms"),
            format!("--delay {delay_ms}ms --rate {RATE_MBIT}mbit --queue 1bdp{control}"),
            format!("bulk {direction} {scheme} {carrier}"),
        )
    };
    let both_ways = |time, scheme| ["down", "up"].map(|way| fact(time, way, scheme, "link"));
    let times = [1, 20, 100, 300].into_iter();
    let over_tcp = times.flat_map(|time| both_ways(time, "tcp"));
    let over_others = ["tls", "wss", "quic"].into_iter();
    let over_others = over_others.flat_map(|scheme| both_ways(100, scheme));
    let on_lane = [fact(300, "down", "tcp", "lane")];
    over_tcp.chain(over_others).chain(on_lane).collect()
}

/// Whether the kernel has BBR, which TCP then uses. The kernel's CUBIC leaves slow start early on a long path and then
/// needs longer than this test to fill it, whatever our windows are. QUIC has the CUBIC of `quinn-proto`, as users have.
fn has_bbr() -> bool {
    let available = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
    available.is_ok_and(|names| names.split_ascii_whitespace().any(|name| name == "bbr"))
}

/// Moves bulk in `direction` (`down` is from the agent to the relay), on a link that the agent dials with `scheme` or on a
/// lane beside it, whose windows are the kernel's.
pub(crate) fn fills(direction: &str, scheme: &str, carrier: &str) -> Result<()> {
    let no_lanes: &[&str] = match carrier {
        "lane" => &[],
        _ => &["--bulk-run-bytes=0"],
    };
    let mut near = Near::start(no_lanes)?;
    near.agent(scheme)?;
    let mut command = Command::new(variable(LOADGEN)?);
    command
        .args(["bulk", direction, "--path", "relay", "--tunnel", TUNNEL])
        .args(["--relay-tcp", &near.relay.addresses.tcp.to_string()])
        .args(["--rounds", "1", "--warm-up", "5s", "--duration", "5s"])
        .arg("--json");
    let printed = Process::spawn("tieline-loadgen", &mut command)?.finish(TRANSFER_LIMIT)?;
    let report: Value = serde_json::from_str(&printed).with_context(|| printed.clone())?;
    let mib = &report["scenarios"][0]["paths"][0]["mib_per_s"]["median"];
    let mib = mib.as_f64().context("no rate in the report")?;
    let mbit = mib * 1024.0 * 1024.0 * 8.0 / 1e6;
    println!("bulk {direction} on a {carrier} over {scheme}: {mbit:.1} of {RATE_MBIT} Mbit/s");
    ensure!(
        mbit >= RATE_MBIT * SHARE_MIN,
        "{mbit:.1} of {RATE_MBIT} Mbit/s"
    );
    Ok(())
}
