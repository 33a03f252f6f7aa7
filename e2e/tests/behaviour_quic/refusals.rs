//! Callers over QUIC that are turned away: each is told the reason's code, and counted.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use quinn_proto::{ConnectionError, TransportErrorCode};
use tieline_e2e::behaviour::{
    QuicCaller, QuicCallerStream, ResetBy, Target, TestAgent, TestCertificate, TestRelay,
    read_to_close, soon,
};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tieline_wire::CallerRefusal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::relay;

on_each_driver!(
    another_protocol_is_refused_in_the_handshake,
    refused_streams_are_told_why_and_others_go_on,
    a_connection_without_a_stream_is_closed,
    streams_beyond_the_limit_wait_for_an_end,
    streams_that_are_reset_at_once_are_counted_and_others_go_on,
    streams_that_say_nothing_end_by_the_time_limit,
);

/// Waits for the reset of a stream, and compares its code.
async fn is_refused(stream: &mut QuicCallerStream, reason: CallerRefusal) -> Result<()> {
    let (_, end) = soon("the refusal", read_to_close(stream)).await?;
    let code = ResetBy::of(&end).with_context(|| format!("{end:?}"))?;
    assert_eq!(code, reason as u64, "{reason}");
    Ok(())
}

async fn another_protocol_is_refused_in_the_handshake(driver: DriverChoice) -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = relay(driver, &certificate)?;
    for protocol in ["h3", "http/1.1", "tieline/2"] {
        let connected = QuicCaller::connect(relay.quic_address(), &certificate, protocol).await;
        let error = connected.err().context("the relay took the protocol")?;
        match error.downcast_ref() {
            // The alert no_application_protocol (RFC 7301).
            Some(ConnectionError::ConnectionClosed(close)) => {
                assert_eq!(close.error_code, TransportErrorCode::crypto(120));
            }
            other => bail!("{other:?}"),
        }
    }
    relay
        .until("failed handshakes", |metrics| {
            metrics.labelled("relay_tls_failures_total", "alpn") >= 3
        })
        .await?;
    Ok(())
}

async fn refused_streams_are_told_why_and_others_go_on(driver: DriverChoice) -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = TestRelay::with()
        .driver(driver)
        .preamble_timeout(Duration::from_millis(500))
        .quic(&certificate)
        .start()?;
    let echo = Target::echo().await?;
    let agent = TestAgent::of(&echo).start(&relay).await?;
    let caller = relay.quic_caller(&certificate).await?;
    let mut live = caller.raw(agent.tunnel()).await?;

    let mut unknown = caller.raw("nobody-has-this-name").await?;
    is_refused(&mut unknown, CallerRefusal::UnknownTunnel).await?;
    let mut garbage = caller.open().await?;
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
    is_refused(&mut garbage, CallerRefusal::Preamble).await?;
    let mut late = caller.open().await?;
    late.write_all(b"\0").await?;
    is_refused(&mut late, CallerRefusal::Preamble).await?;
    let mut ended = caller.open().await?;
    ended.write_all(b"\0\x04may").await?;
    ended.shutdown().await?;
    is_refused(&mut ended, CallerRefusal::Preamble).await?;

    live.write_all(b"some").await?;
    let mut heard = [0; 4];
    soon("the echo", live.read_exact(&mut heard)).await??;
    assert_eq!(&heard, b"some");
    let metrics = relay.metrics().await?;
    let refused = |reason| metrics.labelled("relay_frontend_refused_total", reason);
    assert_eq!((refused("unknown_tunnel"), refused("preamble")), (1, 3));
    assert_eq!(metrics.labelled("relay_frontends_total", "quic"), 5);
    Ok(())
}

async fn a_connection_without_a_stream_is_closed(driver: DriverChoice) -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = TestRelay::with()
        .driver(driver)
        .preamble_timeout(Duration::from_millis(500))
        .quic(&certificate)
        .start()?;
    let caller = relay.quic_caller(&certificate).await?;
    let lost = caller.lost().await?;
    ensure!(
        matches!(lost, ConnectionError::ApplicationClosed(_)),
        "{lost}"
    );
    Ok(())
}

async fn streams_beyond_the_limit_wait_for_an_end(driver: DriverChoice) -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = TestRelay::with().driver(driver).quic(&certificate);
    let relay = relay
        .config(|config| config.callers.quic_streams_max = 2)
        .start()?;
    let echo = Target::echo().await?;
    let agent = TestAgent::of(&echo).start(&relay).await?;
    let caller = relay.quic_caller(&certificate).await?;
    let mut one = caller.raw(agent.tunnel()).await?;
    let _two = caller.raw(agent.tunnel()).await?;
    relay
        .until("two sessions", |metrics| metrics.get("relay_sessions") == 2)
        .await?;
    assert!(caller.try_open().is_none());
    one.shutdown().await?;
    let (_, end) = soon("the end", read_to_close(&mut one)).await?;
    end?;
    let mut three = caller.raw(agent.tunnel()).await?;
    three.write_all(b"some").await?;
    soon("the echo", three.read_exact(&mut [0; 4])).await??;
    Ok(())
}

async fn streams_that_are_reset_at_once_are_counted_and_others_go_on(
    driver: DriverChoice,
) -> Result<()> {
    const STREAMS: i64 = 300;
    let certificate = TestCertificate::new("relay.test")?;
    let relay = relay(driver, &certificate)?;
    let echo = Target::echo().await?;
    let agent = TestAgent::of(&echo).start(&relay).await?;
    let other = relay.quic_caller(&certificate).await?;
    let mut live = other.raw(agent.tunnel()).await?;
    let caller = relay.quic_caller(&certificate).await?;
    for number in 0..STREAMS {
        // Before the preamble, within it, and behind it.
        let mut stream = match number % 3 {
            2 => caller.raw(agent.tunnel()).await?,
            _ => caller.open().await?,
        };
        if number % 3 == 1 {
            stream.write_all(b"\0").await?;
        }
        stream.reset();
        stream.stop();
        if number % 50 == 0 {
            live.write_all(b"some").await?;
            soon("the echo", live.read_exact(&mut [0; 4])).await??;
        }
    }
    relay
        .until("the end of all streams", |metrics| {
            metrics.labelled("relay_frontends_total", "quic") == STREAMS + 1
                && metrics.get("relay_sessions") == 1
                && metrics.get("relay_frontends") == 1
        })
        .await?;
    live.write_all(b"some").await?;
    soon("the echo", live.read_exact(&mut [0; 4])).await??;
    Ok(())
}

async fn streams_that_say_nothing_end_by_the_time_limit(driver: DriverChoice) -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = TestRelay::with()
        .driver(driver)
        .preamble_timeout(Duration::from_millis(500))
        .quic(&certificate)
        .start()?;
    let echo = Target::echo().await?;
    let agent = TestAgent::of(&echo).start(&relay).await?;
    let caller = relay.quic_caller(&certificate).await?;
    let mut live = caller.raw(agent.tunnel()).await?;
    let mut silent = Vec::new();
    for _ in 0..8 {
        let mut stream = caller.open().await?;
        // A stream exists once its first byte has come.
        stream.write_all(b"\0").await?;
        silent.push(stream);
    }
    for mut stream in silent {
        is_refused(&mut stream, CallerRefusal::Preamble).await?;
    }
    live.write_all(b"some").await?;
    soon("the echo", live.read_exact(&mut [0; 4])).await??;
    let metrics = relay.metrics().await?;
    assert_eq!(
        metrics.labelled("relay_frontend_refused_total", "preamble"),
        8
    );
    Ok(())
}
