//! Many links whose agents have no tunnel: what each costs the relay in memory.

use anyhow::{Result, ensure};
use tieline_e2e::behaviour::{ChildRelay, WireAgent, WireKey, soon};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tieline_wire::limits::TABLE_BYTES_MAX;

use super::{alone, child, flags, growth, note, size};

/// Most for a link whose agent has said who it is, and nothing else, in KiB.
const SILENT_KIB_MAX: f64 = 24.0;

/// Most for one whose agent sends frames that mean nothing, and half a registration: the frame as it
/// grows, which has 64 KiB at the most.
const BABBLING_KIB_MAX: f64 = SILENT_KIB_MAX + 2.0 * 64.0;

/// Kinds of frames: a registration, and one that no version knows.
const REGISTER: u8 = 17;
const UNKNOWN: u8 = 99;

/// Flag of a frame that may be skipped.
const OPTIONAL: u8 = 0x80;

on_each_driver!(a_link_without_a_tunnel_costs_little_memory);

/// The header of a frame about the link.
fn header(kind: u8, flags: u8) -> Vec<u8> {
    let mut header = TABLE_BYTES_MAX.to_le_bytes().to_vec();
    header.extend_from_slice(&[0, 0, 0, 0, kind, flags, 0, 0]);
    header
}

async fn a_link_without_a_tunnel_costs_little_memory(driver: DriverChoice) -> Result<()> {
    let flags = flags(driver);
    let _alone = alone().await;
    // Fewer than make the deadline of the first tunnel, on any machine.
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
    // Each shard has read what its sockets had when it was asked.
    links().await?;
    let babbling = growth(&relay.process, before, size)?;
    note(&format!(
        "{size} links without a tunnel, {silent:.1} KiB each while they say nothing, {babbling:.1} KiB \
         each with half a frame"
    ));
    ensure!(silent < SILENT_KIB_MAX, "{silent} KiB for a silent link");
    ensure!(
        babbling < BABBLING_KIB_MAX,
        "{babbling} KiB for half a frame"
    );
    Ok(())
}
