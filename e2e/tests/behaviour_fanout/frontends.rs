//! Many callers of one tunnel, whose agent has a single link.

use std::sync::Arc;

use anyhow::{Result, ensure};
use tieline_e2e::behaviour::{Child, ChildRelay};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;

use super::{alone, burst, child, flags, growth, note, size};

on_each_driver!(thousands_of_frontends_share_one_link_without_an_error);

async fn thousands_of_frontends_share_one_link_without_an_error(
    driver: DriverChoice,
) -> Result<()> {
    let _alone = alone().await;
    let size = size()?;
    let (_target, address) = Child::echo(child())?;
    let relay = Arc::new(ChildRelay::start(child(), &flags(driver))?);
    let agent = Child::agent(child(), &relay.agent_url(), &address.to_string(), "maya")?;
    let before = (relay.process.resident_bytes()?, agent.resident_bytes()?);

    let callers = burst(&relay, vec!["maya".to_owned(); size].into_iter()).await?;
    let rows = relay.tunnels().await?;
    ensure!(rows.len() == 1 && rows[0].session_count == size, "{rows:?}");
    note(&format!(
        "after it, a session has cost {:.1} KiB in the relay and {:.1} KiB in the agent",
        growth(&relay.process, before.0, size)?,
        growth(&agent, before.1, size)?,
    ));

    drop(callers);
    let metrics = relay
        .until("no session and no frontend", |metrics| {
            metrics.get("relay_sessions") == 0 && metrics.get("relay_frontends") == 0
        })
        .await?;
    ensure!(metrics.get("relay_links_total") == 1, "{metrics}");
    ensure!(relay.tunnels().await?[0].session_count == 0);
    Ok(())
}
