//! Requests and connections that reach a relay just as it starts to drain.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use tieline_e2e::behaviour::{
    Addresses, HttpStream, RelayProgram, SOON, Target, TestAgent, TestRelay, echo_round_trip, soon,
};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Time for which a relay that stops keeps an idle connection: `DRAIN_GRACE` of the relay's HTTP front.
const DRAIN_GRACE: Duration = Duration::from_millis(250);

/// Callers that connect while a relay stops.
const CALLERS: usize = 150;

fn relay_of_two_shards() -> Result<TestRelay> {
    TestRelay::with()
        .shards(2)
        .config(|config| config.drain_timeout = Duration::from_secs(60))
        .start()
}

/// Waits until no shard of the relay listens on `port`, which means that all shards are draining.
async fn until_free(port: SocketAddr) -> Result<()> {
    let began = Instant::now();
    while let Err(error) = TcpListener::bind(port) {
        ensure!(began.elapsed() < SOON, "{port}: {error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// A target that answers each request once it has acquired a permit.
async fn gated_target() -> Result<(Target, Arc<Semaphore>)> {
    let gate = Arc::new(Semaphore::new(0));
    let permits = Arc::clone(&gate);
    let target = Target::http_requests(move |mut http, _| {
        let permits = Arc::clone(&permits);
        async move {
            permits.acquire().await?.forget();
            http.respond("200 OK", "", b"hello").await?;
            Ok(http)
        }
    })
    .await?;
    Ok((target, gate))
}

async fn hello_target() -> Result<Target> {
    Target::http_requests(|mut http, _| async move {
        http.respond("200 OK", "", b"hello").await?;
        Ok(http)
    })
    .await
}

/// Each caller's connection is on the shard of one agent's link and sends a request to the other agent.
#[tokio::test(flavor = "multi_thread")]
async fn requests_on_sessions_that_cross_shards_end_with_the_drain() -> Result<()> {
    let relay = relay_of_two_shards()?;
    let (target, gate) = gated_target().await?;
    let one = TestAgent::of(&target).named("one").start(&relay).await?;
    let two = TestAgent::of(&target).named("two").start(&relay).await?;
    let mut callers = Vec::new();
    for (home, other) in [("one", "two"), ("two", "one")] {
        let mut caller = relay.http().await?;
        gate.add_permits(1);
        caller.get(&format!("/w/{home}/")).await?;
        ensure!(soon("an answer", caller.answer()).await??.0.status() == 200);
        callers.push((caller, other));
    }
    for (caller, other) in &mut callers {
        caller.get(&format!("/w/{other}/")).await?;
    }
    relay
        .until("both sessions cross", |it| {
            it.get("relay_crossings_total") >= 2 && it.get("relay_sessions") >= 4
        })
        .await?;
    let stopping = spawn_blocking(move || relay.stop());
    // Longer than an idle shard takes to stop.
    tokio::time::sleep(Duration::from_millis(700)).await;
    ensure!(!stopping.is_finished());
    gate.add_permits(2);
    for (mut caller, _) in callers {
        let (head, body) = soon("the answer", caller.answer()).await??;
        ensure!(head.status() == 200 && body.bytes == b"hello", "{head:?}");
    }
    soon("the relay's end, long before the deadline", stopping).await??;
    drop((one, two));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_as_the_relay_begins_to_stop_is_answered_and_told_to_close()
-> Result<()> {
    // On a busy machine the requests may come after the relay may close idle connections.
    for _ in 0..20 {
        if requests_in_the_grace_are_answered().await? {
            return Ok(());
        }
    }
    bail!("no try sent its requests within {DRAIN_GRACE:?}")
}

/// False if the requests were sent so late that the relay may have closed the idle connections.
async fn requests_in_the_grace_are_answered() -> Result<bool> {
    let flags = ["--shards", "2", "--drain-timeout", "60s"];
    let relay = RelayProgram::start(&[], Addresses::any(), &flags)?;
    let target = hello_target().await?;
    let agent = TestAgent::of(&target).start_at(&relay.agent_url()).await?;
    let path = format!("/w/{}/", agent.tunnel());
    let mut kept = relay.http().await?;
    // The connection is idle from a later moment on.
    let idle_since = Instant::now();
    kept.get(&path).await?;
    ensure!(soon("an answer", kept.answer()).await??.0.status() == 200);
    // Connected, but without a request yet.
    let fresh = relay.http().await?;
    relay.ask_to_stop()?;
    relay
        .process()
        .wait_for(SOON, |line| line.contains("\"stopping\"").then_some(()))?;
    until_free(relay.addresses.http).await?;
    let mut callers = [kept, fresh];
    let mut sent = Ok(());
    for caller in &mut callers {
        sent = sent.and(caller.get(&path).await);
    }
    if idle_since.elapsed() >= DRAIN_GRACE {
        return Ok(false);
    }
    sent?;
    for caller in &mut callers {
        let (head, body) = soon("the answer", caller.answer()).await??;
        ensure!(head.status() == 200 && body.bytes == b"hello", "{head:?}");
        ensure!(head.header("connection") == Some("close"), "{head:?}");
        ensure!(soon("the end", caller.closed()).await??.is_empty());
    }
    let ended = relay.ended()?;
    ensure!(ended.status.code() == Some(0), "{}", ended.quote);
    Ok(true)
}

/// Callers connect as fast as possible. An accepted connection is neither reset nor left without an answer.
#[tokio::test(flavor = "multi_thread")]
async fn no_connection_that_was_accepted_in_the_last_moment_is_reset() -> Result<()> {
    let relay = relay_of_two_shards()?;
    let target = hello_target().await?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let path = format!("/w/{}/", agent.tunnel());
    let address = relay.http_address();
    let begun = Arc::new(Semaphore::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let (path, begun) = (path.clone(), Arc::clone(&begun));
        callers.spawn(async move {
            tokio::time::sleep(Duration::from_micros(400) * u32::try_from(caller)?).await;
            begun.add_permits(1);
            last_moment(address, &path).await
        });
    }
    begun.acquire_many(40).await?.forget();
    let stopping = spawn_blocking(move || relay.stop());
    let (mut answered, mut refused) = (0, 0);
    while let Some(outcome) = callers.join_next().await {
        match outcome?? {
            Some(200 | 503) => answered += 1,
            Some(status) => bail!("{status} after {answered} answers"),
            None => refused += 1,
        }
    }
    soon("the relay's end", stopping).await??;
    ensure!(answered > 0, "{answered} answered, {refused} refused");
    Ok(())
}

/// Status that a caller gets; `None` if its connection is refused.
async fn last_moment(address: SocketAddr, path: &str) -> Result<Option<u16>> {
    let connecting = tokio::time::timeout(Duration::from_secs(5), HttpStream::connect(address));
    let mut http = match connecting.await {
        Ok(Ok(http)) => http,
        Ok(Err(error)) => {
            let kind = error.downcast_ref::<std::io::Error>().map(|it| it.kind());
            ensure!(kind == Some(ErrorKind::ConnectionRefused), "{error:#}");
            return Ok(None);
        }
        Err(_) => return Ok(None),
    };
    http.get(path).await?;
    let (head, _) = soon("an answer", http.answer()).await??;
    Ok(Some(head.status()))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_port_is_free_while_the_relay_drains() -> Result<()> {
    let relay = relay_of_two_shards()?;
    let target = Target::echo().await?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    echo_round_trip(&mut caller, b"before").await?;
    let ports = [
        relay.agent_address(),
        relay.tcp_address(),
        relay.http_address(),
        relay.admin_address(),
    ];
    let stopping = spawn_blocking(move || relay.stop());
    for port in ports {
        until_free(port).await?;
    }
    echo_round_trip(&mut caller, b"while it drains").await?;
    ensure!(!stopping.is_finished());
    drop(caller);
    soon("the relay's end", stopping).await??;
    Ok(())
}
