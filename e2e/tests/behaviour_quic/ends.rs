//! Streams that break off: resets with their reasons in both directions, callers that cancel, connections that end.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use quinn_proto::{ConnectionError, VarInt};
use tieline_e2e::behaviour::{
    Digest, ResetBy, Target, TestAgent, TestCertificate, TestRelay, abort, is_reset, noise,
    read_to_close, soon,
};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tieline_wire::{LinkEnd, SessionEnd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::{callers_on_both_shards, relay};

on_each_driver!(
    what_a_target_breaks_off_is_reset_behind_its_last_byte,
    what_a_caller_breaks_off_does_not_look_complete,
    a_caller_whose_agent_is_lost_hears_of_it,
    callers_of_a_relay_that_stops_are_told,
);

/// Bytes that a target sends before it breaks off: less than the windows on their way.
const BEFORE: usize = 100_000;

async fn what_a_target_breaks_off_is_reset_behind_its_last_byte(
    driver: DriverChoice,
) -> Result<()> {
    let target = Target::tcp(|mut stream| async move {
        stream.write_all(&noise(4, BEFORE)).await?;
        // The relay has read everything once the answer comes back.
        stream.read_exact(&mut [0; 4]).await?;
        Ok(abort(stream)?)
    })
    .await?;
    let certificate = TestCertificate::new("relay.test")?;
    let relay = relay(driver, &certificate)?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    callers_on_both_shards(&relay, &certificate, async |caller| {
        let mut stream = caller.raw(agent.tunnel()).await?;
        let mut heard = vec![0; BEFORE];
        soon("the answer", stream.read_exact(&mut heard)).await??;
        assert_eq!(Digest::of(&heard), Digest::of_noise(4, BEFORE));
        stream.write_all(b"more").await?;
        let (_, end) = soon("the end", read_to_close(&mut stream)).await?;
        let code = u64::from(SessionEnd::TargetReset.code());
        assert_eq!(ResetBy::of(&end), Some(code), "{end:?}");
        Ok(())
    })
    .await
}

async fn what_a_caller_breaks_off_does_not_look_complete(driver: DriverChoice) -> Result<()> {
    let (tell, mut ends) = mpsc::channel(1);
    let target = Target::tcp(move |mut stream| {
        let tell = tell.clone();
        async move {
            let (_, end) = read_to_close(&mut stream).await;
            Ok(tell.send(is_reset(&end)).await?)
        }
    })
    .await?;
    let certificate = TestCertificate::new("relay.test")?;
    let relay = relay(driver, &certificate)?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut way = 0;
    callers_on_both_shards(&relay, &certificate, async |caller| {
        let mut stream = caller.raw(agent.tunnel()).await?;
        let before = relay.metrics().await?.get("relay_bytes_total");
        stream.write_all(b"some").await?;
        relay
            .until("the bytes", |metrics| {
                metrics.get("relay_bytes_total") > before
            })
            .await?;
        way += 1;
        match way % 2 {
            0 => stream.reset(),
            _ => stream.stop(),
        }
        let was_reset = soon("the target's end", ends.recv()).await?;
        assert!(was_reset.context("the target is gone")?);
        Ok(())
    })
    .await?;
    // A caller that is gone with its whole connection.
    let caller = relay.quic_caller(&certificate).await?;
    let mut stream = caller.raw(agent.tunnel()).await?;
    stream.write_all(b"some").await?;
    relay
        .until("a session", |metrics| metrics.get("relay_sessions") == 1)
        .await?;
    drop(caller);
    let was_reset = soon("the target's end", ends.recv()).await?;
    assert!(was_reset.context("the target is gone")?);
    relay
        .until("no session", |metrics| metrics.get("relay_sessions") == 0)
        .await?;
    Ok(())
}

async fn a_caller_whose_agent_is_lost_hears_of_it(driver: DriverChoice) -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = relay(driver, &certificate)?;
    let echo = Target::echo().await?;
    // An agent for each caller, because each loses its agent.
    callers_on_both_shards(&relay, &certificate, async |caller| {
        let agent = TestAgent::of(&echo).start(&relay).await?;
        let mut stream = caller.raw(agent.tunnel()).await?;
        stream.write_all(b"some").await?;
        soon("the echo", stream.read_exact(&mut [0; 4])).await??;
        agent.kill()?;
        let (_, end) = soon("the end", read_to_close(&mut stream)).await?;
        assert!(ResetBy::of(&end).is_some(), "{end:?}");
        Ok(())
    })
    .await
}

async fn callers_of_a_relay_that_stops_are_told(driver: DriverChoice) -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = TestRelay::with()
        .driver(driver)
        .config(|config| config.drain_timeout = Duration::from_millis(100));
    let relay = relay.quic(&certificate).start()?;
    let echo = Target::echo().await?;
    let agent = TestAgent::of(&echo).start(&relay).await?;
    let caller = relay.quic_caller(&certificate).await?;
    let mut stream = caller.raw(agent.tunnel()).await?;
    stream.write_all(b"some").await?;
    soon("the echo", stream.read_exact(&mut [0; 4])).await??;
    let stopping = tokio::task::spawn_blocking(move || relay.stop());
    match caller.lost().await? {
        ConnectionError::ApplicationClosed(close) => {
            let code = VarInt::from(LinkEnd::ShuttingDown.code());
            assert_eq!(close.error_code, code);
        }
        other => bail!("{other}"),
    }
    stopping.await?;
    Ok(())
}
