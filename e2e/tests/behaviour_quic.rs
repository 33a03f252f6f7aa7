//! Callers over QUIC: each stream is a raw caller with bytes and ends as over TCP, also where its session is on another
//! shard. Links over QUIC: sessions as over TCP, on paths that change or die, and agents that come, go and prove who they
//! are.

#[path = "behaviour_quic/ends.rs"]
mod ends;
#[path = "behaviour_quic/links.rs"]
mod links;
#[path = "behaviour_quic/lives.rs"]
mod lives;
#[path = "behaviour_quic/paths.rs"]
mod paths;
#[path = "behaviour_quic/refusals.rs"]
mod refusals;

use anyhow::{Result, bail};
use tieline_e2e::behaviour::{
    Digest, LONG_BYTES, PatientTarget, QuicCaller, Target, TestAgent, TestCertificate, TestRelay,
    noise, read_to_close, soon,
};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

on_each_driver!(
    bytes_pass_both_ways_on_every_shard,
    half_closes_pass_in_both_directions_on_every_shard,
    a_caller_that_reads_slowly_loses_nothing,
    targets_that_read_nothing_hold_up_no_other_stream,
);

/// A relay with two shards, so that about half of the connections are on a shard without the link.
fn relay(driver: DriverChoice, certificate: &TestCertificate) -> Result<TestRelay> {
    let relay = TestRelay::with().driver(driver).shards(2);
    relay.quic(certificate).start()
}

/// Callers until there was one on the link's shard and one on the other.
async fn callers_on_both_shards(
    relay: &TestRelay,
    certificate: &TestCertificate,
    mut act: impl AsyncFnMut(&QuicCaller) -> Result<()>,
) -> Result<()> {
    let crossings = async || anyhow::Ok(relay.metrics().await?.get("relay_crossings_total"));
    let mut seen = [false; 2];
    // A connection's shard is random, so 32 of them all on one shard are one in four billion.
    for _ in 0..32 {
        let before = crossings().await?;
        let caller = relay.quic_caller(certificate).await?;
        act(&caller).await?;
        seen[usize::from(crossings().await? > before)] = true;
        if seen == [true; 2] {
            return Ok(());
        }
    }
    bail!("all callers were on one shard: {seen:?}")
}

async fn bytes_pass_both_ways_on_every_shard(driver: DriverChoice) -> Result<()> {
    const LEN: usize = 8 * 1024 * 1024;
    let certificate = TestCertificate::new("relay.test")?;
    let relay = relay(driver, &certificate)?;
    let echo = Target::echo().await?;
    let agent = TestAgent::of(&echo).start(&relay).await?;
    let mut seed = 0;
    callers_on_both_shards(&relay, &certificate, async |caller| {
        seed += 1;
        let (mut reads, mut writes) = tokio::io::split(caller.raw(agent.tunnel()).await?);
        let sending = async {
            writes.write_all(&noise(seed, LEN)).await?;
            writes.shutdown().await
        };
        let echoed = async { tokio::join!(sending, read_to_close(&mut reads)) };
        let (sent, (heard, end)) = soon("the echo", echoed).await?;
        sent?;
        end?;
        assert_eq!(heard, Digest::of_noise(seed, LEN));
        Ok(())
    })
    .await?;
    let metrics = relay.metrics().await?;
    assert!(metrics.labelled("relay_frontends_total", "quic") >= 2);
    relay
        .until("no session", |metrics| metrics.get("relay_sessions") == 0)
        .await?;
    Ok(())
}

async fn half_closes_pass_in_both_directions_on_every_shard(driver: DriverChoice) -> Result<()> {
    let mut target = PatientTarget::start().await?;
    let certificate = TestCertificate::new("relay.test")?;
    let relay = relay(driver, &certificate)?;
    let agent = TestAgent::of(target.target()).start(&relay).await?;
    callers_on_both_shards(&relay, &certificate, async |caller| {
        let mut stream = caller.raw(agent.tunnel()).await?;
        target.answers(&mut stream).await
    })
    .await
}

async fn a_caller_that_reads_slowly_loses_nothing(driver: DriverChoice) -> Result<()> {
    let target = Target::tcp(|mut stream| async move {
        stream.write_all(&noise(3, LONG_BYTES)).await?;
        Ok(())
    })
    .await?;
    let certificate = TestCertificate::new("relay.test")?;
    let relay = relay(driver, &certificate)?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    callers_on_both_shards(&relay, &certificate, async |caller| {
        let before = relay.metrics().await?;
        let before = before.labelled("relay_bytes_total", "to_frontend");
        let mut stream = caller.raw(agent.tunnel()).await?;
        relay
            .until("the caller's window is full", |metrics| {
                metrics.labelled("relay_bytes_total", "to_frontend") > before + 200_000
            })
            .await?;
        let mut heard = Vec::new();
        let mut piece = vec![0; 50_000];
        for size in [1, 17, 50_000, 3].into_iter().cycle() {
            let count = soon("more", stream.read(&mut piece[..size])).await??;
            if count == 0 {
                break;
            }
            heard.extend_from_slice(&piece[..count]);
        }
        assert_eq!(Digest::of(&heard), Digest::of_noise(3, LONG_BYTES));
        Ok(())
    })
    .await
}

async fn targets_that_read_nothing_hold_up_no_other_stream(driver: DriverChoice) -> Result<()> {
    const STALLED: usize = 30;
    let certificate = TestCertificate::new("relay.test")?;
    let relay = TestRelay::with().driver(driver).quic(&certificate);
    let relay = relay
        .config(|config| {
            config.callers.quic_streams_max = 31;
            // Half of it is the room for windows, of which no session gets more than a quarter.
            config.shard_budget_bytes = 1024 * 1024 * 1024;
        })
        .start()?;
    let deaf = Target::tcp(|stream| async move {
        let _open = stream;
        std::future::pending().await
    })
    .await?;
    let echo = Target::echo().await?;
    let deaf = TestAgent::of(&deaf).start(&relay).await?;
    let echo = TestAgent::of(&echo).start(&relay).await?;
    let caller = relay.quic_caller(&certificate).await?;
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let mut stream = caller.raw(deaf.tunnel()).await?;
        // More than the session's credit and the buffers of the target's connection take.
        let sending = tokio::spawn(async move {
            let _ = stream.write_all(&noise(1, LONG_BYTES)).await;
            std::future::pending::<()>().await;
        });
        stalled.push(sending);
    }
    let mut live = caller.raw(echo.tunnel()).await?;
    for seed in 0..20 {
        let sent = noise(seed, 100_000);
        let mut heard = vec![0; sent.len()];
        live.write_all(&sent).await?;
        soon("the echo", live.read_exact(&mut heard)).await??;
        assert_eq!(Digest::of(&heard), Digest::of(&sent));
    }
    stalled.iter().for_each(|it| it.abort());
    Ok(())
}
