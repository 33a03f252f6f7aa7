//! An agent or a relay that is killed.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tempfile::TempDir;
use tieline_e2e::behaviour::{
    Addresses, AgentProgram, RelayProgram, Target, TestAgent, TestRelay, echo_round_trip, within,
};
use tokio::task::JoinSet;

/// Sessions that are active when the agent is killed.
const SESSIONS: usize = 100;

const STALE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_agent_ends_every_session_with_an_error_and_never_with_a_hang() -> Result<()> {
    let relay = TestRelay::with().shards(2).stale_timeout(STALE).start()?;
    let target = Target::echo().await?;
    let state_dir = TempDir::new()?;
    let agent = AgentProgram::start(
        Path::new(env!("CARGO_BIN_EXE_child")),
        &relay.agent_url(),
        &target.to_string(),
        state_dir.path(),
        &["--links", "2"],
    )?;
    let (tunnel, _) = agent.registered(1)?;

    let mut sessions = JoinSet::new();
    for number in 0..SESSIONS {
        let mut caller = relay.raw(&tunnel).await?;
        let message = vec![u8::try_from(number)?; 1 + number * 50];
        echo_round_trip(&mut caller, &message).await?;
        sessions.spawn(async move {
            // Runs until the session fails.
            while echo_round_trip(&mut caller, &message).await.is_ok() {}
        });
    }
    let metrics = relay.metrics().await?;
    ensure!(
        metrics.get("relay_sessions") == SESSIONS as i64,
        "{metrics}"
    );

    drop(agent);
    let killed_at = Instant::now();
    within(STALE, "an error on every session", async {
        while sessions.join_next().await.is_some() {}
    })
    .await?;
    let metrics = relay
        .until("no session and no frontend", |metrics| {
            metrics.get("relay_sessions") == 0 && metrics.get("relay_frontends") == 0
        })
        .await?;
    ensure!(killed_at.elapsed() < STALE * 2, "{metrics}");
    ensure!(metrics.get("relay_links") == 0, "{metrics}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_relay_brings_the_agent_back_under_the_same_url() -> Result<()> {
    let relay = RelayProgram::start(&[], Addresses::any(), &["--shards", "2"])?;
    let target = Target::echo().await?;
    let mut agent = TestAgent::of(&target).start_at(&relay.agent_url()).await?;
    let url = agent.url().to_owned();
    let mut caller = relay.raw(agent.tunnel()).await?;
    echo_round_trip(&mut caller, b"before").await?;

    let relay = relay.restart_after_kill(&["--shards", "2"])?;
    ensure!(echo_round_trip(&mut caller, b"gone").await.is_err());
    agent.registered().await?;
    ensure!(agent.url() == url, "{} instead of {url}", agent.url());
    let mut caller = relay.raw(agent.tunnel()).await?;
    echo_round_trip(&mut caller, b"after").await?;
    Ok(())
}
