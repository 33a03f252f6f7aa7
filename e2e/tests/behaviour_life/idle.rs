//! An idle tunnel without callers.

use std::time::Duration;

use anyhow::{Result, ensure};
use tieline_e2e::behaviour::{Target, TestAgent, TestRelay, at_some_pace, echo_round_trip};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;

/// Stale timeouts.
const PACES: [Duration; 2] = [Duration::from_millis(800), Duration::from_secs(5)];

on_each_driver!(a_healthy_idle_tunnel_stays_listed_far_beyond_the_stale_timeout);

async fn a_healthy_idle_tunnel_stays_listed_far_beyond_the_stale_timeout(
    driver: DriverChoice,
) -> Result<()> {
    at_some_pace(&PACES, async |stale| stays_listed(driver, stale).await).await
}

async fn stays_listed(driver: DriverChoice, stale: Duration) -> Result<()> {
    let relay = TestRelay::with()
        .driver(driver)
        .shards(2)
        .stale_timeout(stale)
        .start()?;
    let target = Target::echo().await?;
    let agent = TestAgent::of(&target).links(2).start(&relay).await?;
    relay
        .until("both links", |metrics| metrics.get("relay_links") == 2)
        .await?;

    let until_ms = u64::try_from((stale * 8).as_millis())?;
    let mut age_ms = 0;
    while age_ms < until_ms {
        let rows = relay.tunnels().await?;
        ensure!(
            rows.len() == 1 && rows[0].tunnel_id == agent.tunnel(),
            "{rows:?}"
        );
        // The last heartbeat is within the timeout, and the first registration is still in force.
        ensure!(
            u128::from(rows[0].last_heartbeat_ms_ago) < stale.as_millis(),
            "{rows:?}"
        );
        ensure!(rows[0].registered_at_ms_ago >= age_ms, "{rows:?}");
        age_ms = rows[0].registered_at_ms_ago;
        tokio::time::sleep(stale / 16).await;
    }
    let metrics = relay.metrics().await?;
    ensure!(metrics.get("relay_links_total") == 2, "{metrics}");
    ensure!(metrics.get("relay_link_evictions_total") == 0, "{metrics}");
    let mut caller = relay.raw(agent.tunnel()).await?;
    echo_round_trip(&mut caller, b"still there?").await?;
    Ok(())
}
