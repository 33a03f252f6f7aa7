//! Shards on which raw callers are accepted.

use anyhow::{Result, ensure};
use tieline_e2e::behaviour::{Target, TestAgent, TestRelay, echo_round_trip};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;

/// Enough callers that, spread over two shards, they would not all be accepted on the same shard.
const CALLERS: usize = 64;

on_each_driver!(raw_callers_come_in_on_the_shards_that_have_links);

/// Number of the [`CALLERS`] that were handed off between shards.
async fn moved(relay: &TestRelay, tunnels: &[&str]) -> Result<i64> {
    let count = async || -> Result<i64> {
        let metrics = relay.metrics().await?;
        Ok(metrics.labelled("relay_handoffs_total", "frontend"))
    };
    let before = count().await?;
    for tunnel in tunnels.iter().cycle().take(CALLERS) {
        let mut caller = relay.raw(tunnel).await?;
        echo_round_trip(&mut caller, b"hello").await?;
    }
    Ok(count().await? - before)
}

async fn raw_callers_come_in_on_the_shards_that_have_links(driver: DriverChoice) -> Result<()> {
    let relay = TestRelay::with().shards(2).driver(driver).start()?;
    let target = Target::echo().await?;
    let links = async |count| {
        relay
            .until("the links", |it| it.get("relay_links") == count)
            .await
    };
    let first = TestAgent::of(&target).named("first").start(&relay).await?;
    links(1).await?;
    ensure!(moved(&relay, &["first"]).await? == 0);

    // The second agent's link goes to the other shard; from then on both shards accept callers of either tunnel.
    let second = TestAgent::of(&target).named("second").start(&relay).await?;
    links(2).await?;
    let handed_on = moved(&relay, &["first", "second"]).await?;
    ensure!((1..64).contains(&handed_on), "{handed_on}");

    drop(first);
    links(1).await?;
    ensure!(moved(&relay, &["second"]).await? == 0);
    drop(second);
    Ok(())
}
