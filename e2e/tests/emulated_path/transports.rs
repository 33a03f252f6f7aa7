//! Which transport an agent is registered over, and how soon, where the path drops UDP or large packets.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::Fact;
use crate::near::{Near, ms};

/// Time in which an agent is registered whatever the path drops, besides two round trips.
const REGISTERED_MS: u32 = 2_000;

/// Bytes that are echoed, to see that large packets pass.
const ECHOED: usize = 1024 * 1024;

pub(crate) fn facts() -> Vec<Fact> {
    let fact = |name: &str, round_trip_ms: u32, flags: &str, scheme: &str, transport: &str| {
        let delay_ms = f64::from(round_trip_ms) / 2.0;
        let limit_ms = REGISTERED_MS + 2 * round_trip_ms;
        Fact::new(
            name,
            format!("--delay {delay_ms}ms {flags}"),
            format!("registers {scheme} {limit_ms} {transport}"),
        )
    };
    // Where ICMP is dropped, TCP learns a smaller packet size from routers that lower it at the start, as those with a
    // small one do.
    let narrow = |mtu: u16| format!("--path-mtu {mtu} --drop-icmp --clamp-mss");
    // QUIC needs 1200 bytes of payload, so 1228 in all.
    vec![
        fact("https_takes_quic", 100, "", "https", "quic"),
        fact("https_takes_quic_over_ipv6", 100, "--v6", "https", "quic"),
        fact(
            "without_udp_https_is_registered_within_2_s_and_2_round_trips_of_100_ms",
            100,
            "--drop-udp",
            "https",
            "wss",
        ),
        fact(
            "without_udp_https_is_registered_within_2_s_and_2_round_trips_of_300_ms",
            300,
            "--drop-udp",
            "https",
            "wss",
        ),
        fact(
            "a_path_too_narrow_for_quic_has_wss_in_time",
            100,
            &narrow(1_200),
            "https",
            "wss",
        ),
        fact(
            "https_is_registered_in_time_at_a_path_mtu_of_1250",
            100,
            &narrow(1_250),
            "https",
            "any",
        ),
        fact(
            "wss_is_registered_in_time_at_a_path_mtu_of_1250",
            100,
            &narrow(1_250),
            "wss",
            "wss",
        ),
        fact(
            "quic_works_at_a_path_mtu_of_1300",
            100,
            "--path-mtu 1300 --drop-icmp",
            "https",
            "quic",
        ),
    ]
}

/// Starts an agent and checks that it is registered within `limit_ms` over `transport`, and that its tunnel works.
pub(crate) async fn registers(scheme: &str, limit_ms: u64, transport: &str) -> Result<()> {
    let mut near = Near::start(&[])?;
    let took = near.agent(scheme)?;
    let paths = near.paths().await?;
    let first = paths.first().context("no link")?;
    println!(
        "{scheme}: registered over {} after {:.0} of {limit_ms} ms",
        first.transport,
        ms(took)
    );
    ensure!(took <= Duration::from_millis(limit_ms), "{took:?}");
    ensure!(
        transport == "any" || first.transport == transport,
        "{first:?} instead of {transport}"
    );
    let echo = near.echo(ECHOED).await?;
    let paths = near.paths().await?;
    let mtu = paths.first().and_then(|path| path.mtu);
    println!(
        "1 MiB there and back in {:.0} ms; datagrams of QUIC: {mtu:?}",
        ms(echo)
    );
    Ok(())
}
