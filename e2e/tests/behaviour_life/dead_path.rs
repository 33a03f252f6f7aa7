//! A path between agent and relay that is dead in one direction, while both ends still consider the connection
//! open.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tieline_e2e::behaviour::soon;

use super::network::Rig;

/// Documented time to notice a dead path, plus a margin for busy machines.
const NOTICED_MAX: Duration = Duration::from_secs(10);

/// Silence after which the relay no longer trusts a link without a check.
const SILENCE: Duration = Duration::from_millis(1_500);

/// A rig whose link has been silent for a while.
async fn silent_rig(grace: Duration) -> Result<Rig> {
    let rig = Rig::start(grace).await?;
    tokio::time::sleep(SILENCE).await;
    Ok(rig)
}

#[tokio::test]
async fn a_call_over_a_path_that_takes_nothing_to_the_agent_is_not_sent_and_says_so() -> Result<()>
{
    let rig = silent_rig(Duration::from_millis(500)).await?;
    rig.network.lose(|it| &it.to_agent);
    let began = Instant::now();
    let mut caller = rig.post("call").await?;
    let metrics = rig
        .relay
        .until("the link is given up", |it| it.get("relay_links") == 0)
        .await?;
    ensure!(began.elapsed() < NOTICED_MAX, "{:?}", began.elapsed());
    ensure!(
        metrics.labelled("relay_link_evictions_total", "stale") == 1,
        "{metrics}"
    );
    // The agent sends nothing, so it notices the dead path later than the relay.
    let (head, body) = soon("an answer", caller.answer()).await??;
    let text = String::from_utf8_lossy(&body.bytes);
    ensure!(head.status() == 503 && text.contains("not_sent"), "{text}");
    ensure!(rig.runs().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_call_over_a_path_that_takes_nothing_to_the_relay_runs_once_over_the_next_link()
-> Result<()> {
    // Longer than an agent takes to reconnect, even on a busy machine.
    let mut rig = silent_rig(Duration::from_secs(60)).await?;
    let before = rig.network.made();
    rig.network.lose(|it| &it.to_relay);
    let began = Instant::now();
    let mut callers = Vec::new();
    for _ in 0..4 {
        callers.push(rig.post("call").await?);
    }
    rig.agent.registered().await?;
    ensure!(began.elapsed() < NOTICED_MAX, "{:?}", began.elapsed());
    ensure!(rig.network.made() > before);
    for mut caller in callers {
        let (head, body) = soon("the answer over the new link", caller.answer()).await??;
        ensure!(head.status() == 200, "{head:?} {body:?}");
    }
    ensure!(rig.runs().len() == 4, "each call runs once");
    Ok(())
}
