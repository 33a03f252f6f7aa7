//! Many links whose agents have no tunnel: memory of the relay per link.

use anyhow::{Result, ensure};
use tieline_e2e::behaviour::{ChildRelay, WireAgent, WireKey, soon};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tieline_wire::limits::TABLE_BYTES_MAX;

use super::{alone, child, flags, growth, note, size};

/// Memory limit per link whose agent has only sent its hello, in KiB.
const SILENT_KIB_MAX: f64 = 24.0;

/// Memory limit per link whose agent sends unknown frames and an incomplete registration, in KiB. The buffer
/// of that frame may grow to 64 KiB.
const BABBLING_KIB_MAX: f64 = SILENT_KIB_MAX + 2.0 * 64.0;

/// Frame kinds: a registration, and a kind that no protocol version defines.
const REGISTER: u8 = 17;
const UNKNOWN: u8 = 99;

/// Flag of a frame that a receiver may skip.
const OPTIONAL: u8 = 0x80;

on_each_driver!(a_link_without_a_tunnel_costs_little_memory);

/// Header of a frame that concerns the link, not a session.
fn header(kind: u8, flags: u8) -> Vec<u8> {
    let mut header = TABLE_BYTES_MAX.to_le_bytes().to_vec();
    header.extend_from_slice(&[0, 0, 0, 0, kind, flags, 0, 0]);
    header
}

async fn a_link_without_a_tunnel_costs_little_memory(driver: DriverChoice) -> Result<()> {
    let flags = flags(driver);
    let _alone = alone().await;
    // Few enough to be set up before the deadline of the first tunnel, on any machine.
    let size = size()?.min(1_000);
    let relay = ChildRelay::start(child(), &flags)?;
    let before = relay.process.resident_bytes()?;
    let mut strangers = Vec::new();
    for _ in 0..size {
        strangers.push(WireAgent::dial(relay.agent_address(), &WireKey::new()?, 1).await?);
    }
    let links = async || -> Result<()> {
        while relay.metrics().await?.get("relay_links") < i64::try_from(size)? {
            tokio::task::yield_now().await;
        }
        Ok(())
    };
    soon("all links", links()).await??;
    let silent = growth(&relay.process, before, size)?;

    let payload = vec![0x5a; TABLE_BYTES_MAX as usize];
    let garbage = [header(UNKNOWN, OPTIONAL), payload.clone()]
        .concat()
        .repeat(4);
    for stranger in &mut strangers {
        stranger.write(&garbage).await?;
        stranger.write(&header(REGISTER, 0)).await?;
        stranger.write(&payload[1..]).await?;
    }
    // Each shard answers a metrics request after it has read the data that its sockets already had.
    links().await?;
    let babbling = growth(&relay.process, before, size)?;
    note(&format!(
        "{size} links without a tunnel, {silent:.1} KiB each while they are silent, {babbling:.1} KiB \
         each with an incomplete frame"
    ));
    ensure!(silent < SILENT_KIB_MAX, "{silent} KiB for a silent link");
    ensure!(
        babbling < BABBLING_KIB_MAX,
        "{babbling} KiB for an incomplete frame"
    );
    Ok(())
}
