//! Many event streams in which nothing comes: memory of the relay per stream.

use anyhow::{Result, ensure};
use tieline_e2e::behaviour::{Child, ChildRelay, Framing, HttpStream, Target, within};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tokio::sync::watch;

use super::{alone, child, flags, growth, limit, note, size};

/// Memory limit per quiet event stream, in KiB (docs/OPERATIONS.md, "Memory").
const QUIET_KIB_MAX: f64 = 40.0;

/// Streams that are opened first, so that memory the relay allocates once is not counted.
const FIRST: usize = 50;

on_each_driver!(a_quiet_event_stream_costs_little_memory_and_goes_on);

/// A target whose event streams bring one event at once, and the last one when `ends` changes.
async fn target(ends: watch::Receiver<()>) -> Result<Target> {
    Target::http_requests(move |mut http, _| {
        let mut ends = ends.clone();
        async move {
            let head = "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked";
            http.write(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n"))
                .await?;
            http.write_chunk(b"data: 1\n\n").await?;
            ends.changed().await?;
            http.write_chunk(b"data: 2\n\n").await?;
            http.write("0\r\n\r\n").await?;
            Ok(http)
        }
    })
    .await
}

/// Opens `count` streams and reads the first event of each.
async fn open(relay: &ChildRelay, count: usize) -> Result<Vec<(HttpStream, Framing)>> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut http = relay.http().await?;
        http.get("/w/maya/sse").await?;
        let Some(head) = http.head().await? else {
            anyhow::bail!("closed without an answer");
        };
        let mut framing = HttpStream::framing(&head)?;
        let event = http.piece(&mut framing).await?;
        ensure!(
            event.as_deref() == Some(b"data: 1\n\n"),
            "{head:?} {event:?}"
        );
        streams.push((http, framing));
    }
    Ok(streams)
}

async fn a_quiet_event_stream_costs_little_memory_and_goes_on(driver: DriverChoice) -> Result<()> {
    let _alone = alone().await;
    // Callers and target are in this process, which needs two descriptors for each stream.
    let size = size()?.min(2_000);
    let (end, ends) = watch::channel(());
    let target = target(ends).await?;
    let relay = ChildRelay::start(child(), &flags(driver))?;
    let _agent = Child::agent(child(), &relay.agent_url(), &target.to_string(), "maya")?;
    let mut streams = within(limit(FIRST), "the first streams", open(&relay, FIRST)).await??;
    let before = relay.process.resident_bytes()?;
    streams.extend(within(limit(size), "all streams", open(&relay, size)).await??);
    let quiet = growth(&relay.process, before, size)?;
    note(&format!(
        "{size} quiet event streams, {quiet:.1} KiB each in the relay"
    ));

    end.send(())?;
    for (http, framing) in &mut streams {
        let event = within(limit(size), "the last event", http.piece(framing)).await??;
        ensure!(event.as_deref() == Some(b"data: 2\n\n"), "{event:?}");
        ensure!(http.piece(framing).await?.is_none());
    }
    ensure!(quiet < QUIET_KIB_MAX, "{quiet} KiB for a quiet stream");
    Ok(())
}
