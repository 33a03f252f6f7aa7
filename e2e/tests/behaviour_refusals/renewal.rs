//! Registrations of a live tunnel: a token rotation that the link survives, and registrations that are
//! refused.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tieline_agent::{AgentEvent, TargetConfig};
use tieline_e2e::behaviour::studio::{SECRET, order, token, token_of, write_token};
use tieline_e2e::behaviour::{
    Target, TestAgent, WireAgent, WireKey, echo_round_trip, registration,
};
use tieline_token::LEEWAY_SECONDS;
use tieline_wire::{GoAway, LinkEnd, RefusalReason, Register, Token};
use tokio::time::{Instant, sleep_until};

use super::auth::relay;

/// Seconds for which the first token is still accepted.
const LEFT_SECONDS: u64 = 6;

#[tokio::test]
async fn a_rotated_token_keeps_the_link() -> Result<()> {
    let relay = relay()?;
    let (maya, comfy) = (Target::echo().await?, Target::echo().await?);
    let folder = TempDir::new()?;
    let path = folder.path().join("token");
    // Past its expiry, but still within the accepted leeway.
    let age_seconds = 3600 + LEEWAY_SECONDS - LEFT_SECONDS;
    write_token(&path, &token(order(), &SECRET, age_seconds)?)?;
    let ends_at = Instant::now() + Duration::from_secs(LEFT_SECONDS);
    let at = path.clone();
    let second = TargetConfig::new(&comfy.to_string())?.with_name("comfy")?;
    let mut agent = TestAgent::of(&maya)
        .named("maya")
        .config(move |config| config.with_token_file(at).with_target(second))
        .spawn(&relay)?;
    for _ in 0..2 {
        agent.registered().await?;
    }
    let mut callers = [relay.raw("maya").await?, relay.raw("comfy").await?];
    for caller in &mut callers {
        echo_round_trip(caller, b"in time").await?;
    }

    // Replace the file atomically, as rotation tools do.
    let new = folder.path().join("new");
    write_token(&new, &token(order(), &SECRET, 0)?)?;
    std::fs::rename(new, &path)?;
    for _ in 0..2 {
        let lasts = agent.saw(|event| match event {
            AgentEvent::Renewed { expires_in_s, .. } if *expires_in_s > 60 => Some(*expires_in_s),
            _ => None,
        });
        let lasts = u64::from(lasts.await?);
        ensure!(lasts <= 3600 + LEEWAY_SECONDS, "{lasts}");
    }

    // The relay checks for expired permissions several times per second.
    sleep_until(ends_at + Duration::from_secs(3)).await;
    for caller in &mut callers {
        echo_round_trip(caller, b"beyond the first token's end").await?;
    }
    let metrics = relay.metrics().await?;
    ensure!(metrics.get("relay_links_total") == 1, "{metrics}");
    ensure!(metrics.get("relay_link_evictions_total") == 0, "{metrics}");
    Ok(())
}

fn with_token_of(sub: &str, name: Option<&str>) -> Result<Register> {
    Ok(Register {
        token: Token::new(token_of(sub, &[], &[])?),
        ..registration(name)
    })
}

/// For a requested name and for a name derived from the agent's key.
#[tokio::test]
async fn another_holders_token_does_not_change_whose_a_live_tunnel_is() -> Result<()> {
    let relay = relay()?;
    for name in [Some("maya"), None] {
        let key = WireKey::new()?;
        let mut ada = WireAgent::dial(relay.agent_address(), &key, 1).await?;
        let granted = ada.ask_for(&with_token_of("ada", name)?).await??;
        let mut bob = WireAgent::dial(relay.agent_address(), &key, 2).await?;
        for agent in [&mut ada, &mut bob] {
            let refused = agent.ask_for(&with_token_of("bob", name)?).await?;
            let refusal = refused.err().context("bob got the tunnel")?;
            ensure!(refusal.reason == RefusalReason::NameTaken, "{refusal}");
        }
        let _caller = relay.raw(granted.tunnel.as_str()).await?;
        ada.opened().await?;
        ada.ask_for(&with_token_of("ada", name)?).await??;
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_that_said_that_it_goes_gets_no_further_tunnel() -> Result<()> {
    let relay = relay()?;
    let mut agent = WireAgent::dial(relay.agent_address(), &WireKey::new()?, 1).await?;
    agent
        .ask_for(&with_token_of("ada", Some("maya"))?)
        .await??;
    agent.mux.go_away(&GoAway {
        last_session: 0,
        reason: LinkEnd::ShuttingDown,
        deadline_ms: 60_000,
        message: String::new(),
    });
    for name in ["maya", "comfy"] {
        let refused = agent.ask_for(&with_token_of("ada", Some(name))?).await?;
        let refusal = refused.err().context("the agent got another tunnel")?;
        ensure!(refusal.reason == RefusalReason::ShuttingDown, "{refusal}");
    }
    Ok(())
}
