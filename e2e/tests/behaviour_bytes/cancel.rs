//! A caller that disconnects: its target sees the end within 100 ms.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tieline_e2e::behaviour::{Target, TestAgent, TestRelay, abort, half_close, noise, soon};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Longest time from the caller's disconnect to the read at the target that shows it.
const NOTICE_LIMIT: Duration = Duration::from_millis(100);

/// Number of callers that disconnect one after the other. The limit applies to their median time: on a busy
/// machine, a single disconnect may have to wait for a core.
const CALLERS: usize = 5;

on_each_driver!(
    a_caller_that_goes_away_before_the_head_reaches_the_target_within_100_ms,
    a_caller_that_goes_away_in_mid_answer_reaches_the_target_within_100_ms,
    a_caller_that_goes_away_in_mid_upload_reaches_the_target_within_100_ms,
    a_caller_that_leaves_an_idle_event_stream_reaches_the_target_within_100_ms,
    a_caller_that_goes_away_on_a_crossing_connection_reaches_the_target_within_100_ms,
    a_reset_on_raw_tcp_reaches_the_target_within_100_ms,
    a_reset_after_a_half_close_on_raw_tcp_reaches_the_target,
    a_reset_behind_a_half_close_ends_the_answer_under_way,
);

/// Events that a watching target reports to the test.
struct Watch {
    /// The target has sent its answer and now waits for its peer's end.
    waiting: mpsc::Receiver<()>,
    /// Time at which the target saw its peer's end.
    noticed: mpsc::Receiver<Instant>,
}

/// A target that reads up to the end of `request`, sends `answer`, and then waits for its peer's end.
async fn watching_target(request: &'static [u8], answer: &'static [u8]) -> Result<(Target, Watch)> {
    let (tell_waiting, waiting) = mpsc::channel(1);
    let (tell_noticed, noticed) = mpsc::channel(1);
    let target = Target::http(move |http| {
        let (waiting, noticed) = (tell_waiting.clone(), tell_noticed.clone());
        async move {
            let mut stream = http.into_stream();
            read_until(&mut stream, request).await?;
            stream.write_all(answer).await?;
            waiting.send(()).await?;
            let mut buffer = [0; 4096];
            while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
            noticed.send(Instant::now()).await?;
            Ok(())
        }
    })
    .await?;
    Ok((target, Watch { waiting, noticed }))
}

async fn read_until(stream: &mut TcpStream, end: &[u8]) -> Result<()> {
    let mut seen = Vec::new();
    while !seen.ends_with(end) {
        seen.push(stream.read_u8().await?);
    }
    Ok(())
}

impl Watch {
    /// Time from `go_away` until the target saw its peer's end.
    async fn after(&mut self, go_away: impl FnOnce()) -> Result<Duration> {
        soon("the target to wait", self.waiting.recv()).await?;
        let went = Instant::now();
        go_away();
        let noticed = soon("the target to notice", self.noticed.recv()).await?;
        let noticed = noticed.context("the target has ended")?;
        Ok(noticed.saturating_duration_since(went))
    }
}

fn assert_noticed_in_time(mut times: Vec<Duration>) {
    times.sort();
    let median = times[times.len() / 2];
    assert!(
        median <= NOTICE_LIMIT,
        "noticed after {median:?}; all: {times:?}"
    );
}

async fn a_caller_that_goes_away_before_the_head_reaches_the_target_within_100_ms(
    driver: DriverChoice,
) -> Result<()> {
    let (target, mut watch) = watching_target(b"\r\n\r\n", b"").await?;
    let relay = TestRelay::with().driver(driver).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut times = Vec::new();
    for _ in 0..CALLERS {
        let mut caller = relay.http().await?;
        caller.get(&agent.path("/slow")).await?;
        times.push(watch.after(|| drop(caller)).await?);
    }
    assert_noticed_in_time(times);
    Ok(())
}

async fn a_caller_that_goes_away_in_mid_answer_reaches_the_target_within_100_ms(
    driver: DriverChoice,
) -> Result<()> {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nthe first bytes";
    let (target, mut watch) = watching_target(b"\r\n\r\n", answer).await?;
    let relay = TestRelay::with().driver(driver).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut times = Vec::new();
    for _ in 0..CALLERS {
        let mut caller = relay.http().await?;
        caller.get(&agent.path("/download")).await?;
        soon("the first bytes", read_until(caller.stream(), b"bytes")).await??;
        times.push(watch.after(|| drop(caller)).await?);
    }
    assert_noticed_in_time(times);
    Ok(())
}

async fn a_caller_that_goes_away_in_mid_upload_reaches_the_target_within_100_ms(
    driver: DriverChoice,
) -> Result<()> {
    let (target, mut watch) = watching_target(b"the first bytes", b"").await?;
    let relay = TestRelay::with().driver(driver).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut times = Vec::new();
    for _ in 0..CALLERS {
        let mut caller = relay.http().await?;
        let path = agent.path("/upload");
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
        caller.write(head + "the first bytes").await?;
        times.push(watch.after(|| drop(caller)).await?);
    }
    assert_noticed_in_time(times);
    Ok(())
}

const EVENT_STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
      e\r\ndata: hello\n\n\n\r\n";

async fn a_caller_that_leaves_an_idle_event_stream_reaches_the_target_within_100_ms(
    driver: DriverChoice,
) -> Result<()> {
    let (target, mut watch) = watching_target(b"\r\n\r\n", EVENT_STREAM).await?;
    let relay = TestRelay::with().driver(driver).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut times = Vec::new();
    for _ in 0..CALLERS {
        let mut caller = relay.http().await?;
        caller.get(&agent.path("/events")).await?;
        soon(
            "an event",
            read_until(caller.stream(), b"data: hello\n\n\n\r\n"),
        )
        .await??;
        times.push(watch.after(|| drop(caller)).await?);
    }
    assert_noticed_in_time(times);
    Ok(())
}

async fn a_caller_that_goes_away_on_a_crossing_connection_reaches_the_target_within_100_ms(
    driver: DriverChoice,
) -> Result<()> {
    let (target, mut watch) = watching_target(b"\r\n\r\n", EVENT_STREAM).await?;
    let first = Target::http_requests(|mut http, _| async move {
        http.respond("204 No Content", "", b"").await?;
        Ok(http)
    })
    .await?;
    let relay = TestRelay::with().driver(driver).shards(2).start()?;
    let near = TestAgent::of(&first).start(&relay).await?;
    let far = TestAgent::of(&target).start(&relay).await?;
    let mut times = Vec::new();
    for _ in 0..CALLERS {
        let mut caller = relay.http().await?;
        // The first request decides the shard of the connection.
        caller.get(&near.path("/")).await?;
        soon("the first answer", caller.head())
            .await??
            .context("no answer")?;
        caller.get(&far.path("/events")).await?;
        soon(
            "an event",
            read_until(caller.stream(), b"data: hello\n\n\n\r\n"),
        )
        .await??;
        times.push(watch.after(|| drop(caller)).await?);
    }
    let metrics = relay.metrics().await?;
    assert_eq!(metrics.get("relay_crossings_total"), 5, "{metrics}");
    assert_noticed_in_time(times);
    Ok(())
}

async fn a_reset_on_raw_tcp_reaches_the_target_within_100_ms(driver: DriverChoice) -> Result<()> {
    let (target, mut watch) = watching_target(b"hello", b"").await?;
    let relay = TestRelay::with().driver(driver).shards(2).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut times = Vec::new();
    for _ in 0..CALLERS {
        let mut caller = relay.raw(agent.tunnel()).await?;
        caller.write_all(b"hello").await?;
        times.push(
            watch
                .after(|| abort(caller).expect("an open socket"))
                .await?,
        );
    }
    assert_noticed_in_time(times);
    Ok(())
}

async fn a_reset_after_a_half_close_on_raw_tcp_reaches_the_target(
    driver: DriverChoice,
) -> Result<()> {
    let (tell_waiting, mut waiting) = mpsc::channel(1);
    let (tell_gone, mut gone) = mpsc::channel(1);
    // The target has read to the end, so only a socket error can show that the answer is no longer wanted.
    let target = Target::tcp(move |mut stream| {
        let (waiting, gone) = (tell_waiting.clone(), tell_gone.clone());
        async move {
            while stream.read(&mut [0; 64]).await? > 0 {}
            waiting.send(()).await?;
            ensure!(stream.ready(Interest::ERROR).await?.is_error());
            gone.send(()).await?;
            Ok(())
        }
    })
    .await?;
    let relay = TestRelay::with().driver(driver).shards(2).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    for _ in 0..CALLERS {
        let mut caller = relay.raw(agent.tunnel()).await?;
        caller.write_all(b"hello").await?;
        half_close(&caller)?;
        soon("the target to wait", waiting.recv()).await?;
        abort(caller)?;
        // The relay sees the reset only when it polls the socket for errors, which it does at intervals.
        soon("the target to notice", gone.recv())
            .await?
            .context("the target has ended")?;
    }
    Ok(())
}

async fn a_reset_behind_a_half_close_ends_the_answer_under_way(driver: DriverChoice) -> Result<()> {
    let (tell_gone, mut gone) = mpsc::channel(1);
    let target = Target::tcp(move |mut stream| {
        let gone = tell_gone.clone();
        async move {
            while stream.read(&mut [0; 64]).await? > 0 {}
            let block = noise(1, 64 * 1024);
            while stream.write_all(&block).await.is_ok() {}
            gone.send(Instant::now()).await?;
            Ok(())
        }
    })
    .await?;
    let relay = TestRelay::with().driver(driver).shards(2).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut times = Vec::new();
    for _ in 0..CALLERS {
        let mut caller = relay.raw(agent.tunnel()).await?;
        caller.write_all(b"hello").await?;
        half_close(&caller)?;
        caller.read_exact(&mut [0; 100_000]).await?;
        let went = Instant::now();
        abort(caller)?;
        let at = soon("the target to notice", gone.recv()).await?;
        times.push(
            at.context("the target has ended")?
                .saturating_duration_since(went),
        );
    }
    assert_noticed_in_time(times);
    Ok(())
}
