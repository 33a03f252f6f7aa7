//! Many agents, each with its own key, link and tunnel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tieline_e2e::behaviour::{Child, ChildRelay, echo_round_trip};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, sleep_until};

use super::{MESSAGE_BYTES, alone, burst, child, flags, growth, limit, note, size};

/// Agents that are restarted at the same moment.
const RETURNING: usize = 200;

/// Callers that are active while `/tunnels` is read.
const ACTIVE: usize = 2_000;

/// Pause between two messages of a caller: 10,000 round trips per second use most of two cores for
/// callers, relay, agents and target together.
const PAUSE: Duration = Duration::from_millis(200);

/// Most reads of `/tunnels`; a pause follows each of them.
const READS_MAX: usize = 300;
const READ_PAUSE: Duration = Duration::from_millis(10);

/// Limit for the 99th percentile of the time to the first byte of `/tunnels`, on an otherwise idle machine.
const FIRST_BYTE_MAX: Duration = Duration::from_millis(50);

on_each_driver!(thousands_of_agents_link_up_serve_and_come_back_without_an_error);

async fn thousands_of_agents_link_up_serve_and_come_back_without_an_error(
    driver: DriverChoice,
) -> Result<()> {
    let flags = flags(driver);
    let _alone = alone().await;
    let size = size()?;
    let (_target, address) = Child::echo(child())?;
    let relay = Arc::new(ChildRelay::start(child(), &flags)?);
    let before = relay.process.resident_bytes()?;
    let (url, to) = (relay.agent_url(), address.to_string());
    let (fleet, up) = Child::fleet(child(), &url, None, &to, size, limit(size))?;
    note(&format!(
        "{size} links with a tunnel each up in {} ms, {:.1} KiB each in the relay, {:.1} KiB in \
         the agents' process",
        up.ms,
        growth(&relay.process, before, size)?,
        growth(&fleet, 0, size)?,
    ));
    ensure!((up.agents, up.disconnects) == (size, 0), "{up:?}");
    all_there(&relay, size).await?;

    // At most nine tenths of the links get a session: relay and agents need a descriptor for each link and session.
    let tunnels = (0..size * 9 / 10).map(|number| format!("fleet-{number:05}"));
    let mut callers = burst(&relay, tunnels).await?;
    let rows = relay.tunnels().await?;
    let sessions: usize = rows.iter().map(|row| row.session_count).sum();
    ensure!(sessions == callers.len(), "{sessions}");
    callers.truncate(ACTIVE);
    let first_byte = list_beside(&mut callers, PAUSE, &relay).await?;
    // Without FANOUT, other tests may run on this machine.
    if std::env::var_os("FANOUT").is_some() {
        ensure!(first_byte <= FIRST_BYTE_MAX, "{first_byte:?}");
    }
    // Measured again at full load.
    list_beside(&mut callers, Duration::ZERO, &relay).await?;
    drop(callers);

    let returning = RETURNING.min(size / 2);
    fleet.restart_agents(returning)?;
    let up = fleet.up_again(1, limit(size))?;
    note(&format!(
        "{returning} agents that came back at once up again in {} ms",
        up.ms
    ));
    ensure!((up.agents, up.disconnects) == (size, 0), "{up:?}");
    all_there(&relay, size).await?;

    let relay = Arc::into_inner(relay).context("a task still holds the relay")?;
    let relay = relay.restart(child(), &flags)?;
    let up = fleet.up_again(2, limit(size) + Duration::from_secs(60))?;
    note(&format!(
        "{size} agents up again {} ms after their relay was killed, with {} attempts that failed",
        up.ms,
        up.disconnects - size,
    ));
    all_there(&relay, size).await
}

/// Checks that every agent has its link and its tunnel, and that there are no other links.
pub(super) async fn all_there(relay: &ChildRelay, size: usize) -> Result<()> {
    let count = i64::try_from(size)?;
    let metrics = relay
        .until("all links", |metrics| {
            metrics.get("relay_links") == count && metrics.get("relay_tunnels") == count
        })
        .await?;
    ensure!(metrics.get("relay_link_refused_total") == 0, "{metrics}");
    ensure!(
        metrics.get("relay_registration_refused_total") == 0,
        "{metrics}"
    );
    let stale = metrics.labelled("relay_link_evictions_total", "stale");
    ensure!(stale == 0, "{metrics}");
    let rows = relay.tunnels().await?;
    ensure!(rows.len() == size && rows.is_sorted_by(|a, b| a.tunnel_id < b.tunnel_id));
    ensure!(rows.iter().all(|row| row.links == 1));
    Ok(())
}

/// Reads `/tunnels` repeatedly while each of `callers` sends a message every `pause`. Returns the 99th
/// percentile of the time to the first byte.
async fn list_beside(
    callers: &mut Vec<TcpStream>,
    pause: Duration,
    relay: &Arc<ChildRelay>,
) -> Result<Duration> {
    let (active, stop) = (callers.len(), Arc::new(AtomicBool::new(false)));
    let trips = Arc::new(AtomicUsize::new(0));
    let mut talking = JoinSet::new();
    for (number, mut caller) in (0..).zip(callers.drain(..)) {
        let (stop, trips) = (Arc::clone(&stop), Arc::clone(&trips));
        talking.spawn(async move {
            let message = vec![7; MESSAGE_BYTES];
            // Spread over `pause`, not all at the same moment.
            let mut due = Instant::now() + pause * number / u32::try_from(active)?;
            while !stop.load(Ordering::Relaxed) {
                sleep_until(due.into()).await;
                echo_round_trip(&mut caller, &message).await?;
                trips.fetch_add(1, Ordering::Relaxed);
                due += pause;
            }
            anyhow::Ok(caller)
        });
    }
    let (started, reader) = (Instant::now(), Arc::clone(relay));
    let (mut firsts, mut lasts) = (Vec::new(), Vec::new());
    for _ in 0..READS_MAX.min(active / 6) {
        let reader = Arc::clone(&reader);
        // On a separate thread, so that the callers' tasks do not delay the measurement.
        let (first, last) = spawn_blocking(move || reader.time_tunnels()).await??;
        firsts.push(first);
        lasts.push(last);
        sleep(READ_PAUSE).await;
    }
    let rate = trips.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = talking.join_next().await {
        callers.push(ended??);
    }
    firsts.sort_unstable();
    lasts.sort_unstable();
    let at = |times: &[Duration], percent: usize| times[times.len() * percent / 100];
    note(&format!(
        "/tunnels beside {active} frontends with {rate:.0} round trips/s: first byte p50 {:.1?} \
         p99 {:.1?}, whole page p50 {:.1?} p99 {:.1?}",
        at(&firsts, 50),
        at(&firsts, 99),
        at(&lasts, 50),
        at(&lasts, 99),
    ));
    Ok(at(&firsts, 99))
}
