//! The budget of a shard, which bounds the bytes that its sessions hold together.

use anyhow::{Result, ensure};
use socket2::SockRef;
use tieline_e2e::behaviour::{Metrics, Target, TestAgent, TestRelay, noise, soon};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MIB: i64 = 1024 * 1024;

/// More links than the budget has room for at a link's full window.
const LINKS: usize = 6;

const FLOOD_BYTES: usize = 12 * 1024 * 1024;

/// Socket buffer size at the test's own ends, in bytes.
const OWN_BUFFER_BYTES: usize = 256 * 1024;

on_each_driver!(
    a_small_budget_bounds_what_many_links_hold_and_nothing_is_lost,
    uploads_through_a_small_budget_arrive_whole,
);

fn relay(driver: DriverChoice) -> Result<TestRelay> {
    TestRelay::with()
        .driver(driver)
        .shards(1)
        .config(|config| {
            config.shard_budget_bytes = MIB as u64;
            // No bulk lanes: all bytes go over the links.
            config.bulk_run_bytes = 0;
        })
        .start()
}

fn windows(metrics: &Metrics) -> i64 {
    metrics.labelled("relay_budget_used_bytes", "to_frontend")
}

fn queued(metrics: &Metrics) -> i64 {
    metrics.labelled("relay_budget_used_bytes", "to_target")
}

async fn a_small_budget_bounds_what_many_links_hold_and_nothing_is_lost(
    driver: DriverChoice,
) -> Result<()> {
    let target = Target::tcp(|mut stream| async move {
        SockRef::from(&stream).set_send_buffer_size(OWN_BUFFER_BYTES)?;
        stream.read_u8().await?;
        stream.write_all(&noise(1, FLOOD_BYTES)).await?;
        Ok(())
    })
    .await?;
    let relay = relay(driver)?;
    let mut agents = Vec::new();
    let mut callers = Vec::new();
    for _ in 0..LINKS {
        let agent = TestAgent::of(&target).start(&relay).await?;
        let mut caller = relay.raw(agent.tunnel()).await?;
        SockRef::from(&caller).set_recv_buffer_size(OWN_BUFFER_BYTES)?;
        caller.write_all(b"f").await?;
        agents.push(agent);
        callers.push(caller);
    }
    let expected = noise(1, FLOOD_BYTES);
    let mut bytes = vec![0; FLOOD_BYTES / 4];
    for part in expected.chunks(FLOOD_BYTES / 4) {
        // The callers take turns, so that the others wait while one reads.
        for caller in &mut callers {
            soon("a part of the flood", caller.read_exact(&mut bytes)).await??;
            ensure!(bytes == part, "the flood was changed on the way");
        }
        let metrics = relay.metrics().await?;
        ensure!(windows(&metrics) <= MIB, "{metrics}");
    }
    let metrics = relay.metrics().await?;
    assert_eq!(metrics.get("relay_budget_bytes"), MIB);
    assert!(metrics.get("relay_budget_short_total") > 0, "{metrics}");
    drop(callers);
    relay
        .until("the budget to be released", |metrics| windows(metrics) == 0)
        .await?;
    Ok(())
}

async fn uploads_through_a_small_budget_arrive_whole(driver: DriverChoice) -> Result<()> {
    let target = Target::tcp(|mut stream| async move {
        SockRef::from(&stream).set_recv_buffer_size(OWN_BUFFER_BYTES)?;
        let mut bytes = vec![0; FLOOD_BYTES];
        stream.read_exact(&mut bytes).await?;
        ensure!(
            bytes == noise(1, FLOOD_BYTES),
            "the flood was changed on the way"
        );
        stream.write_all(b"whole").await?;
        Ok(())
    })
    .await?;
    let relay = relay(driver)?;
    let mut agents = Vec::new();
    let mut uploads = tokio::task::JoinSet::new();
    for _ in 0..LINKS {
        let agent = TestAgent::of(&target).start(&relay).await?;
        let mut caller = relay.raw(agent.tunnel()).await?;
        agents.push(agent);
        uploads.spawn(async move {
            caller.write_all(&noise(1, FLOOD_BYTES)).await?;
            let mut answer = [0; 5];
            soon("an answer", caller.read_exact(&mut answer)).await??;
            ensure!(&answer == b"whole", "{answer:?}");
            anyhow::Ok(())
        });
    }
    while let Some(outcome) = soon("the uploads", uploads.join_next()).await? {
        outcome??;
    }
    relay
        .until("the queues to drain", |metrics| queued(metrics) == 0)
        .await?;
    Ok(())
}
