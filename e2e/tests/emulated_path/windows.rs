//! Windows over real sockets: bulk through relay and agent fills a path of 200 Mbit/s with round trips of 1, 20, 100 and
//! 300 ms.

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

/// Share of the rate that the payload must reach. The headers of TCP and IP alone take 3.5 %.
const SHARE_MIN: f64 = 0.9;

pub(crate) fn facts() -> Vec<Fact> {
    let fact = |round_trip_ms: u32, direction: &str, carrier: &str| {
        // The delay is that of one direction.
        let delay_ms = f64::from(round_trip_ms) / 2.0;
        let control = congestion_control();
        Fact::new(
            format!("bulk_{direction}_on_a_{carrier}_fills_a_path_of_{round_trip_ms}_ms"),
            format!("--delay {delay_ms}ms --rate {RATE_MBIT}mbit --queue 1bdp{control}"),
            format!("bulk {direction} {carrier}"),
        )
    };
    let times = [1, 20, 100, 300].into_iter();
    let on_links = times.flat_map(|time| ["down", "up"].map(|way| fact(time, way, "link")));
    on_links.chain([fact(300, "down", "lane")]).collect()
}

/// BBR where the kernel has it. CUBIC leaves slow start early on a long path and then needs longer than this test to fill
/// it, whatever our windows are.
fn congestion_control() -> &'static str {
    let available = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
    match available.is_ok_and(|names| names.split_ascii_whitespace().any(|name| name == "bbr")) {
        true => " --sysctl net.ipv4.tcp_congestion_control=bbr",
        false => "",
    }
}

/// Moves bulk in `direction` (`down` is from the agent to the relay), on the link or on a lane, whose windows are the
/// kernel's.
pub(crate) fn fills(direction: &str, carrier: &str) -> Result<()> {
    let no_lanes: &[&str] = match carrier {
        "lane" => &[],
        _ => &["--bulk-run-bytes=0"],
    };
    let mut near = Near::start(no_lanes)?;
    near.agent("tcp")?;
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
    println!("bulk {direction} on a {carrier}: {mbit:.1} of {RATE_MBIT} Mbit/s");
    ensure!(
        mbit >= RATE_MBIT * SHARE_MIN,
        "{mbit:.1} of {RATE_MBIT} Mbit/s"
    );
    Ok(())
}
