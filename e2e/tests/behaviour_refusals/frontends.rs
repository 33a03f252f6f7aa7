//! Callers that name no tunnel, or a tunnel that does not exist or is offline.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;
use tieline_e2e::behaviour::{
    ChildRelay, HttpStream, Target, TestAgent, TestRelay, echo_round_trip, is_reset, soon, within,
};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bystander::Bystander;

const PREAMBLE: Duration = Duration::from_millis(400);

/// Margin after a deadline for a busy machine.
const SLACK: Duration = Duration::from_secs(2);

const REFUSED: &str = "relay_frontend_refused_total";

/// Reads to the end, which must come without a byte; returns how it ended and how long it took.
async fn closed(stream: &mut TcpStream) -> Result<(io::Result<()>, Duration)> {
    let started = Instant::now();
    let mut bytes = Vec::new();
    let end = soon("the end", stream.read_to_end(&mut bytes)).await?;
    ensure!(bytes.is_empty(), "{bytes:?}");
    Ok((end.map(drop), started.elapsed()))
}

/// Expects a reset: for a refused caller, an orderly end would look like an empty answer of the target.
async fn reset(stream: &mut TcpStream) -> Result<Duration> {
    let (end, took) = closed(stream).await?;
    ensure!(is_reset(&end), "{end:?}");
    Ok(took)
}

on_each_driver!(
    garbage_on_the_raw_port_is_reset_at_once,
    silence_on_either_port_ends_at_the_preamble_deadline,
    an_unknown_tunnel_is_a_reset_on_tcp_and_a_404_on_http,
    a_tunnel_without_its_agent_is_a_reset_on_tcp_and_a_503_on_http,
    raw_callers_do_not_get_around_a_targets_path,
);

async fn garbage_on_the_raw_port_is_reset_at_once(driver: DriverChoice) -> Result<()> {
    let relay = TestRelay::with().shards(2).driver(driver).start()?;
    let bystander = Bystander::beside(&relay).await?;
    let garbage = [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\0\0",
        b"\x40\x41",
        b"\0\x03a b",
        b"\0\x02\xff\xff",
    ];
    for bytes in garbage {
        let mut stream = TcpStream::connect(relay.tcp_address()).await?;
        stream.write_all(bytes).await?;
        let took = reset(&mut stream).await?;
        // The preamble deadline is 5 s, so a refusal well before it did not wait for the deadline.
        ensure!(took < Duration::from_secs(3), "{bytes:?} took {took:?}");
    }
    let metrics = relay.metrics().await?;
    ensure!(metrics.labelled(REFUSED, "preamble") == 5, "{metrics}");
    bystander.stays_well(&relay).await
}

async fn silence_on_either_port_ends_at_the_preamble_deadline(driver: DriverChoice) -> Result<()> {
    let relay = TestRelay::with()
        .shards(2)
        .driver(driver)
        .preamble_timeout(PREAMBLE)
        .start()?;
    let bystander = Bystander::beside(&relay).await?;
    let beginnings = [&b""[..], b"\0", b"\0\x09bystan"];
    let mut streams = Vec::new();
    for (address, bytes) in beginnings
        .map(|bytes| (relay.tcp_address(), bytes))
        .into_iter()
        .chain([(relay.http_address(), &b""[..])])
    {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(bytes).await?;
        streams.push((stream, Instant::now(), address == relay.http_address()));
    }
    for (mut stream, since, is_http) in streams {
        let what = if is_http { "HTTP" } else { "TCP" };
        let (end, _) = within(PREAMBLE + SLACK, what, closed(&mut stream)).await??;
        // Over HTTP no request was sent, so an orderly end hides nothing.
        ensure!(is_reset(&end) != is_http, "{what}: {end:?}");
        let took = since.elapsed();
        ensure!(
            took > PREAMBLE / 2,
            "{what} was closed too early, after {took:?}"
        );
    }
    let metrics = relay.metrics().await?;
    ensure!(metrics.labelled(REFUSED, "preamble") == 4, "{metrics}");
    bystander.stays_well(&relay).await
}

/// An HTTP target limited to one path has other paths, which raw bytes could request.
async fn raw_callers_do_not_get_around_a_targets_path(driver: DriverChoice) -> Result<()> {
    let relay = TestRelay::with().shards(2).driver(driver).start()?;
    let target = Target::http_requests(|mut http, _| async move {
        http.respond("200 OK", "", b"hello").await?;
        Ok(http)
    })
    .await?;
    let url = format!("http://{}/mcp", target.address());
    let _agent = TestAgent::to(&url).named("maya").start(&relay).await?;
    reset(&mut relay.raw("maya").await?).await?;
    let exposed = TestAgent::to(&url).named("open").config(|mut config| {
        config.targets[0].expose_all = true;
        config
    });
    let _exposed = exposed.start(&relay).await?;
    let mut raw = HttpStream::new(relay.raw("open").await?);
    raw.get("/admin").await?;
    let (head, _) = soon("an answer", raw.answer()).await??;
    ensure!(head.status() == 200, "{head:?}");
    Ok(())
}

/// Answer to a GET: status, Retry-After, and the JSON body with its two texts.
async fn problem(relay: &TestRelay, path: &str) -> Result<(u16, Option<String>, Value)> {
    let mut http: HttpStream = relay.http().await?;
    http.get(path).await?;
    let (head, body) = soon("an answer", http.answer()).await??;
    let body: Value = serde_json::from_slice(&body.bytes)?;
    ensure!(
        body["error"].is_string() && body["message"].is_string(),
        "{body}"
    );
    ensure!(
        head.header("content-type") == Some("application/json"),
        "{head:?}"
    );
    let retry_after = head.header("retry-after").map(str::to_owned);
    Ok((head.status(), retry_after, body))
}

async fn an_unknown_tunnel_is_a_reset_on_tcp_and_a_404_on_http(driver: DriverChoice) -> Result<()> {
    let relay = TestRelay::with().shards(2).driver(driver).start()?;
    let bystander = Bystander::beside(&relay).await?;
    let mut raw = relay.raw("nobody").await?;
    reset(&mut raw).await?;
    for path in ["/w/nobody", "/w/nobody/mcp", "/w/nobody/mcp?x=1"] {
        let (status, retry_after, body) = problem(&relay, path).await?;
        ensure!(
            status == 404 && body["error"] == "unknown_tunnel",
            "{status} {body}"
        );
        // Without Retry-After: a client would otherwise retry for ever.
        ensure!(retry_after.is_none());
    }
    let metrics = relay.metrics().await?;
    ensure!(
        metrics.labelled(REFUSED, "unknown_tunnel") == 1,
        "{metrics}"
    );
    bystander.stays_well(&relay).await
}

async fn a_tunnel_without_its_agent_is_a_reset_on_tcp_and_a_503_on_http(
    driver: DriverChoice,
) -> Result<()> {
    let relay = TestRelay::with().shards(2).driver(driver).start()?;
    let target = Target::echo().await?;
    let agent = TestAgent::of(&target).named("maya").start(&relay).await?;
    agent.kill()?;
    relay
        .until("the agent is gone", |metrics| {
            metrics.get("relay_tunnels") == 0
        })
        .await?;
    let mut raw = relay.raw("maya").await?;
    reset(&mut raw).await?;
    let (status, retry_after, body) = problem(&relay, "/w/maya/mcp").await?;
    ensure!(status == 503 && retry_after.is_some(), "{status} {body}");
    ensure!(
        body["error"] == "tunnel_offline" && body["down"] == "agent",
        "{body}"
    );
    let metrics = relay.metrics().await?;
    ensure!(
        metrics.labelled(REFUSED, "tunnel_offline") == 1,
        "{metrics}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_name_nothing_leave_no_slot_behind() -> Result<()> {
    let child = Path::new(env!("CARGO_BIN_EXE_child"));
    let relay = ChildRelay::start(child, &["--shards", "2", "--preamble-timeout", "300ms"])?;
    let target = Target::echo().await?;
    let agent = TestAgent::of(&target).start_at(&relay.agent_url()).await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    echo_round_trip(&mut caller, b"before").await?;
    let metrics = relay
        .until("settled", |metrics| metrics.get("relay_frontends") == 1)
        .await?;
    let accepted = metrics.get("relay_frontends_total");
    let descriptors = relay.process.descriptors()?;

    let silent: Vec<TcpStream> = {
        let mut silent = Vec::new();
        for _ in 0..300 {
            // Shorter than a preamble, and kept open.
            let mut stream = relay.raw("x").await?;
            stream.write_all(b"").await?;
            silent.push(stream);
        }
        silent
    };
    let refused =
        |count: i64| move |metrics: &tieline_e2e::behaviour::Metrics| metrics.get(REFUSED) == count;
    relay.until("all are refused", refused(300)).await?;
    let metrics = relay
        .until("acceptance", |m| m.get("relay_frontends_total") > accepted)
        .await?;
    ensure!(metrics.get("relay_frontends") == 1, "{metrics}");
    drop(silent);
    soon("the descriptors to be closed", async {
        while relay.process.descriptors()? > descriptors + 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    })
    .await??;
    echo_round_trip(&mut caller, b"after").await?;
    Ok(())
}
