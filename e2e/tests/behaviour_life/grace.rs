//! Grace periods: how callers experience an agent that is briefly away, and a relay that has just started.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tempfile::TempDir;
use tieline_e2e::behaviour::{Head, HttpStream, Target, TestAgent, TestRelay, soon};
use tokio::io::AsyncWriteExt;

/// Longer than any agent here takes to come back.
const GRACE: Duration = Duration::from_secs(15);

fn patient() -> Result<TestRelay> {
    let relay = TestRelay::with().shards(2);
    relay
        .config(|config| config.callers.offline_grace = GRACE)
        .start()
}

async fn web_target() -> Result<Target> {
    Target::http_requests(|mut http, _| async move {
        http.respond("200 OK", "", b"hello").await?;
        Ok(http)
    })
    .await
}

async fn status(relay: &TestRelay, path: &str) -> Result<(u16, Head)> {
    let mut caller = relay.http().await?;
    caller.get(path).await?;
    let (head, _) = soon("an answer", caller.answer()).await??;
    Ok((head.status(), head))
}

/// Waits until the relay has noticed that the tunnel's agent is gone.
async fn is_offline(relay: &TestRelay) -> Result<()> {
    relay
        .until("the tunnel is offline", |it| it.get("relay_tunnels") == 0)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_request_waits_for_an_agent_that_is_back_within_the_grace() -> Result<()> {
    let relay = patient()?;
    let target = web_target().await?;
    let home = TempDir::new()?;
    let agent = || TestAgent::of(&target).state_dir(home.path()).named("maya");
    agent().start(&relay).await?.kill()?;
    is_offline(&relay).await?;

    let mut callers = Vec::new();
    for _ in 0..8 {
        let mut caller = relay.http().await?;
        caller.get("/w/maya/").await?;
        callers.push(caller);
    }
    let _agent = agent().start(&relay).await?;
    for mut caller in callers {
        let (head, body) = soon("the agent's answer", caller.answer()).await??;
        ensure!(head.status() == 200 && body.bytes == b"hello", "{head:?}");
    }
    Ok(())
}

#[tokio::test]
async fn after_the_grace_a_tunnel_without_its_agent_is_a_503_at_once() -> Result<()> {
    let relay = TestRelay::with()
        .config(|config| config.callers.offline_grace = Duration::from_millis(300))
        .start()?;
    let target = web_target().await?;
    let agent = TestAgent::of(&target).named("maya").start(&relay).await?;
    let began = Instant::now();
    agent.kill()?;
    is_offline(&relay).await?;
    let (code, head) = status(&relay, "/w/maya/").await?;
    ensure!(
        code == 503 && head.header("retry-after") == Some("5"),
        "{head:?}"
    );
    ensure!(began.elapsed() >= Duration::from_millis(300));
    // After the grace period, requests are refused without a wait.
    let began = Instant::now();
    for _ in 0..20 {
        let (code, head) = status(&relay, "/w/maya/").await?;
        ensure!(code == 503, "{head:?}");
    }
    ensure!(began.elapsed() < Duration::from_millis(300) * 10);
    Ok(())
}

#[tokio::test]
async fn a_caller_that_leaves_while_it_waits_is_forgotten() -> Result<()> {
    let relay = patient()?;
    let target = web_target().await?;
    let agent = TestAgent::of(&target).named("maya").start(&relay).await?;
    agent.kill()?;
    is_offline(&relay).await?;
    let mut caller = relay.http().await?;
    caller.get("/w/maya/").await?;
    relay
        .until("the caller is served", |it| it.get("relay_frontends") == 1)
        .await?;
    drop(caller);
    let began = Instant::now();
    relay
        .until("the caller is gone", |it| it.get("relay_frontends") == 0)
        .await?;
    ensure!(began.elapsed() < GRACE / 2);
    Ok(())
}

#[tokio::test]
async fn right_after_the_relays_start_an_unknown_tunnel_counts_as_offline() -> Result<()> {
    let relay = TestRelay::with()
        .config(|config| config.callers.start_grace = Duration::from_secs(3600))
        .start()?;
    let (code, head) = status(&relay, "/w/nobody/mcp").await?;
    ensure!(
        code == 503 && head.header("retry-after").is_some(),
        "{head:?}"
    );
    let relay = TestRelay::start()?;
    let (code, head) = status(&relay, "/w/nobody/mcp").await?;
    ensure!(code == 404, "{head:?}");
    Ok(())
}

/// The relay has just started and knows no name; the agent registers only after the requests have arrived.
#[tokio::test]
async fn right_after_the_relays_start_a_request_waits_for_an_agent_that_is_on_its_way() -> Result<()>
{
    let relay = TestRelay::with()
        .shards(2)
        .config(|config| {
            config.callers.offline_grace = GRACE;
            config.callers.start_grace = Duration::from_secs(3600);
        })
        .start()?;
    let target = web_target().await?;
    let mut callers = Vec::new();
    for path in ["/w/maya/", "/w/maya/", "/dcc/dcc-m/", "/dcc/dcc-m/maya/"] {
        let mut caller = relay.http().await?;
        caller.get(path).await?;
        callers.push(caller);
    }
    let mut raw = relay.raw("maya").await?;
    let ask = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", relay.tcp_address());
    raw.write_all(ask.as_bytes()).await?;
    relay
        .until("all callers wait", |it| it.get("relay_frontends") >= 4)
        .await?;
    let agent = TestAgent::of(&target).named("maya");
    let _agent = agent
        .config(|it| it.with_dcc("dcc-m"))
        .start(&relay)
        .await?;
    for mut caller in callers {
        let (head, body) = soon("the agent's answer", caller.answer()).await??;
        ensure!(head.status() == 200 && body.bytes == b"hello", "{head:?}");
    }
    let (head, _) = soon("the raw answer", HttpStream::new(raw).answer()).await??;
    ensure!(head.status() == 200, "{head:?}");
    Ok(())
}

#[tokio::test]
async fn who_waits_for_an_agent_that_never_comes_is_told_after_the_grace() -> Result<()> {
    let grace = Duration::from_millis(400);
    let relay = TestRelay::with()
        .config(|config| {
            config.callers.offline_grace = grace;
            config.callers.start_grace = Duration::from_secs(3600);
        })
        .start()?;
    let began = Instant::now();
    let (code, head) = status(&relay, "/w/nobody/mcp").await?;
    ensure!(
        code == 503 && head.header("retry-after") == Some("5"),
        "{head:?}"
    );
    ensure!(began.elapsed() >= grace);
    Ok(())
}

/// A name from before the relay's start has been without its agent since then; its callers wait like those of any name.
#[tokio::test]
async fn right_after_the_relays_start_a_known_tunnel_has_the_whole_grace() -> Result<()> {
    let grace = Duration::from_millis(400);
    let state = TempDir::new()?;
    let dir = state.path().join("relay");
    let relay = TestRelay::with().config(|config| {
        config.state_dir = Some(dir);
        config.callers.offline_grace = grace;
        config.callers.start_grace = Duration::from_secs(3600);
    });
    let relay = relay.start()?;
    let target = web_target().await?;
    let agent = TestAgent::of(&target).named("maya").start(&relay).await?;
    agent.kill()?;
    is_offline(&relay).await?;
    let relay = relay.restart()?;
    for _ in 0..2 {
        // The first request lasts until the grace since the relay's start is over as well.
        let began = Instant::now();
        let (code, head) = status(&relay, "/w/maya/").await?;
        ensure!(code == 503, "{head:?}");
        ensure!(began.elapsed() >= grace, "{:?}", began.elapsed());
    }
    Ok(())
}
