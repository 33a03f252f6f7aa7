//! Disorderly ends: a target that refuses or resets, and a session that is reset while its bytes are in
//! flight.

use anyhow::{Context, Result, ensure};
use tieline_e2e::behaviour::{
    Digest, HttpStream, Target, TestAgent, TestRelay, abort, echo_round_trip, is_reset, noise,
    read_to_close, soon,
};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Fits a loopback socket buffer, so that all of it is sent before the reset.
const BURST_BYTES: usize = 16 * 1024;

on_each_driver!(
    a_target_that_refuses_is_a_reset_on_raw_tcp,
    a_target_that_refuses_is_a_502_with_its_reason_over_http,
    a_target_that_resets_in_mid_stream_resets_its_caller_behind_the_bytes_before,
    a_target_that_resets_in_mid_answer_aborts_the_answer,
    frames_of_a_session_that_was_reset_are_dropped_and_counted_and_the_link_lives,
    a_target_that_resets_during_an_upload_does_the_link_no_harm,
    an_upload_that_breaks_off_never_looks_complete_to_a_target_that_has_ended,
);

/// Address of a port without a listener.
async fn closed_port() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    Ok(listener.local_addr()?.to_string())
}

async fn a_target_that_refuses_is_a_reset_on_raw_tcp(driver: DriverChoice) -> Result<()> {
    let relay = TestRelay::with().driver(driver).start()?;
    let agent = TestAgent::to(&closed_port().await?).start(&relay).await?;

    let mut caller = relay.raw(agent.tunnel()).await?;
    let (answer, end) = soon("the reset", read_to_close(&mut caller)).await?;
    assert!(answer.is_empty() && is_reset(&end), "{answer:?} {end:?}");
    let metrics = relay.metrics().await?;
    let resets = metrics.labelled("relay_session_resets_total", "target_refused");
    assert_eq!(resets, 1, "{metrics}");
    Ok(())
}

async fn a_target_that_refuses_is_a_502_with_its_reason_over_http(
    driver: DriverChoice,
) -> Result<()> {
    let relay = TestRelay::with().driver(driver).shards(2).start()?;
    let target = format!("http://{}", closed_port().await?);
    let agent = TestAgent::to(&target).start(&relay).await?;

    for request in 0..4 {
        let mut caller = relay.http().await?;
        caller.get(&agent.path("/mcp")).await?;
        let (head, body) = soon("the answer", caller.answer()).await??;
        assert_eq!(head.status(), 502, "request {request}: {head:?}");
        let body: serde_json::Value = serde_json::from_slice(&body.bytes)?;
        assert_eq!(body["error"], "target_refused", "{body}");
        assert!(body["message"].is_string(), "{body}");
    }
    Ok(())
}

async fn a_target_that_resets_in_mid_stream_resets_its_caller_behind_the_bytes_before(
    driver: DriverChoice,
) -> Result<()> {
    let target = Target::tcp(|mut stream| async move {
        stream.read_exact(&mut [0; 5]).await?;
        stream.write_all(&noise(5, BURST_BYTES)).await?;
        Ok(abort(stream)?)
    })
    .await?;
    let relay = TestRelay::with().driver(driver).shards(2).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;

    for round in 0..20 {
        let mut caller = relay.raw(agent.tunnel()).await?;
        caller.write_all(b"begin").await?;
        let (bytes, end) = soon("the reset", read_to_close(&mut caller)).await?;
        assert_eq!(
            bytes,
            Digest::of_noise(5, BURST_BYTES),
            "round {round}: {end:?}"
        );
        assert!(is_reset(&end), "round {round}: {end:?}");
    }
    Ok(())
}

async fn a_target_that_resets_in_mid_answer_aborts_the_answer(driver: DriverChoice) -> Result<()> {
    let target = Target::http_requests(|mut http, head| async move {
        let piece = noise(6, BURST_BYTES);
        if head.request().1.ends_with("/chunked") {
            http.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await?;
            http.write_chunk(&piece).await?;
        } else {
            let length = BURST_BYTES + 1;
            http.write(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
            ))
            .await?;
            http.write(piece).await?;
        }
        abort(http.into_stream())?;
        anyhow::bail!("reset")
    })
    .await?;
    let relay = TestRelay::with().driver(driver).shards(2).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;

    for path in ["/chunked", "/counted"].repeat(5) {
        let mut caller = relay.http().await?;
        caller.get(&agent.path(path)).await?;
        let head = soon("the head", caller.head()).await??.context("no head")?;
        assert_eq!(head.status(), 200);
        let mut framing = HttpStream::framing(&head)?;
        let mut bytes = Vec::new();
        let broken = loop {
            match soon("the body", caller.piece(&mut framing)).await? {
                Ok(Some(piece)) => bytes.extend_from_slice(&piece),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        assert!(broken.is_some(), "{path}: the answer looks complete");
        assert_eq!(
            Digest::of(&bytes),
            Digest::of_noise(6, BURST_BYTES),
            "{path}"
        );
    }
    Ok(())
}

async fn frames_of_a_session_that_was_reset_are_dropped_and_counted_and_the_link_lives(
    driver: DriverChoice,
) -> Result<()> {
    // The first byte selects the behaviour: `s` streams without end, any other byte is echoed.
    let target = Target::tcp(|mut stream| async move {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        let block = noise(7, 64 * 1024);
        if byte == *b"s" {
            loop {
                stream.write_all(&block).await?;
            }
        }
        stream.write_all(&byte).await?;
        loop {
            match stream.read(&mut byte).await? {
                0 => return Ok(()),
                _ => stream.write_all(&byte).await?,
            }
        }
    })
    .await?;
    let relay = TestRelay::with().driver(driver).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut witness = relay.raw(agent.tunnel()).await?;
    echo_round_trip(&mut witness, b"e").await?;

    soon("a dropped frame", async {
        loop {
            let mut caller = relay.raw(agent.tunnel()).await?;
            caller.write_all(b"s").await?;
            caller.read_exact(&mut vec![0; 100_000]).await?;
            abort(caller)?;
            // The reset has reached the relay when it no longer counts the session.
            let metrics = relay
                .until("only the witness", |metrics| {
                    metrics.get("relay_sessions") == 1
                })
                .await?;
            if metrics.labelled("relay_frames_dropped_total", "ended_session") > 0 {
                return anyhow::Ok(());
            }
        }
    })
    .await??;

    soon("an echo", echo_round_trip(&mut witness, b"f")).await??;
    let metrics = relay.metrics().await?;
    assert_eq!(metrics.get("relay_links_total"), 1, "{metrics}");
    assert_eq!(metrics.get("relay_link_evictions_total"), 0, "{metrics}");
    Ok(())
}

async fn a_target_that_resets_during_an_upload_does_the_link_no_harm(
    driver: DriverChoice,
) -> Result<()> {
    // The first byte selects the behaviour: `r` resets, any other byte is echoed.
    let target = Target::tcp(|mut stream| async move {
        let mut byte = [0];
        loop {
            match stream.read(&mut byte).await? {
                0 => return Ok(()),
                _ if byte == *b"r" => return Ok(abort(stream)?),
                _ => stream.write_all(&byte).await?,
            }
        }
    })
    .await?;
    let relay = TestRelay::with().driver(driver).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut witness = relay.raw(agent.tunnel()).await?;
    echo_round_trip(&mut witness, b"e").await?;

    for _ in 0..20 {
        let caller = relay.raw(agent.tunnel()).await?;
        let (mut reads, mut writes) = caller.into_split();
        let upload = async {
            writes.write_all(b"r").await?;
            let block = noise(8, 64 * 1024);
            loop {
                writes.write_all(&block).await?;
            }
        };
        let ended: std::io::Result<()> = soon("the end of the upload", upload).await?;
        ensure!(ended.is_err(), "the upload never ended");
        let read = soon("the reset", reads.read(&mut [0; 16])).await?;
        ensure!(
            !matches!(read, Ok(1..)),
            "received bytes that the target did not send"
        );
    }

    soon("an echo", echo_round_trip(&mut witness, b"f")).await??;
    let metrics = relay
        .until("only the witness", |metrics| {
            metrics.get("relay_sessions") == 1
        })
        .await?;
    assert_eq!(metrics.get("relay_links_total"), 1, "{metrics}");
    assert_eq!(metrics.get("relay_link_evictions_total"), 0, "{metrics}");
    Ok(())
}

async fn an_upload_that_breaks_off_never_looks_complete_to_a_target_that_has_ended(
    driver: DriverChoice,
) -> Result<()> {
    let (tell, mut ends) = tokio::sync::mpsc::channel(1);
    let target = Target::tcp(move |mut stream| {
        let tell = tell.clone();
        async move {
            stream.shutdown().await?;
            let (_, end) = read_to_close(&mut stream).await;
            tell.send(end).await?;
            Ok(())
        }
    })
    .await?;
    let relay = TestRelay::with().driver(driver).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    caller.write_all(b"the first half of it").await?;
    let (answer, end) = soon("the target's end", read_to_close(&mut caller)).await?;
    ensure!(answer.is_empty() && end.is_ok(), "{answer:?} {end:?}");
    abort(caller)?;
    let end = soon("the end at the target", ends.recv()).await?;
    let end = end.context("no target")?;
    assert!(is_reset(&end), "{end:?}");
    Ok(())
}
