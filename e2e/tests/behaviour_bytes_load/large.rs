//! Large bodies stream in constant memory and do not starve other sessions.

use std::time::Duration;

use anyhow::{Context, Result};
use tieline_e2e::behaviour::{
    Child, ChildRelay, Digest, HttpStream, Noise, Target, TestAgent, TestRelay, at_some_pace,
    noise, within,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::latency::{Times, Witnesses};
use super::{MIB, alone, child};

const BODY_BYTES: usize = 64 * 1024 * 1024;

/// Largest growth of a process while a body streams through it: a session's window of 16 MiB
/// (`SESSION_WINDOW_BYTES_MAX`), plus buffers.
const GROWTH_BYTES_MAX: u64 = 24 * MIB;

/// Times for which latencies are measured.
const PACES: [Duration; 3] = [
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// Time limit for one body.
const LIMIT: Duration = Duration::from_secs(60);

/// Writes noise to `http` in pieces, without holding all of it in memory.
async fn stream_noise(http: &mut HttpStream, seed: u64, len: usize) -> Result<()> {
    let mut noise = Noise::new(seed, len);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match noise.fill(&mut buffer) {
            0 => return Ok(()),
            count => http.write(&buffer[..count]).await?,
        }
    }
}

/// Answers a GET with as many bytes as its path says, any other method with the digest of the body.
async fn target() -> Result<Target> {
    Target::http_requests(|mut http, head| async move {
        if head.request().0 == "GET" {
            let length = head.request().1.trim_start_matches('/').parse()?;
            http.write(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
            ))
            .await?;
            stream_noise(&mut http, 1, length).await?;
        } else {
            let digest = http.body_digest(&head).await?;
            let text = format!("{digest:?}");
            http.respond("200 OK", "", text.as_bytes()).await?;
        }
        Ok(http)
    })
    .await
}

async fn download(caller: &mut HttpStream, length: usize) -> Result<Digest> {
    caller.get(&format!("/w/maya/{length}")).await?;
    let head = caller.head().await?.context("no answer")?;
    assert_eq!(head.status(), 200, "{head:?}");
    caller.body_digest(&head).await
}

async fn upload(caller: &mut HttpStream, length: usize, chunked: bool) -> Result<String> {
    let framing = if chunked {
        "Transfer-Encoding: chunked".to_owned()
    } else {
        format!("Content-Length: {length}")
    };
    caller
        .write(format!(
            "POST /w/maya/ HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"
        ))
        .await?;
    if chunked {
        let mut noise = Noise::new(2, length);
        let mut buffer = vec![0; 40_000];
        loop {
            let count = noise.fill(&mut buffer);
            caller.write_chunk(&buffer[..count]).await?;
            if count == 0 {
                break;
            }
        }
    } else {
        stream_noise(caller, 2, length).await?;
    }
    let (head, body) = caller.answer().await?;
    assert_eq!(head.status(), 200, "{head:?}");
    Ok(String::from_utf8(body.bytes)?)
}

async fn stream_both_ways(driver: &str) -> Result<()> {
    let _alone = alone().await;
    let target = target().await?;
    let relay = ChildRelay::start(child(), &["--shards", "2", "--driver", driver])?;
    let agent = Child::agent(child(), &relay.agent_url(), &target.to_string(), "maya")?;
    let mut caller = relay.http().await?;
    // One-time allocations do not count as growth.
    download(&mut caller, 100_000).await?;
    upload(&mut caller, 100_000, false).await?;
    let before = [relay.process.resident_bytes()?, agent.resident_bytes()?];

    let digest = within(LIMIT, "the download", download(&mut caller, BODY_BYTES)).await??;
    assert_eq!(digest, Digest::of_noise(1, BODY_BYTES));
    let expected = format!("{:?}", Digest::of_noise(2, BODY_BYTES));
    for chunked in [false, true] {
        let got = upload(&mut caller, BODY_BYTES, chunked);
        assert_eq!(within(LIMIT, "the upload", got).await??, expected);
    }

    let peaks = [
        relay.process.resident_bytes_peak()?,
        agent.resident_bytes_peak()?,
    ];
    for (name, (peak, before)) in ["relay", "agent"].iter().zip(peaks.iter().zip(before)) {
        let growth = peak.saturating_sub(before);
        println!(
            "{name}: {} KiB before, grew by at most {} KiB",
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
async fn a_body_of_64_mib_streams_either_way_in_flat_memory() -> Result<()> {
    stream_both_ways("auto").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_64_mib_streams_either_way_in_flat_memory_on_epoll() -> Result<()> {
    stream_both_ways("epoll").await
}

const MESSAGE_BYTES: usize = 9 * 1024 * 1024;

/// Measures round trips of other sessions for `time` / 2 without, and for `time` with, a session that sends
/// messages of 9 MiB to an echo that sleeps for `rest` after every 64 KiB. Returns (without, with).
async fn beside_9_mib_messages(rest: Duration, time: Duration) -> Result<(Times, Times)> {
    const WITNESSES: usize = 20;
    let target = Target::tcp(move |mut stream| async move {
        let mut buffer = vec![0; 64 * 1024];
        let mut is_slow = false;
        let mut count = stream.read(&mut buffer).await?;
        while count > 0 {
            // The witnesses send less than that at a time.
            is_slow |= count > 1000;
            stream.write_all(&buffer[..count]).await?;
            if is_slow && !rest.is_zero() {
                tokio::time::sleep(rest).await;
            }
            count = stream.read(&mut buffer).await?;
        }
        Ok(())
    })
    .await?;
    let relay = TestRelay::with().shards(2).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut sessions = Vec::new();
    for _ in 0..WITNESSES {
        sessions.push(relay.raw(agent.tunnel()).await?);
    }
    let mut witnesses = Witnesses::new(sessions);
    let before = witnesses.measure(time / 2).await?;

    // As many messages as fit into the measurement, at least one.
    let (stop, mut stopped) = oneshot::channel::<()>();
    let (mut reads, mut writes) = relay.raw(agent.tunnel()).await?.into_split();
    let message = noise(9, MESSAGE_BYTES);
    let disturber = tokio::spawn(async move {
        let mut messages = 0;
        let mut answer = vec![0; MESSAGE_BYTES];
        while messages == 0 || stopped.try_recv().is_err() {
            answer.fill(0);
            let (sent, received) =
                tokio::join!(writes.write_all(&message), reads.read_exact(&mut answer));
            sent?;
            received?;
            // Compared, not hashed, because hashing would block this process for longer.
            anyhow::ensure!(answer == message, "message {messages}");
            messages += 1;
        }
        anyhow::Ok(messages)
    });
    let during = witnesses.measure(time).await?;
    // The receiver is gone if a message failed.
    let _ended = stop.send(());
    let messages = within(LIMIT, "the large messages", disturber).await???;
    println!("{messages} messages of 9 MiB");
    Ok((before, during))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_9_mib_message_to_a_slow_target_delays_nobody() -> Result<()> {
    let _alone = alone().await;
    // About 6 MB/s: a session that waited for such a message would wait for more than a second.
    at_some_pace(&PACES, async |time| {
        let (before, during) = beside_9_mib_messages(Duration::from_millis(10), time).await?;
        during.within(before.p99() * 3 + Duration::from_millis(20), &before)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_9_mib_message_at_full_speed_leaves_others_their_share() -> Result<()> {
    let _alone = alone().await;
    at_some_pace(&PACES, async |time| {
        let (before, during) = beside_9_mib_messages(Duration::ZERO, time).await?;
        // All sessions share the cores here, and most of the time goes to the large messages.
        during.within(before.p99() * 10 + Duration::from_millis(100), &before)
    })
    .await
}
