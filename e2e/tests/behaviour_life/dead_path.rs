//! A path between agent and relay that is dead in one direction, while both ends still consider the connection
//! open.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tieline_e2e::behaviour::{Metrics, Target, TestAgent, TestRelay, noise, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::network::{Network, Rig};

/// Documented time to notice a dead path, plus a margin for busy machines.
const NOTICED_MAX: Duration = Duration::from_secs(10);

/// Silence after which the relay no longer trusts a link without a check.
const SILENCE: Duration = Duration::from_millis(1_500);

/// A rig whose link has been silent for a while.
async fn silent_rig(grace: Duration) -> Result<Rig> {
    let rig = Rig::start(grace).await?;
    tokio::time::sleep(SILENCE).await;
    Ok(rig)
}

/// Sends a call over a path that takes nothing to the agent: all links of the agent are given up in time, and the answer
/// says that the call was not sent.
async fn is_not_sent(rig: &Rig, links: u16) -> Result<()> {
    rig.network.lose(|it| &it.to_agent);
    let began = Instant::now();
    let mut caller = rig.post("call").await?;
    let metrics = rig
        .relay
        .until("every link is given up", |it| it.get("relay_links") == 0)
        .await?;
    ensure!(began.elapsed() < NOTICED_MAX, "{:?}", began.elapsed());
    let stale = metrics.labelled("relay_link_evictions_total", "stale");
    ensure!(stale == i64::from(links), "{metrics}");
    // The agent sends nothing, so it notices the dead path later than the relay.
    let (head, body) = soon("an answer", caller.answer()).await??;
    let text = String::from_utf8_lossy(&body.bytes);
    ensure!(head.status() == 503 && text.contains("not_sent"), "{text}");
    ensure!(rig.runs().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_call_over_a_path_that_takes_nothing_to_the_agent_is_not_sent_and_says_so() -> Result<()>
{
    let rig = silent_rig(Duration::from_millis(500)).await?;
    is_not_sent(&rig, 1).await
}

#[tokio::test]
async fn a_call_over_a_path_that_takes_nothing_to_the_relay_runs_once_over_the_next_link()
-> Result<()> {
    // Longer than an agent takes to reconnect, even on a busy machine.
    let mut rig = silent_rig(Duration::from_secs(60)).await?;
    let before = rig.network.made();
    rig.network.lose(|it| &it.to_relay);
    let began = Instant::now();
    let mut callers = Vec::new();
    for _ in 0..4 {
        callers.push(rig.post("call").await?);
    }
    rig.agent.registered().await?;
    ensure!(began.elapsed() < NOTICED_MAX, "{:?}", began.elapsed());
    ensure!(rig.network.made() > before);
    for mut caller in callers {
        let (head, body) = soon("the answer over the new link", caller.answer()).await??;
        ensure!(head.status() == 200, "{head:?} {body:?}");
    }
    ensure!(rig.runs().len() == 4, "each call runs once");
    Ok(())
}

#[tokio::test]
async fn all_links_of_an_agent_on_a_dead_path_are_given_up_together() -> Result<()> {
    // One after the other would take 16 s.
    const LINKS: u16 = 4;
    let rig = Rig::with_links(LINKS, Duration::from_millis(500)).await?;
    tokio::time::sleep(SILENCE).await;
    is_not_sent(&rig, LINKS).await
}

#[tokio::test]
async fn a_download_over_a_path_that_takes_nothing_to_the_relay_is_cut_in_time() -> Result<()> {
    let relay = TestRelay::with().shards(2).start()?;
    let network = Network::start(&relay).await?;
    let target = Target::http(|mut http| async move {
        http.head().await?;
        http.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await?;
        while http.write_chunk(b"piece").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    })
    .await?;
    let agent = TestAgent::of(&target).named("maya");
    let _agent = agent.start_at(&network.address).await?;
    let mut caller = relay.http().await?;
    caller.get("/w/maya/").await?;
    let head = soon("an answer", caller.head()).await??;
    ensure!(head.context("no answer")?.status() == 200);
    // The agent notices it as well, but cannot tell the relay.
    network.lose_for_good(|it| &it.to_relay);
    let began = Instant::now();
    let rest = soon("the answer's end", caller.closed()).await?;
    ensure!(began.elapsed() < NOTICED_MAX, "{:?}", began.elapsed());
    // A last chunk would make the answer look complete.
    ensure!(
        rest.as_ref()
            .is_ok_and(|rest| !rest.ends_with(b"0\r\n\r\n"))
            || rest.is_err(),
        "{rest:?}"
    );
    let metrics = relay.metrics().await?;
    let stale = metrics.labelled("relay_link_evictions_total", "stale");
    ensure!(stale == 1, "{metrics}");
    Ok(())
}

/// A relay that moves a session to a lane after a few reads, and a network before it.
async fn with_lanes() -> Result<(TestRelay, Network)> {
    let relay = TestRelay::with().shards(2);
    let relay = relay
        .config(|config| config.bulk_run_bytes = 64 * 1024)
        .start()?;
    let network = Network::start(&relay).await?;
    Ok((relay, network))
}

/// Sends at some pace until the connection breaks.
async fn send_without_end(stream: &mut TcpStream) {
    let piece = noise(1, 256 * 1024);
    while stream.write_all(&piece).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Reads until the connection ends or breaks.
async fn read_without_end(stream: &mut TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}

/// Waits until a lane carries bytes `way`.
async fn until_on_a_lane(relay: &TestRelay, way: &str) -> Result<()> {
    let is_used = |it: &Metrics| it.labelled("relay_lane_bytes_total", way) > 0;
    relay.until("bytes on a lane", is_used).await.map(drop)
}

#[tokio::test]
async fn an_upload_on_a_lane_over_a_path_that_takes_nothing_to_the_relay_is_cut_in_time()
-> Result<()> {
    let (relay, network) = with_lanes().await?;
    let target = Target::tcp(|mut stream| async move {
        read_without_end(&mut stream).await;
        Ok(())
    })
    .await?;
    let agent = TestAgent::of(&target).named("maya");
    let _agent = agent.start_at(&network.address).await?;
    let mut caller = relay.raw("maya").await?;
    let sending = tokio::spawn(async move { send_without_end(&mut caller).await });
    until_on_a_lane(&relay, "to_target").await?;
    network.lose_for_good(|it| &it.to_relay);
    let began = Instant::now();
    soon("the upload's end", sending).await??;
    ensure!(began.elapsed() < NOTICED_MAX, "{:?}", began.elapsed());
    let metrics = relay.metrics().await?;
    let stale = metrics.labelled("relay_link_evictions_total", "stale");
    ensure!(stale == 1, "{metrics}");
    Ok(())
}

#[tokio::test]
async fn a_download_on_a_lane_over_a_path_that_takes_nothing_to_the_agent_is_cut_in_time()
-> Result<()> {
    let (relay, network) = with_lanes().await?;
    let target = Target::tcp(|mut stream| async move {
        send_without_end(&mut stream).await;
        Ok(())
    })
    .await?;
    let agent = TestAgent::of(&target).named("maya");
    let mut agent = agent.start_at(&network.address).await?;
    let mut caller = relay.raw("maya").await?;
    let reading = tokio::spawn(async move { read_without_end(&mut caller).await });
    until_on_a_lane(&relay, "to_frontend").await?;
    network.lose(|it| &it.to_agent);
    let began = Instant::now();
    agent.registered().await?;
    soon("the download's end", reading).await??;
    ensure!(began.elapsed() < NOTICED_MAX, "{:?}", began.elapsed());
    Ok(())
}
