//! HTTP bodies arrive byte-exact with every framing, and while they are being sent, in both directions.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tieline_e2e::behaviour::{Digest, HttpStream, Target, TestAgent, TestRelay, noise, soon};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tokio::sync::mpsc;

on_each_driver!(
    an_answer_that_starts_two_seconds_after_the_request_arrives,
    a_chunked_answer_arrives_byte_exact_with_its_trailers,
    a_chunked_request_arrives_byte_exact_with_its_trailers,
    an_answer_without_a_length_arrives_whole,
    an_answer_before_the_end_of_an_upload_arrives,
    an_upload_that_waits_for_continue_is_asked_for_it,
    events_arrive_as_they_are_sent,
    a_redirect_is_mapped_back_to_the_public_prefix,
);

/// Chunk sizes: one byte, sizes around those of frames and buffers, and one far above them.
const CHUNKS: [usize; 9] = [1, 2, 15, 4096, 16_383, 32_769, 65_536, 65_537, 1_000_000];

async fn an_answer_that_starts_two_seconds_after_the_request_arrives(
    driver: DriverChoice,
) -> Result<()> {
    let target = Target::http_requests(|mut http, head| async move {
        let body = http.body(&head).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        http.respond("200 OK", "", &body.bytes).await?;
        Ok(http)
    })
    .await?;
    let relay = TestRelay::with().driver(driver).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;

    let mut caller = relay.http().await?;
    let path = agent.path("/slow");
    let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nquestion");
    caller.write(request).await?;
    let (head, body) = soon("the answer", caller.answer()).await??;
    assert_eq!(
        (head.status(), body.bytes.as_slice()),
        (200, b"question".as_slice())
    );
    Ok(())
}

async fn a_chunked_answer_arrives_byte_exact_with_its_trailers(driver: DriverChoice) -> Result<()> {
    let target = Target::http_requests(|mut http, _| async move {
        http.write("HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await?;
        for (seed, len) in (0..).zip(CHUNKS) {
            http.write_chunk(&noise(seed, len)).await?;
        }
        http.write("0\r\nx-sum: 45\r\n\r\n").await?;
        Ok(http)
    })
    .await?;
    let relay = TestRelay::with().driver(driver).shards(2).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;

    let path = agent.path("/chunks");
    let mut caller = relay.http().await?;
    // Twice on one connection: the framing of the first answer must not affect the second.
    for _ in 0..2 {
        caller
            .write(format!(
                "GET {path} HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n"
            ))
            .await?;
        let (head, body) = soon("the answer", caller.answer()).await??;
        assert_eq!(head.status(), 200);
        assert_eq!(Digest::of(&body.bytes), Digest::of(&chunks()));
        assert_eq!(body.trailers, [("x-sum".to_owned(), "45".to_owned())]);
    }
    assert_eq!(target.accepted(), 1);
    Ok(())
}

async fn a_chunked_request_arrives_byte_exact_with_its_trailers(
    driver: DriverChoice,
) -> Result<()> {
    let (tell, mut requests) = mpsc::channel(1);
    let target = Target::http_requests(move |mut http, head| {
        let tell = tell.clone();
        async move {
            let body = http.body(&head).await?;
            tell.send((head, body)).await?;
            http.respond("200 OK", "", b"taken").await?;
            Ok(http)
        }
    })
    .await?;
    let relay = TestRelay::with().driver(driver).shards(2).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;

    let path = agent.path("/chunks");
    let mut caller = relay.http().await?;
    for _ in 0..2 {
        caller
            .write(format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\nTrailer: x-sum\r\n\
                 Transfer-Encoding: chunked\r\n\r\n"
            ))
            .await?;
        for (seed, len) in (0..).zip(CHUNKS) {
            caller.write_chunk(&noise(seed, len)).await?;
        }
        caller.write("0\r\nx-sum: 45\r\n\r\n").await?;
        let (head, body) = soon("the request", requests.recv())
            .await?
            .context("no request")?;
        assert_eq!(head.request(), ("POST", "/chunks"));
        assert_eq!(Digest::of(&body.bytes), Digest::of(&chunks()));
        assert_eq!(body.trailers, [("x-sum".to_owned(), "45".to_owned())]);
        let (head, body) = soon("the answer", caller.answer()).await??;
        assert_eq!(
            (head.status(), body.bytes.as_slice()),
            (200, b"taken".as_slice())
        );
    }
    assert_eq!(target.accepted(), 1);
    Ok(())
}

fn chunks() -> Vec<u8> {
    let pieces = (0..).zip(CHUNKS).map(|(seed, len)| noise(seed, len));
    pieces.collect::<Vec<_>>().concat()
}

async fn an_answer_without_a_length_arrives_whole(driver: DriverChoice) -> Result<()> {
    let target = Target::http(|mut http| async move {
        http.head().await?;
        http.write("HTTP/1.1 200 OK\r\n\r\n").await?;
        http.write(noise(9, 1_000_000)).await
    })
    .await?;
    let relay = TestRelay::with().driver(driver).shards(2).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;

    let mut caller = relay.http().await?;
    // On one caller connection, which stays open when the target's connection ends.
    for _ in 0..3 {
        caller.get(&agent.path("/close")).await?;
        let (head, body) = soon("the answer", caller.answer()).await??;
        assert_eq!(head.status(), 200);
        assert_eq!(Digest::of(&body.bytes), Digest::of_noise(9, 1_000_000));
    }
    Ok(())
}

async fn events_arrive_as_they_are_sent(driver: DriverChoice) -> Result<()> {
    const EVENTS: usize = 20;
    let (send_next, next) = mpsc::channel::<()>(1);
    let next = std::sync::Arc::new(tokio::sync::Mutex::new(next));
    let target = Target::http(move |mut http| {
        let next = std::sync::Arc::clone(&next);
        async move {
            http.head().await?;
            http.write(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                 Transfer-Encoding: chunked\r\n\r\n",
            )
            .await?;
            let mut next = next.lock().await;
            while next.recv().await.is_some() {
                http.write_chunk(b"data: tick\n\n").await?;
            }
            http.write("0\r\n\r\n").await
        }
    })
    .await?;
    let relay = TestRelay::with().driver(driver).shards(2).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;

    let mut caller = relay.http().await?;
    caller.get(&agent.path("/events")).await?;
    // The head arrives before any event.
    let head = soon("the head", caller.head()).await??.context("no head")?;
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    let mut framing = HttpStream::framing(&head)?;
    let mut times = Vec::new();
    for event in 0..EVENTS {
        // The next event is sent only after this event has arrived, so no event is delayed by another.
        let sent = Instant::now();
        send_next.send(()).await?;
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\n\n") {
            let piece = soon("an event", caller.piece(&mut framing)).await??;
            bytes.extend_from_slice(
                &piece.with_context(|| format!("the stream ended at event {event}"))?,
            );
        }
        assert_eq!(bytes, b"data: tick\n\n");
        times.push(sent.elapsed());
    }
    drop(send_next);
    assert_eq!(soon("the end", caller.piece(&mut framing)).await??, None);
    times.sort();
    let median = times[EVENTS / 2];
    assert!(median < Duration::from_millis(50), "events took {times:?}");
    Ok(())
}

async fn a_redirect_is_mapped_back_to_the_public_prefix(driver: DriverChoice) -> Result<()> {
    let target = Target::http_requests(|mut http, head| async move {
        let host = head.header("host").context("no host")?;
        match head.request().1 {
            "/mcp" => {
                let location = format!("Location: http://{host}/mcp/\r\n");
                http.respond("307 Temporary Redirect", &location, b"")
                    .await?;
            }
            "/relative" => {
                http.respond("302 Found", "Location: /mcp/\r\n", b"")
                    .await?
            }
            path => http.respond("200 OK", "", path.as_bytes()).await?,
        }
        Ok(http)
    })
    .await?;
    let relay = TestRelay::with().driver(driver).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let public = format!("http://{}", relay.http_address());

    let mut caller = relay.http().await?;
    for path in ["/mcp", "/relative"] {
        let host = relay.http_address();
        let path = agent.path(path);
        caller
            .write(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await?;
        let (head, _) = soon("the redirect", caller.answer()).await??;
        let location = head.header("location").context("no location")?;
        // Absolute and relative locations lead to the same path.
        let location = location.strip_prefix(&public).unwrap_or(location);
        assert_eq!(location, agent.path("/mcp/"), "{head:?}");
        caller.get(location).await?;
        let (head, body) = soon("the answer", caller.answer()).await??;
        assert_eq!(
            (head.status(), body.bytes.as_slice()),
            (200, b"/mcp/".as_slice())
        );
    }
    Ok(())
}

async fn an_answer_before_the_end_of_an_upload_arrives(driver: DriverChoice) -> Result<()> {
    // The target refuses after the head and closes while the body is still being sent.
    let target = Target::http(|mut http| async move {
        http.head().await?;
        http.respond(
            "413 Content Too Large",
            "Connection: close\r\n",
            b"too large",
        )
        .await
    })
    .await?;
    let relay = TestRelay::with().driver(driver).shards(2).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let path = agent.path("/upload");
    for round in 0..10 {
        let mut caller = relay.http().await?;
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n");
        caller.write(head).await?;
        let body = noise(1, 1_000_000);
        // The write may fail: the relay may stop reading at any point.
        let _sent = soon("the upload", caller.write(&body)).await?;
        let (head, body) = soon("the answer", caller.answer()).await??;
        assert_eq!(head.status(), 413, "round {round}: {head:?}");
        assert_eq!(body.bytes, b"too large");
    }
    Ok(())
}

async fn an_upload_that_waits_for_continue_is_asked_for_it(driver: DriverChoice) -> Result<()> {
    let target = Target::http_requests(|mut http, head| async move {
        if head.header("expect").is_some() {
            http.write("HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let body = http.body(&head).await?;
        http.respond("200 OK", "", &body.bytes).await?;
        Ok(http)
    })
    .await?;
    let relay = TestRelay::with().driver(driver).shards(2).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let path = agent.path("/upload");
    let mut caller = relay.http().await?;
    for _ in 0..3 {
        caller
            .write(format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\
                 Content-Length: 100000\r\n\r\n"
            ))
            .await?;
        let head = soon("100", caller.head()).await??.context("no answer")?;
        assert_eq!(head.status(), 100, "{head:?}");
        caller.write(noise(2, 100_000)).await?;
        let (head, body) = soon("the answer", caller.answer()).await??;
        assert_eq!(head.status(), 200, "{head:?}");
        assert_eq!(Digest::of(&body.bytes), Digest::of_noise(2, 100_000));
    }
    Ok(())
}
