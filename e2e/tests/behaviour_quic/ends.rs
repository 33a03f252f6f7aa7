//! Streams that break off: resets with their reasons in both directions, callers that cancel, connections that end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use quinn_proto::{ConnectionError, VarInt};
use tieline_agent::AgentEvent;
use tieline_e2e::behaviour::{
    DatagramPath, Digest, QuicCaller, QuicCallerStream, ResetBy, Target, TestAgent,
    TestCertificate, TestRelay, abort, is_reset, noise, read_to_close, soon,
};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tieline_wire::{LinkEnd, SessionEnd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};

use super::{callers_on_both_shards, relay};

on_each_driver!(
    what_a_target_breaks_off_is_reset_behind_its_last_byte,
    what_a_caller_breaks_off_does_not_look_complete,
    a_caller_whose_agent_is_lost_hears_of_it,
    callers_of_a_relay_that_stops_are_told,
    each_of_many_callers_is_told_that_the_relay_stops,
    an_answer_on_its_way_arrives_although_the_relay_stops,
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
    hears_that_the_relay_stops(&caller).await?;
    stopping.await?;
    Ok(())
}

/// More callers than a shard runs tasks in some of its turns.
async fn each_of_many_callers_is_told_that_the_relay_stops(driver: DriverChoice) -> Result<()> {
    const CALLERS: usize = 1_200;
    let certificate = TestCertificate::new("relay.test")?;
    let relay = TestRelay::with().driver(driver).config(|config| {
        config.shards = 1;
        config.drain_timeout = Duration::from_millis(100);
    });
    let relay = relay.quic(&certificate).start()?;
    let mut callers = Vec::with_capacity(CALLERS);
    for _ in 0..CALLERS {
        callers.push(relay.quic_caller(&certificate).await?);
    }
    let stopping = tokio::task::spawn_blocking(move || relay.stop());
    for caller in &callers {
        hears_that_the_relay_stops(caller).await?;
    }
    stopping.await?;
    Ok(())
}

async fn hears_that_the_relay_stops(caller: &QuicCaller) -> Result<()> {
    match caller.lost().await? {
        ConnectionError::ApplicationClosed(close) => {
            let code = VarInt::from(LinkEnd::ShuttingDown.code());
            assert_eq!(close.error_code, code);
            Ok(())
        }
        other => bail!("{other}"),
    }
}

async fn an_answer_on_its_way_arrives_although_the_relay_stops(driver: DriverChoice) -> Result<()> {
    for crosses in [false, true] {
        stops_behind_an_answer(driver, crosses).await?;
    }
    Ok(())
}

/// A relay stops that has given QUIC a whole answer, while nothing reaches the caller. The session is on another shard than
/// the caller's connection if it `crosses`.
async fn stops_behind_an_answer(driver: DriverChoice, crosses: bool) -> Result<()> {
    const LEN: usize = 100_000;
    let (asked, mut is_asked) = mpsc::channel(1);
    let answers = Arc::new(Notify::new());
    let may_answer = Arc::clone(&answers);
    let target = Target::tcp(move |mut stream| {
        let (asked, may_answer) = (asked.clone(), Arc::clone(&may_answer));
        async move {
            stream.read_to_end(&mut Vec::new()).await?;
            asked.send(()).await?;
            may_answer.notified().await;
            Ok(stream.write_all(&noise(6, LEN)).await?)
        }
    })
    .await?;
    let certificate = TestCertificate::new("relay.test")?;
    let relay = TestRelay::with().driver(driver).shards(2);
    let relay = relay.config(|config| config.drain_timeout = Duration::from_secs(20));
    let relay = relay.quic(&certificate).start()?;
    let path = DatagramPath::start(relay.quic_address())?;
    let mut agent = TestAgent::of(&target).start(&relay).await?;
    let mut ask = async |caller: &QuicCaller| -> Result<QuicCallerStream> {
        let mut stream = caller.raw(agent.tunnel()).await?;
        stream.shutdown().await?;
        let question = soon("the question", is_asked.recv()).await?;
        question.context("the target is gone")?;
        Ok(stream)
    };

    // A connection's shard is random, so 32 of them all on one shard are one in four billion.
    let mut found = None;
    for _ in 0..32 {
        let crossings = async || anyhow::Ok(relay.metrics().await?.get("relay_crossings_total"));
        let before = crossings().await?;
        let caller = QuicCaller::connect(path.address(), &certificate, "tieline").await?;
        let mut stream = ask(&caller).await?;
        answers.notify_one();
        let (_, end) = soon("an answer", read_to_close(&mut stream)).await?;
        end?;
        if (crossings().await? > before) == crosses {
            found = Some(caller);
            break;
        }
    }
    let caller = found.context("all callers were on one shard")?;
    let mut stream = ask(&caller).await?;
    path.dies(true);
    answers.notify_one();
    relay
        .until("QUIC has the answer", |metrics| {
            metrics.get("relay_sessions") == 0
        })
        .await?;
    let stopping = tokio::task::spawn_blocking(move || relay.stop());
    agent
        .saw(|event| matches!(event, AgentEvent::GoingAway { .. }).then_some(()))
        .await?;
    path.dies(false);
    let (heard, end) = soon("the answer", read_to_close(&mut stream)).await?;
    end?;
    assert_eq!(heard, Digest::of_noise(6, LEN));
    stopping.await?;
    Ok(())
}
