//! Whose a name is: its holder's, over restarts of the relay and new keys of the agent.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tieline_agent::{AgentEvent, Error};
use tieline_e2e::behaviour::studio::{SECRET, order, studio, token, write_token};
use tieline_e2e::behaviour::{AgentBuilder, Target, TestAgent, TestRelay, echo_round_trip};
use tieline_relay::cli::TokenOrder;
use tieline_wire::Reason;

/// A relay whose agents have tokens, and that keeps bindings in `state`.
fn relay(state: Option<&Path>) -> Result<TestRelay> {
    let auth = studio()?;
    let state_dir = state.map(Path::to_owned);
    TestRelay::with()
        .shards(2)
        .config(|config| {
            config.auth = auth;
            config.state_dir = state_dir;
        })
        .start()
}

/// An agent with a key of its own and a token of `sub` that asks for the name `maya`.
fn seat(target: &Target, folder: &TempDir, sub: &str) -> Result<AgentBuilder> {
    let path = folder.path().join(sub);
    let order = TokenOrder {
        subject: sub.to_owned(),
        ..order()
    };
    write_token(&path, &token(order, &SECRET, 0)?)?;
    let agent = TestAgent::of(target).named("maya");
    Ok(agent.config(move |config| config.with_token_file(path)))
}

async fn refused_for_good(agent: AgentBuilder, relay: &TestRelay) -> Result<(Reason, String)> {
    match agent.spawn(relay)?.ended().await? {
        Err(Error::Refused { reason, message }) => Ok((reason, message)),
        other => anyhow::bail!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_restart_of_the_relay_gives_no_name_to_another_holder() -> Result<()> {
    let (folder, state) = (TempDir::new()?, TempDir::new()?);
    let relay = relay(Some(&state.path().join("relay")))?;
    let target = Target::echo().await?;
    let ada = seat(&target, &folder, "ada")?.start(&relay).await?;
    ada.kill()?;
    let relay = relay.restart()?;
    let (reason, message) = refused_for_good(seat(&target, &folder, "eve")?, &relay).await?;
    ensure!(reason == Reason::NameTaken, "{reason}");
    ensure!(message.contains("another holder"), "{message}");
    // Ada's seat was reinstalled meanwhile, and has another key.
    let ada = seat(&target, &folder, "ada")?.start(&relay).await?;
    let mut caller = relay.raw("maya").await?;
    echo_round_trip(&mut caller, b"mine").await?;
    let first = ada.generation();
    ada.kill()?;
    let relay = relay.restart()?;
    let ada = seat(&target, &folder, "ada")?.start(&relay).await?;
    ensure!(ada.generation() > first);
    Ok(())
}

#[tokio::test]
async fn a_second_seat_of_one_holder_hears_where_the_first_is_and_takes_nothing_from_it()
-> Result<()> {
    let folder = TempDir::new()?;
    let relay = relay(None)?;
    let target = Target::echo().await?;
    let _first = seat(&target, &folder, "ada")?.start(&relay).await?;
    let mut second = seat(&target, &folder, "ada")?.spawn(&relay)?;
    let (reason, message) = second
        .saw(|event| match event {
            AgentEvent::Disconnected {
                reason, message, ..
            } => Some((*reason, message.clone())),
            _ => None,
        })
        .await?;
    ensure!(reason == "name_bound", "{reason}");
    ensure!(message.contains("127.0.0.1"), "{message}");
    let mut caller = relay.raw("maya").await?;
    echo_round_trip(&mut caller, b"undisturbed").await?;
    Ok(())
}

#[tokio::test]
async fn a_second_relay_does_not_use_a_folder_that_one_has() -> Result<()> {
    let state = TempDir::new()?;
    let dir = state.path().join("relay");
    let first = relay(Some(&dir))?;
    let refused = relay(Some(&dir)).err().context("it started")?;
    let text = format!("{refused:#}");
    ensure!(text.contains("another tieline-relay"), "{text}");
    first.stop();
    relay(Some(&dir))?.stop();
    Ok(())
}
