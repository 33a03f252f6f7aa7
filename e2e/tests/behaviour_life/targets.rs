//! Several targets of one agent: each has its own tunnel, over shared links.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use tieline_agent::{AgentEvent, TargetConfig};
use tieline_e2e::behaviour::{Target, TestAgent, TestRelay, echo_round_trip};

/// Waits until both tunnels are up on both links.
async fn up(agent: &mut TestAgent) -> Result<()> {
    let tunnels = ["maya", "comfy"].map(str::to_owned);
    let mut missing: BTreeSet<_> = tunnels
        .into_iter()
        .flat_map(|it| [(it.clone(), 0), (it, 1)])
        .collect();
    while !missing.is_empty() {
        let up = agent
            .saw(|event| match event {
                AgentEvent::Registered { tunnel, link, .. } => Some((tunnel.clone(), *link)),
                _ => None,
            })
            .await?;
        missing.remove(&up);
    }
    Ok(())
}

fn named(target: &Target, name: &str) -> Result<TargetConfig> {
    Ok(TargetConfig::new(&target.to_string())?.with_name(name)?)
}

#[tokio::test]
async fn callers_of_each_tunnel_reach_its_own_target_on_every_link() -> Result<()> {
    let relay = TestRelay::with().shards(2).start()?;
    let (maya, comfy) = (Target::echo().await?, Target::echo().await?);
    let second = named(&comfy, "comfy")?;
    let agent = TestAgent::of(&maya).named("maya").links(2);
    let agent = agent.config(|config| config.with_target(second));
    let mut agent = agent.spawn(&relay)?;
    up(&mut agent).await?;
    for (tunnel, target, other) in [("maya", &maya, &comfy), ("comfy", &comfy, &maya)] {
        let before = (target.accepted(), other.accepted());
        for _ in 0..16 {
            let mut caller = relay.raw(tunnel).await?;
            echo_round_trip(&mut caller, tunnel.as_bytes()).await?;
        }
        let after = (target.accepted(), other.accepted());
        ensure!(after == (before.0 + 16, before.1), "{before:?} {after:?}");
    }
    // After a restart of the relay, all tunnels come back.
    let relay = relay.restart()?;
    up(&mut agent).await?;
    let mut caller = relay.raw("comfy").await?;
    echo_round_trip(&mut caller, b"again").await?;
    ensure!(agent.stop().await?.is_ok());
    relay
        .until("no tunnel is left", |metrics| {
            metrics.get("relay_tunnels") == 0
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_name_that_is_taken_costs_an_agent_that_tunnel_and_no_other() -> Result<()> {
    let relay = TestRelay::with().shards(2).start()?;
    let (maya, comfy) = (Target::echo().await?, Target::echo().await?);
    let _first = TestAgent::of(&comfy).named("comfy").start(&relay).await?;
    let second = named(&comfy, "comfy")?;
    let agent = TestAgent::of(&maya).named("maya");
    let agent = agent.config(|config| config.with_target(second));
    let mut agent = agent.spawn(&relay)?;
    let (mut refused, mut is_up) = (None, false);
    while refused.is_none() || !is_up {
        let (tunnel, reason) = agent
            .saw(|event| match event {
                AgentEvent::Registered { tunnel, .. } => Some((tunnel.clone(), None)),
                AgentEvent::TunnelRefused { tunnel, reason, .. } => {
                    Some((tunnel.clone(), Some(*reason)))
                }
                _ => None,
            })
            .await?;
        match reason {
            Some(reason) => refused = Some((tunnel, reason)),
            None => is_up = tunnel == "maya",
        }
    }
    let expected = ("comfy".to_owned(), "name_taken");
    ensure!(refused.as_ref() == Some(&expected), "{refused:?}");
    let mut caller = relay.raw("maya").await?;
    echo_round_trip(&mut caller, b"undisturbed").await?;
    Ok(())
}
