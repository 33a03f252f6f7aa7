//! A frozen agent: its sockets are open, but it sends nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tieline_e2e::behaviour::{
    Addresses, AgentProgram, HttpStream, RelayProgram, Target, at_some_pace, is_reset,
    read_to_close, soon,
};
use tokio::io::AsyncReadExt;

/// Stale timeouts.
const PACES: [Duration; 3] = [
    Duration::from_millis(600),
    Duration::from_secs(3),
    Duration::from_secs(10),
];

/// Pairs of callers with an open session to the frozen agent's target.
const FRONTENDS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_agent_is_evicted_in_time_and_registers_again_once_it_goes_on() -> Result<()> {
    at_some_pace(&PACES, async |stale| evicted_and_back("auto", stale).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_agent_is_evicted_in_time_and_registers_again_once_it_goes_on_epoll() -> Result<()>
{
    at_some_pace(&PACES, async |stale| evicted_and_back("epoll", stale).await).await
}

async fn evicted_and_back(driver: &str, stale: Duration) -> Result<()> {
    let stale_timeout = format!("{}ms", stale.as_millis());
    let flags = [
        "--shards",
        "2",
        "--driver",
        driver,
        "--stale-timeout",
        &stale_timeout,
    ];
    let relay = RelayProgram::start(&[], Addresses::any(), &flags)?;
    // Every request gets an answer that starts and never ends.
    let target = Target::http(|mut http| async move {
        http.head().await?;
        http.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .await?;
        http.closed().await.map(drop)
    })
    .await?;
    let descriptors = settled_descriptors(&relay).await?;
    let state_dir = TempDir::new()?;
    let agent = AgentProgram::start(
        Path::new(env!("CARGO_BIN_EXE_child")),
        &relay.agent_url(),
        &target.to_string(),
        state_dir.path(),
        &[],
    )?;
    let (tunnel, url) = agent.registered(1)?;
    ensure!(relay.tunnels().await?[0].tunnel_id == tunnel);

    let mut callers = Vec::new();
    for _ in 0..FRONTENDS {
        let mut raw = HttpStream::new(relay.raw(&tunnel).await?);
        expect_hello(&mut raw, "/").await?;
        let mut http = relay.http().await?;
        expect_hello(&mut http, &format!("/w/{tunnel}/")).await?;
        callers.push((raw, http));
    }

    agent.freeze()?;
    let frozen_at = Instant::now();
    while !relay.tunnels().await?.is_empty() {
        let after = frozen_at.elapsed();
        // The relay checks for stale links every quarter of the timeout; the rest is a margin.
        ensure!(
            after < stale * 2,
            "the tunnel is still listed after {after:?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Not too early: the link was last heard at most a third of the timeout before the freeze.
    let after = frozen_at.elapsed();
    ensure!(after > stale / 2, "evicted too early, after {after:?}");

    for (raw, mut http) in callers {
        let (_, end) = soon(
            "a raw frontend's end",
            read_to_close(&mut raw.into_stream()),
        )
        .await?;
        ensure!(is_reset(&end), "a raw frontend ended with {end:?}");
        let rest = soon("an HTTP frontend's end", http.closed()).await?;
        // The answer must be cut off: a last chunk would make it look complete.
        ensure!(
            rest.as_ref()
                .is_ok_and(|rest| !rest.ends_with(b"0\r\n\r\n"))
                || rest.is_err(),
            "{rest:?}"
        );
    }
    let metrics = relay
        .until("nothing is left of the link", |metrics| {
            [
                "relay_links",
                "relay_tunnels",
                "relay_sessions",
                "relay_frontends",
            ]
            .iter()
            .all(|gauge| metrics.get(gauge) == 0)
        })
        .await?;
    ensure!(
        metrics.labelled("relay_link_evictions_total", "stale") == 1
            && metrics.get("relay_link_evictions_total") == 1,
        "{metrics}"
    );
    // The link's socket is closed too, although the agent has not closed its end.
    let left = settled_descriptors(&relay).await?;
    ensure!(
        left == descriptors,
        "{left} descriptors instead of {descriptors}"
    );
    offline(&relay, &tunnel).await?;

    agent.thaw()?;
    let again = agent.registered(2)?;
    ensure!(again == (tunnel.clone(), url), "{again:?}");
    let mut http = relay.http().await?;
    expect_hello(&mut http, &format!("/w/{tunnel}/")).await?;
    Ok(())
}

/// Sends a request and reads the start of the answer.
async fn expect_hello(http: &mut HttpStream, path: &str) -> Result<()> {
    soon("the answer's beginning", async {
        http.get(path).await?;
        let head = http.head().await?.context("closed without an answer")?;
        ensure!(head.status() == 200, "{head:?}");
        let mut framing = HttpStream::framing(&head)?;
        let piece = http.piece(&mut framing).await?.context("no body")?;
        ensure!(piece == "hello", "{piece:?}");
        Ok(())
    })
    .await?
}

/// Checks a known tunnel without an agent: a close on raw TCP, and a 503 with a JSON error on HTTP.
async fn offline(relay: &RelayProgram, tunnel: &str) -> Result<()> {
    let mut raw = relay.raw(tunnel).await?;
    let mut nothing = [0];
    let end = soon("the end", raw.read(&mut nothing)).await?;
    ensure!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    let mut http = relay.http().await?;
    http.get(&format!("/w/{tunnel}/mcp")).await?;
    let (head, body) = soon("an answer", http.answer()).await??;
    ensure!(head.status() == 503, "{head:?}");
    ensure!(head.header("retry-after").is_some(), "{head:?}");
    let body: Value = serde_json::from_slice(&body.bytes)?;
    ensure!(
        body["error"] == "tunnel_offline" && body["message"].is_string(),
        "{body}"
    );
    Ok(())
}

/// Number of open descriptors, once two readings agree: the connection of the last admin request closes later.
async fn settled_descriptors(relay: &RelayProgram) -> Result<usize> {
    soon("the descriptors settle", async {
        let mut before = usize::MAX;
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = relay.descriptors()?;
            if now == before {
                return Ok(now);
            }
            before = now;
        }
    })
    .await?
}
