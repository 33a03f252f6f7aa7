//! A relay that drains and stops in order.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tieline_agent::AgentEvent;
use tieline_e2e::behaviour::{
    Addresses, HttpStream, RelayBuilder, RelayProgram, SOON, Target, TestAgent, TestRelay,
    echo_round_trip, half_close, is_reset, read_to_close, soon,
};
use tieline_relay::ListenKind;
use tokio::task::spawn_blocking;

/// Builder of a second relay on the ports of `relay`.
fn successor_of(relay: &TestRelay) -> impl Fn() -> RelayBuilder + use<> {
    let relay = relay.relay();
    let agent = relay.listening(ListenKind::Agent);
    let tcp = relay.listening(ListenKind::Tcp);
    let http = relay.listening(ListenKind::Http);
    move || {
        TestRelay::with().shards(2).config(|config| {
            config.agent_listen.clone_from(&agent);
            config.tcp_listen.clone_from(&tcp);
            config.http_listen.clone_from(&http);
        })
    }
}

fn going_away(event: &AgentEvent) -> Option<&'static str> {
    match event {
        AgentEvent::GoingAway { reason, .. } => Some(reason),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_running_sessions_end_and_sends_agents_to_the_next_relay() -> Result<()> {
    let relay = TestRelay::with()
        .shards(2)
        .config(|config| config.drain_timeout = Duration::from_secs(60))
        .start()?;
    let target = Target::echo().await?;
    let mut agent = TestAgent::of(&target).start(&relay).await?;
    let (url, tunnel) = (agent.url().to_owned(), agent.tunnel().to_owned());
    let mut caller = relay.raw(&tunnel).await?;
    echo_round_trip(&mut caller, b"before").await?;

    let successor = successor_of(&relay);
    let stopping = spawn_blocking(move || relay.stop());
    ensure!(agent.saw(going_away).await? == "shutting_down");
    echo_round_trip(&mut caller, &[7; 100_000]).await?;

    // While the old relay drains, its ports are free for the new relay, to which the agent then connects.
    let successor = start_once_free(successor).await?;
    agent.registered().await?;
    ensure!(agent.url() == url, "{} instead of {url}", agent.url());
    let mut new_caller = successor.raw(&tunnel).await?;
    echo_round_trip(&mut new_caller, b"by the new relay").await?;
    echo_round_trip(&mut caller, b"by the old one").await?;
    ensure!(
        !stopping.is_finished(),
        "the relay did not wait for its session"
    );

    half_close(&caller)?;
    let (rest, end) = soon("the session's end", read_to_close(&mut caller)).await?;
    ensure!(end.is_ok() && rest.is_empty(), "{rest:?} {end:?}");
    soon("the relay's end, long before the deadline", stopping).await??;
    echo_round_trip(&mut new_caller, b"and after").await?;
    Ok(())
}

/// Starts the relay once its ports are free, which no event announces: the old relay frees them when it starts to stop.
async fn start_once_free(relay: impl Fn() -> RelayBuilder) -> Result<TestRelay> {
    soon("free ports", async {
        loop {
            match relay().start() {
                Ok(relay) => return relay,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_alive_caller_that_asks_for_nothing_holds_no_stop_up() -> Result<()> {
    let relay = TestRelay::with()
        .shards(2)
        .config(|config| config.drain_timeout = Duration::from_secs(600))
        .start()?;
    let target = Target::http(|mut http| async move {
        http.head().await?;
        http.respond("200 OK", "", b"hello").await?;
        http.closed().await.map(drop)
    })
    .await?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut caller = relay.http().await?;
    caller.get(&format!("/w/{}/", agent.tunnel())).await?;
    ensure!(caller.answer().await?.0.status() == 200);

    let stopping = spawn_blocking(move || relay.stop());
    let rest = soon("the caller's end", caller.closed()).await??;
    ensure!(rest.is_empty(), "{rest:?}");
    soon("the relay's end, long before the deadline", stopping).await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_does_not_end_is_reset_at_the_drain_deadline() -> Result<()> {
    let relay = TestRelay::with()
        .shards(2)
        .config(|config| config.drain_timeout = Duration::from_millis(300))
        .start()?;
    let target = Target::echo().await?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    echo_round_trip(&mut caller, b"hello").await?;

    let started = Instant::now();
    let stopping = spawn_blocking(move || relay.stop());
    let (_, end) = soon("the session's end", read_to_close(&mut caller)).await?;
    ensure!(is_reset(&end), "{end:?}");
    soon("the relay's end", stopping).await??;
    let took = started.elapsed();
    ensure!(
        (Duration::from_millis(300)..Duration::from_secs(5)).contains(&took),
        "{took:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_asked_to_stop_says_so_drains_and_exits_with_0() -> Result<()> {
    let flags = ["--shards", "2", "--drain-timeout", "60s"];
    let relay = RelayProgram::start(&[], Addresses::any(), &flags)?;
    let target = Target::echo().await?;
    let agent = TestAgent::of(&target).start_at(&relay.agent_url()).await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    echo_round_trip(&mut caller, b"before").await?;
    let mut health = HttpStream::connect(relay.addresses.admin).await?;
    health.get("/healthz").await?;
    let (head, body) = soon("the health", health.answer()).await??;
    ensure!(
        head.status() == 200 && body.bytes == b"ok\n",
        "{head:?} {body:?}"
    );

    relay.ask_to_stop()?;
    relay
        .process()
        .wait_for(SOON, |line| line.contains("\"stopping\"").then_some(()))?;
    // The port is free for the next relay, so a load balancer's check fails.
    soon("the health check fails", async {
        while HttpStream::connect(relay.addresses.admin).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await?;
    health.get("/healthz").await?;
    let (head, body) = soon("the health", health.answer()).await??;
    ensure!(
        head.status() == 503 && body.bytes == b"draining\n",
        "{head:?} {body:?}"
    );
    echo_round_trip(&mut caller, b"while it drains").await?;
    drop(caller);
    let ended = relay.ended()?;
    ensure!(ended.status.code() == Some(0), "{}", ended.quote);
    ensure!(
        ended.stdout.trim_end().ends_with("{\"event\":\"stopped\"}"),
        "{}",
        ended.quote
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_relay_that_drains_at_once() -> Result<()> {
    let flags = ["--drain-timeout", "60s"];
    let relay = RelayProgram::start(&[], Addresses::any(), &flags)?;
    let target = Target::echo().await?;
    let agent = TestAgent::of(&target).start_at(&relay.agent_url()).await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    echo_round_trip(&mut caller, b"before").await?;
    relay.ask_to_stop()?;
    relay
        .process()
        .wait_for(SOON, |line| line.contains("\"stopping\"").then_some(()))?;
    relay.ask_to_stop()?;
    let ended = relay.ended()?;
    ensure!(ended.status.code() == Some(1), "{}", ended.quote);
    // A close or a reset: after a second signal, either is acceptable.
    let _end = soon("the session's end", read_to_close(&mut caller)).await?;
    Ok(())
}

/// The tunnel ends without the stale timeout, because the agent unregisters it.
#[tokio::test]
async fn an_agent_that_stops_in_order_is_gone_at_once_and_its_sessions_end() -> Result<()> {
    let relay = TestRelay::with().shards(2).start()?;
    let target = Target::echo().await?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let tunnel = agent.tunnel().to_owned();
    let mut caller = relay.raw(&tunnel).await?;
    echo_round_trip(&mut caller, b"before").await?;
    let stopping = tokio::spawn(agent.stop());
    relay
        .until("the tunnel is gone", |metrics| {
            metrics.get("relay_tunnels") == 0
        })
        .await?;
    // The session has the agent's drain timeout to end by itself.
    echo_round_trip(&mut caller, b"meanwhile").await?;
    let mut late = relay.raw(&tunnel).await?;
    let (nothing, end) = soon("the late one's end", read_to_close(&mut late)).await?;
    ensure!(nothing.is_empty() && is_reset(&end), "{nothing:?} {end:?}");
    let (_, end) = soon("the session's end", read_to_close(&mut caller)).await?;
    ensure!(is_reset(&end), "{end:?}");
    let outcome = stopping.await??;
    ensure!(outcome.is_ok(), "{outcome:?}");
    let metrics = relay
        .until("the link is gone", |metrics| {
            metrics.get("relay_links") == 0
        })
        .await?;
    ensure!(metrics.get("relay_link_evictions_total") == 0, "{metrics}");
    ensure!(
        metrics.labelled("relay_session_resets_total", "shutting_down") == 1,
        "{metrics}"
    );
    Ok(())
}
