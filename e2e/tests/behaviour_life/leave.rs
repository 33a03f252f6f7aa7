//! An agent that stops in order: calls in flight finish, and new calls wait for its successor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tempfile::TempDir;
use tieline_e2e::behaviour::{Target, TestAgent, TestRelay, soon};
use tokio::sync::Semaphore;

/// Much longer than an agent without calls takes to stop, and longer than the grace periods here.
const DRAIN: Duration = Duration::from_secs(60);

/// A target whose calls to `/slow` each wait for a permit.
async fn slow_target(permits: Arc<Semaphore>) -> Result<Target> {
    Target::http_requests(move |mut http, head| {
        let permits = Arc::clone(&permits);
        async move {
            if head.request().1.ends_with("/slow") {
                permits.acquire().await?.forget();
            }
            http.respond("200 OK", "", b"hello").await?;
            Ok(http)
        }
    })
    .await
}

fn relay() -> Result<TestRelay> {
    TestRelay::with()
        .shards(2)
        .config(|config| config.callers.offline_grace = Duration::from_secs(20))
        .start()
}

#[tokio::test]
async fn kept_connections_of_callers_do_not_hold_up_an_agent_that_stops() -> Result<()> {
    let relay = relay()?;
    let target = slow_target(Arc::new(Semaphore::new(0))).await?;
    let agent = TestAgent::of(&target)
        .named("maya")
        .config(|config| config.with_drain_timeout(DRAIN))
        .start(&relay)
        .await?;
    // Callers on both shards, so that some of their sessions cross.
    let mut callers = Vec::new();
    for _ in 0..8 {
        let mut caller = relay.http().await?;
        caller.get("/w/maya/").await?;
        let (head, _) = soon("an answer", caller.answer()).await??;
        ensure!(head.status() == 200, "{head:?}");
        callers.push(caller);
    }
    relay
        .until("the callers' sessions are kept", |it| {
            it.get("relay_sessions") == 8
        })
        .await?;
    let began = Instant::now();
    let outcome = agent.stop().await?;
    ensure!(outcome.is_ok(), "{outcome:?}");
    ensure!(began.elapsed() < DRAIN / 4, "{:?}", began.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_call_in_flight_is_answered_and_a_new_one_waits_for_the_successor() -> Result<()> {
    let relay = relay()?;
    let permits = Arc::new(Semaphore::new(0));
    let target = slow_target(Arc::clone(&permits)).await?;
    let home = TempDir::new()?;
    let agent = || {
        TestAgent::of(&target)
            .named("maya")
            .state_dir(home.path())
            .config(|config| config.with_drain_timeout(DRAIN))
    };
    let first = agent().start(&relay).await?;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut caller = relay.http().await?;
        caller.get("/w/maya/slow").await?;
        slow.push(caller);
    }
    relay
        .until("the calls are in flight", |it| {
            it.get("relay_sessions") == 4
        })
        .await?;
    let stopping = tokio::spawn(first.stop());
    relay
        .until("the tunnel is unregistered", |it| {
            it.get("relay_tunnels") == 0
        })
        .await?;
    let mut late = relay.http().await?;
    late.get("/w/maya/").await?;
    ensure!(
        !stopping.is_finished(),
        "the agent stopped while calls were in flight"
    );
    permits.add_permits(4);
    for caller in &mut slow {
        let (head, body) = soon("the slow answer", caller.answer()).await??;
        ensure!(head.status() == 200 && body.bytes == b"hello", "{head:?}");
    }
    let outcome = soon("the first agent's end", stopping).await???;
    ensure!(outcome.is_ok(), "{outcome:?}");
    let _second = agent().start(&relay).await?;
    // Also the callers that the first agent answered, on the same connections.
    slow.push(late);
    for (nth, caller) in slow.iter_mut().enumerate() {
        if nth < 4 {
            caller.get("/w/maya/").await?;
        }
        let (head, _) = soon("the successor's answer", caller.answer()).await??;
        ensure!(head.status() == 200, "{head:?}");
    }
    Ok(())
}
