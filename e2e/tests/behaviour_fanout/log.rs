//! Limit of log lines that agents can cause: any holder of a key can connect and leave.

use std::time::Instant;

use anyhow::{Result, ensure};
use tieline_e2e::behaviour::{Addresses, RelayProgram, WireAgent, WireKey};

use super::alone;

const LINKS: usize = 500;

/// Most lines per second that peers can cause on one shard.
const LINES_MAX: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_come_and_go_do_not_flood_the_log() -> Result<()> {
    let _alone = alone().await;
    let relay = RelayProgram::start(&[], Addresses::any(), &["--shards", "1"])?;
    let (key, started) = (WireKey::new()?, Instant::now());
    for number in 0..LINKS {
        let mut agent = WireAgent::dial(relay.addresses.agent, &key, number as u128).await?;
        // The relay writes the log line before it answers.
        agent.register(Some(&format!("seat-{number}"))).await??;
    }
    let metrics = relay
        .until("all links are gone", |it| it.get("relay_links") == 0)
        .await?;
    ensure!(metrics.get("relay_links_total") == i64::try_from(LINKS)?);
    let windows = usize::try_from(started.elapsed().as_secs())? + 2;
    let lines = relay.log_count("link");
    ensure!(lines > 0 && lines <= LINES_MAX * windows, "{lines} lines");
    Ok(())
}
