//! Ownership of names: a name belongs to the key that had it first, for one machine and one target.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tieline_agent::{AgentEvent, Error};
use tieline_e2e::behaviour::{
    AgentProgram, Target, TestAgent, TestRelay, WireAgent, WireKey, echo_round_trip, soon,
};
use tieline_wire::{LinkEnd, RefusalReason};

/// Long enough for many takeovers, if the agents took each other's names.
const WATCHED: Duration = Duration::from_secs(3);

#[tokio::test]
async fn two_targets_on_one_host_and_two_hosts_with_one_home_do_not_fight() -> Result<()> {
    let relay = TestRelay::with().shards(2).start()?;
    let home = TempDir::new()?;
    let (maya, nuke) = (Target::echo().await?, Target::echo().await?);
    let mut agents = Vec::new();
    for host in ["render-01", "render-02"] {
        for target in [&maya, &nuke] {
            let agent = TestAgent::of(target)
                .state_dir(home.path())
                .config(move |config| config.with_machine(host));
            agents.push(agent.start(&relay).await?);
        }
    }
    let urls: BTreeSet<_> = agents.iter().map(TestAgent::url).collect();
    ensure!(urls.len() == 4, "{urls:?}");

    // A conflict would show as new links and higher generations.
    let until = Instant::now() + WATCHED;
    while Instant::now() < until {
        for agent in &agents {
            let mut caller = relay.raw(agent.tunnel()).await?;
            echo_round_trip(&mut caller, agent.tunnel().as_bytes()).await?;
        }
        tokio::time::sleep(WATCHED / 32).await;
    }
    let rows = relay.tunnels().await?;
    for agent in &agents {
        let row = rows.iter().find(|row| row.tunnel_id == agent.tunnel());
        let row = row.with_context(|| format!("{} is not listed", agent.tunnel()))?;
        ensure!(row.generation == agent.generation().to_string(), "{row:?}");
    }
    let metrics = relay.metrics().await?;
    ensure!(metrics.get("relay_links_total") == 4, "{metrics}");
    ensure!(metrics.get("relay_link_evictions_total") == 0, "{metrics}");
    Ok(())
}

/// Reason of the final refusal of `name` to an agent with a new key.
async fn refused(relay: &TestRelay, target: &Target, name: &str) -> Result<RefusalReason> {
    let agent = TestAgent::of(target).named(name).spawn(relay)?;
    match agent.ended().await? {
        Err(error @ Error::Refused { .. }) if error.exit_code() != 3 => {
            bail!("exit code {}: {error}", error.exit_code())
        }
        Err(Error::Refused { reason, .. }) => Ok(reason),
        other => bail!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_taken_name_is_refused_for_good_and_while_its_holder_is_away_for_the_time_being()
-> Result<()> {
    let relay = TestRelay::with().shards(2).start()?;
    let target = Target::echo().await?;
    let home = TempDir::new()?;
    let holder = || TestAgent::of(&target).state_dir(home.path()).named("maya");
    let agent = holder().start(&relay).await?;

    ensure!(refused(&relay, &target, "maya").await? == RefusalReason::NameTaken);
    ensure!(refused(&relay, &target, "MAYA").await? == RefusalReason::NameTaken);
    let mut caller = relay.raw("maya").await?;
    echo_round_trip(&mut caller, b"undisturbed").await?;

    agent.kill()?;
    relay
        .until("the holder is away", |metrics| {
            metrics.get("relay_tunnels") == 0
        })
        .await?;
    // The relay cannot know whether the holder's key will come back.
    let mut waiting = TestAgent::of(&target).named("maya").spawn(&relay)?;
    let reason = waiting
        .saw(|event| match event {
            AgentEvent::Disconnected { reason, .. } => Some(*reason),
            _ => None,
        })
        .await?;
    ensure!(reason == "name_bound", "{reason}");
    drop(waiting);
    let metrics = relay.metrics().await?;
    for (reason, count) in [("name_taken", 2), ("name_bound", 1)] {
        let counted = metrics.labelled("relay_registration_refused_total", reason);
        ensure!(counted == count, "{metrics}");
    }

    let _back = holder().start(&relay).await?;
    let mut caller = relay.raw("maya").await?;
    echo_round_trip(&mut caller, b"back").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_agent_says_why_and_exits_with_3() -> Result<()> {
    let relay = TestRelay::start()?;
    let target = Target::echo().await?;
    let _holder = TestAgent::of(&target).named("maya").start(&relay).await?;
    let home = TempDir::new()?;
    let child = Path::new(env!("CARGO_BIN_EXE_child"));
    let (url, to) = (relay.agent_url(), target.to_string());
    let stranger = AgentProgram::start(child, &url, &to, home.path(), &["--name", "maya"])?;
    let ended = stranger.ended()?;
    ensure!(ended.status.code() == Some(3), "{}", ended.quote);
    ensure!(
        ended.stdout.contains("\"reason\":\"name_taken\""),
        "{}",
        ended.quote
    );
    ensure!(
        ended
            .stderr
            .contains("another agent's key holds this tunnel name"),
        "{}",
        ended.quote
    );
    Ok(())
}

#[tokio::test]
async fn a_name_that_is_derived_from_another_key_is_refused_before_its_owner_ever_came()
-> Result<()> {
    let relay = TestRelay::with().shards(2).start()?;
    let target = Target::echo().await?;
    let owner = WireKey::new()?;
    let name = owner.derived_name("test");
    ensure!(refused(&relay, &target, name.as_str()).await? == RefusalReason::NameNotAllowed);

    // The owner may request this derived name explicitly, but only with its own machine id.
    let mut link = WireAgent::dial(relay.agent_address(), &owner, 1).await?;
    let granted = link.register(Some(name.as_str())).await??;
    ensure!(granted.tunnel == name);
    let elsewhere = owner.on_machine([8; 16]);
    let mut link = WireAgent::dial(relay.agent_address(), &elsewhere, 1).await?;
    let refusal = link.register(Some(name.as_str())).await?.err();
    ensure!(refusal.context("granted")?.reason == RefusalReason::NameNotAllowed);
    Ok(())
}

/// Public keys of agents are not secret, so a copied key must not grant access.
#[tokio::test]
async fn a_key_must_be_proven_and_a_proof_serves_once() -> Result<()> {
    let relay = TestRelay::with().shards(2).start()?;
    let (owner, thief) = (WireKey::new()?, WireKey::new()?);
    let address = relay.agent_address();
    let mut held = WireAgent::registered(address, &owner, "maya").await?;

    // The owner's key with a signature of another key.
    let (mut link, hello) = WireAgent::greeted(address).await?;
    let mut forged = thief.hello(&hello, &address.to_string(), 9);
    forged.key = owner.public();
    link.mux.hello(&forged);
    link.flush().await?;
    ensure!(link.reason().await? == LinkEnd::BadSignature);

    // A replay of the owner's own hello to another link.
    let (_listening, heard) = WireAgent::greeted(address).await?;
    let replayed = owner.hello(&heard, &address.to_string(), 9);
    let (mut link, _) = WireAgent::greeted(address).await?;
    link.mux.hello(&replayed);
    link.flush().await?;
    ensure!(link.reason().await? == LinkEnd::BadSignature);

    relay
        .until("both are counted", |metrics| {
            metrics.labelled("relay_link_refused_total", "bad_signature") == 2
        })
        .await?;
    let _caller = relay.raw("maya").await?;
    soon("a session at the owner", held.opened()).await??;
    Ok(())
}
