//! Large numbers at once: links, names on one link, frontends, event streams, agents that reconnect together.
//!
//! `FANOUT=10000` sets the number (`just fanout`); the default is small enough for a run of seconds. Relay,
//! agents and target are separate processes, because each session needs two descriptors.
//! The tests run one at a time and print what they measured.

#[path = "behaviour_fanout/frontends.rs"]
mod frontends;
#[path = "behaviour_fanout/links.rs"]
mod links;
#[path = "behaviour_fanout/log.rs"]
mod log;
#[path = "behaviour_fanout/names.rs"]
mod names;
#[path = "behaviour_fanout/quic_links.rs"]
mod quic_links;
#[path = "behaviour_fanout/strangers.rs"]
mod strangers;
#[path = "behaviour_fanout/streams.rs"]
mod streams;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tieline_e2e::behaviour::{Child, ChildRelay, echo_round_trip, noise, within};
use tieline_relay::DriverChoice;
use tokio::net::TcpStream;
use tokio::sync::{Barrier, Mutex, MutexGuard, Semaphore};
use tokio::task::JoinSet;

/// Number of links, names or frontends, unless `FANOUT` is set.
const SIZE: usize = 400;

/// Frontends that connect concurrently.
const CONNECTING: usize = 256;

/// Size of a message in bytes: one read of a link receives several.
const MESSAGE_BYTES: usize = 700;

/// Waits until no other test of this file is running.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

fn child() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_child"))
}

/// Number of links, names or frontends.
fn size() -> Result<usize> {
    match std::env::var("FANOUT") {
        Ok(size) => size.parse().context("FANOUT must be a number"),
        Err(_) => Ok(SIZE),
    }
}

/// Time limit for an operation that is done `size` times.
fn limit(size: usize) -> Duration {
    Duration::from_secs(30) + Duration::from_millis(10) * u32::try_from(size).unwrap_or(u32::MAX)
}

/// Flags of a relay with two shards.
fn flags(driver: DriverChoice) -> [&'static str; 6] {
    let driver = match driver {
        DriverChoice::Epoll => "epoll",
        _ => "auto",
    };
    // Thousands of agents dial from one address at the same moment, so the rate limit per address is off.
    let any_number = "0";
    [
        "--shards",
        "2",
        "--driver",
        driver,
        "--limits-address-new-links",
        any_number,
    ]
}

/// Prints a measurement.
fn note(text: &str) {
    eprintln!("fanout: {text}");
}

/// Memory growth of a process per item, in KiB.
fn growth(process: &Child, before: u64, count: usize) -> Result<f64> {
    let grown = process.resident_bytes()?.saturating_sub(before);
    Ok(grown as f64 / 1024.0 / count as f64)
}

/// Opens a frontend to each of `tunnels`, then sends a message on all of them at the same moment and checks
/// the echoes. Returns the frontends, still open.
async fn burst(
    relay: &Arc<ChildRelay>,
    tunnels: impl ExactSizeIterator<Item = String>,
) -> Result<Vec<TcpStream>> {
    let count = tunnels.len();
    let (places, started) = (Arc::new(Semaphore::new(CONNECTING)), Instant::now());
    let connected = Arc::new(Barrier::new(count + 1));
    let mut frontends = JoinSet::new();
    for (number, tunnel) in tunnels.enumerate() {
        let (relay, places) = (Arc::clone(relay), Arc::clone(&places));
        let connected = Arc::clone(&connected);
        frontends.spawn(async move {
            let place = places.acquire().await?;
            let mut caller = relay.raw(&tunnel).await?;
            let met = echo_round_trip(&mut caller, tunnel.as_bytes()).await;
            met.with_context(|| format!("the first message to {tunnel}"))?;
            drop(place);
            connected.wait().await;
            let message = noise(number as u64, MESSAGE_BYTES);
            let answered = echo_round_trip(&mut caller, &message).await;
            answered.with_context(|| format!("the burst to {tunnel}"))?;
            anyhow::Ok(caller)
        });
    }
    // A frontend that fails ends the wait. A frontend that is already done is counted below.
    tokio::select! {
        biased;
        connected = within(limit(count), "all frontends", connected.wait()) => { connected?; }
        Some(ended) = frontends.join_next() => drop(ended??),
    }
    let open = started.elapsed();
    let metrics = relay.metrics().await?;
    ensure!(
        metrics.get("relay_frontends") == i64::try_from(count)?,
        "{metrics}"
    );
    let burst = Instant::now();
    let mut callers = Vec::new();
    while let Some(ended) = within(limit(count), "the echoes", frontends.join_next()).await? {
        callers.push(ended??);
    }
    note(&format!(
        "{count} frontends open in {open:.1?}, a burst over all of them in {:.0?}",
        burst.elapsed()
    ));
    let metrics = relay.metrics().await?;
    ensure!(metrics.get("relay_session_resets_total") == 0, "{metrics}");
    ensure!(
        metrics.get("relay_frontend_refused_total") == 0,
        "{metrics}"
    );
    ensure!(metrics.get("relay_crossings_total") == 0, "{metrics}");
    Ok(callers)
}
