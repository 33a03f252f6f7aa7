//! Sessions that come and go and end in every way leave no descriptor and no memory behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tieline_e2e::behaviour::{
    Child, ChildRelay, Digest, Metrics, SOON, Target, abort, half_close, noise, read_to_close, soon,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{MIB, alone, child};

const SESSIONS: usize = 10_000;
const AT_ONCE: usize = 64;

/// Number of sessions after which buffers and tables have reached their final size.
const WARM_UP_SESSIONS: usize = 1_000;

/// Largest growth of a process over all sessions: under 2 KiB per session, so that a leaked session
/// shows, with room for the allocator's own memory.
const GROWTH_BYTES_MAX: u64 = 16 * MIB;

/// Runs one session; its kind and its end depend on `number`.
async fn session(relay: &ChildRelay, number: usize) -> Result<()> {
    let message = noise(number as u64, 1 + number % 3000);
    match number % 8 {
        0..3 => {
            let mut caller = relay.raw("maya").await?;
            caller.write_all(&message).await?;
            half_close(&caller)?;
            let (echo, end) = read_to_close(&mut caller).await;
            end?;
            ensure!(echo == Digest::of(&message), "session {number}: {echo:?}");
        }
        3 => abort(exchange(relay, &message).await?)?,
        4 => drop(exchange(relay, &message).await?),
        // Closed with the echo unread or in flight.
        5 => {
            let mut caller = relay.raw("maya").await?;
            caller.write_all(&message).await?;
        }
        // Closed without a message, while the relay is still joining both ends.
        6 => drop(relay.raw("maya").await?),
        _ => {
            let mut caller = relay.http().await?;
            let close = if number % 16 == 7 {
                "Connection: close\r\n"
            } else {
                ""
            };
            caller
                .write(format!("GET /w/web/ HTTP/1.1\r\nHost: a\r\n{close}\r\n"))
                .await?;
            let (head, body) = caller.answer().await?;
            ensure!(head.status() == 200 && body.bytes == b"hello", "{head:?}");
        }
    }
    Ok(())
}

async fn exchange(relay: &ChildRelay, message: &[u8]) -> Result<TcpStream> {
    let mut caller = relay.raw("maya").await?;
    caller.write_all(message).await?;
    let mut echo = vec![0; message.len()];
    caller.read_exact(&mut echo).await?;
    ensure!(echo == message, "the echo differs");
    Ok(caller)
}

async fn run_sessions(relay: &Arc<ChildRelay>, count: usize) -> Result<()> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut sessions = JoinSet::new();
    for number in 0..count {
        let place = Arc::clone(&places).acquire_owned().await?;
        let relay = Arc::clone(relay);
        sessions.spawn(async move {
            let ended = soon("a session", session(&relay, number)).await;
            drop(place);
            ended?.with_context(|| format!("session {number}"))
        });
        while let Some(ended) = sessions.try_join_next() {
            ended??;
        }
    }
    while let Some(ended) = sessions.join_next().await {
        ended??;
    }
    Ok(())
}

/// Waits until `process` has at most `wanted` descriptors.
async fn descriptors_back_at(name: &str, process: &Child, wanted: usize) -> Result<()> {
    let deadline = Instant::now() + SOON;
    loop {
        let now = process.descriptors()?;
        if now <= wanted {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "the {name} had {wanted} descriptors before and now has {now}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until `/tunnels` lists no session. A session stays listed while a task still holds its handle,
/// which is a moment longer than the link knows it.
async fn no_session_listed(relay: &ChildRelay) -> Result<()> {
    let deadline = Instant::now() + SOON;
    loop {
        let rows = relay.tunnels().await?;
        if rows.iter().all(|row| row.session_count == 0) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "sessions are still listed: {rows:?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn leaves_nothing_behind(driver: &str, sessions: usize) -> Result<()> {
    let _alone = alone().await;
    let echo = Target::echo().await?;
    let http = Target::http_requests(|mut http, _| async move {
        http.respond("200 OK", "", b"hello").await?;
        Ok(http)
    })
    .await?;
    let relay = ChildRelay::start(child(), &["--shards", "2", "--driver", driver])?;
    let relay = Arc::new(relay);
    let at = relay.agent_url();
    let raw = Child::agent(child(), &at, &echo.to_string(), "maya")?;
    let web = Child::agent(child(), &at, &http.to_string(), "web")?;
    let processes = [
        ("relay", &relay.process),
        ("agent", &raw),
        ("web agent", &web),
    ];
    let settled = |metrics: &Metrics| {
        metrics.get("relay_sessions") == 0 && metrics.get("relay_frontends") == 0
    };

    // Baseline before the first session.
    relay.until("no session", settled).await?;
    let mut descriptors = Vec::new();
    for (_, process) in processes {
        descriptors.push(process.descriptors()?);
    }
    run_sessions(&relay, WARM_UP_SESSIONS).await?;
    relay.until("no session", settled).await?;
    let mut memory = Vec::new();
    for (_, process) in processes {
        memory.push(process.resident_bytes()?);
    }

    run_sessions(&relay, sessions).await?;

    let metrics = relay.until("no session", settled).await?;
    let total = metrics.get("relay_sessions_total");
    assert!(total > i64::try_from(sessions)? / 2, "{metrics}");
    assert_eq!(metrics.get("relay_links_total"), 2, "{metrics}");
    no_session_listed(&relay).await?;
    for ((name, process), wanted) in processes.into_iter().zip(descriptors) {
        descriptors_back_at(name, process, wanted).await?;
    }
    for ((name, process), before) in processes.into_iter().zip(memory) {
        let growth = process.resident_bytes()?.saturating_sub(before);
        println!(
            "{name}: {} KiB, grew by {} KiB",
            before / 1024,
            growth / 1024
        );
        assert!(
            growth <= GROWTH_BYTES_MAX,
            "the {name} grew by {} MiB",
            growth / MIB
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_short_sessions_leave_nothing_behind() -> Result<()> {
    leaves_nothing_behind("auto", SESSIONS).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_short_sessions_leave_nothing_behind_on_epoll() -> Result<()> {
    leaves_nothing_behind("epoll", 2_000).await
}
