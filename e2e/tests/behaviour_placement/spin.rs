//! `spin_us`: a shard polls for a while before it sleeps.

use std::time::Duration;

use anyhow::{Result, ensure};
use tieline_e2e::behaviour::{Target, TestAgent, TestRelay, echo_round_trip};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;

/// Largest value of `spin_us`.
const SPIN_US: u32 = 10_000;

/// Much longer than a shard spins after its last task.
const IDLE: Duration = Duration::from_millis(200);

on_each_driver!(
    a_shard_spins_after_its_work_and_sleeps_when_there_is_none,
    a_shard_that_is_not_told_to_does_not_spin,
);

async fn a_shard_spins_after_its_work_and_sleeps_when_there_is_none(
    driver: DriverChoice,
) -> Result<()> {
    let relay = TestRelay::with()
        .shards(2)
        .driver(driver)
        .config(|config| config.spin_us = SPIN_US)
        .start()?;
    let target = Target::echo().await?;
    let agent = TestAgent::of(&target).links(2).start(&relay).await?;
    let mut callers = Vec::new();
    for _ in 0..32 {
        callers.push(relay.raw(agent.tunnel()).await?);
    }
    for _ in 0..20 {
        for caller in &mut callers {
            echo_round_trip(caller, &[7; 5_000]).await?;
        }
    }
    let passes = relay.metrics().await?.get("relay_spin_passes_total");
    ensure!(passes > 100, "{passes} passes");

    // Only the sweep's timer wakes a shard now: it spins for `spin_us` and then sleeps.
    let mut slept = false;
    for _ in 0..20 {
        if slept {
            break;
        }
        let before = relay.metrics().await?.get("relay_spin_passes_total");
        tokio::time::sleep(IDLE).await;
        slept = relay.metrics().await?.get("relay_spin_passes_total") == before;
    }
    ensure!(slept, "a shard without work went on spinning");
    for caller in &mut callers {
        echo_round_trip(caller, b"awake again").await?;
    }
    drop(callers);
    relay
        .until("no session", |it| it.get("relay_sessions") == 0)
        .await?;
    relay.stop();
    Ok(())
}

async fn a_shard_that_is_not_told_to_does_not_spin(driver: DriverChoice) -> Result<()> {
    let relay = TestRelay::with().driver(driver).shards(2).start()?;
    let target = Target::echo().await?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    echo_round_trip(&mut caller, b"hello").await?;
    let metrics = relay.metrics().await?;
    ensure!(metrics.get("relay_spin_passes_total") == 0, "{metrics}");
    Ok(())
}
