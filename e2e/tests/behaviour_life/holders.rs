//! Ownership of names: a name stays with its token holder across restarts of the relay and new keys of the agent.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tieline_agent::{AgentEvent, Error};
use tieline_e2e::behaviour::studio::{SECRET, order, studio, token, write_token};
use tieline_e2e::behaviour::{
    AgentBuilder, Metrics, Target, TestAgent, TestRelay, WireAgent, WireKey, echo_round_trip,
    registration, soon,
};
use tieline_relay::cli::TokenOrder;
use tieline_wire::{Event, RefusalReason, Register, Token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A relay that requires tokens from agents and keeps its bindings in `state`.
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

/// An agent with its own key and a token of `sub` that requests the name `maya`.
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

async fn refused_for_good(
    agent: AgentBuilder,
    relay: &TestRelay,
) -> Result<(RefusalReason, String)> {
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
    ensure!(reason == RefusalReason::NameTaken, "{reason}");
    ensure!(message.contains("another token holder"), "{message}");
    // Ada's machine was reinstalled meanwhile and has a new key.
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

/// Sends a request to the admin port; returns status and body of the answer.
async fn asked(relay: &TestRelay, method: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(relay.admin_address()).await?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    soon("an answer", stream.read_to_string(&mut answer)).await??;
    let status = answer.get(9..12).context("a status")?.parse()?;
    let body = answer.split_once("\r\n\r\n").context("a body")?.1;
    Ok((status, body.to_owned()))
}

#[tokio::test]
async fn a_derived_name_that_is_taken_back_leaves_nothing() -> Result<()> {
    let state = TempDir::new()?;
    let dir = state.path().join("relay");
    let relay = TestRelay::with().shards(2).config(|config| {
        config.state_dir = Some(dir.clone());
    });
    let relay = relay.start()?;
    let mut agent = WireAgent::dial(relay.agent_address(), &WireKey::new()?, 1).await?;
    let granted = agent.register(None).await??;
    let path = format!("/tunnels/{}", granted.tunnel);
    let (status, body) = asked(&relay, "GET", &path).await?;
    ensure!(status == 200 && body.contains("\"bound\""), "{body}");
    agent.mux.unregister(&granted.tunnel);
    agent.flush().await?;
    let gone = async {
        while asked(&relay, "GET", &path).await?.0 != 404 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    soon("the binding to be removed", gone).await??;
    drop(agent);
    relay.stop();
    let journal = std::fs::read_to_string(dir.join("names.journal"))?;
    let last = journal.lines().last().context("a line")?;
    ensure!(last.contains("\"forgotten\":true"), "{journal}");
    Ok(())
}

#[tokio::test]
async fn an_operator_frees_the_name_of_a_dead_key() -> Result<()> {
    let folder = TempDir::new()?;
    let relay = relay(None)?;
    let target = Target::echo().await?;
    let ada = seat(&target, &folder, "ada")?.start(&relay).await?;
    let (status, body) = asked(&relay, "POST", "/tunnels/maya/forget").await?;
    ensure!(status == 409 && body.contains("tunnel_live"), "{body}");
    ada.kill()?;
    let away = |metrics: &Metrics| metrics.get("relay_tunnels") == 0;
    relay.until("ada is away", away).await?;
    let (reason, _) = refused_for_good(seat(&target, &folder, "bob")?, &relay).await?;
    ensure!(reason == RefusalReason::NameTaken);
    let (status, body) = asked(&relay, "POST", "/tunnels/maya/kick").await?;
    ensure!(status == 409 && body.contains("tunnel_absent"), "{body}");
    let (status, body) = asked(&relay, "GET", "/tunnels/maya").await?;
    ensure!(status == 200 && body.contains("\"sub\":\"ada\""), "{body}");
    let (status, body) = asked(&relay, "POST", "/tunnels/maya/forget").await?;
    ensure!((status, &*body) == (200, "{\"forgotten\":true}"), "{body}");
    let _bob = seat(&target, &folder, "bob")?.start(&relay).await?;
    Ok(())
}

/// One holder floods the relay with keys, names and tokens used once each, next to the binding of an absent owner.
#[tokio::test]
async fn a_flood_of_one_holders_names_leaves_an_absent_owner_its_own() -> Result<()> {
    let (folder, state) = (TempDir::new()?, TempDir::new()?);
    let auth = studio()?;
    let dir = state.path().join("relay");
    let relay = TestRelay::with().shards(2).config(|config| {
        config.auth = auth;
        config.state_dir = Some(dir);
        config.max_tunnels = 20;
        config.stale_timeout = std::time::Duration::from_millis(200);
    });
    let relay = relay.start()?;
    let target = Target::echo().await?;
    seat(&target, &folder, "ada")?.start(&relay).await?.kill()?;
    let eves = token(
        TokenOrder {
            subject: "eve".to_owned(),
            ..order()
        },
        &SECRET,
        0,
    )?;
    let eves = Token::new(eves);
    for round in 0..30 {
        let mut agent = WireAgent::dial(relay.agent_address(), &WireKey::new()?, 1).await?;
        for n in 0..10 {
            agent.mux.register(&Register {
                token: eves.clone(),
                ..registration(Some(&format!("flood-{round}-{n}")))
            });
        }
        agent.flush().await?;
        for _ in 0..10 {
            while !matches!(agent.event().await?, Some(Event::RegisterAck(_))) {}
        }
    }
    let swept = |metrics: &Metrics| metrics.get("relay_tunnels") == 0;
    relay.until("all tunnels to be offline", swept).await?;
    let relay = relay.restart()?;
    let (reason, _) = refused_for_good(seat(&target, &folder, "eve")?, &relay).await?;
    ensure!(reason == RefusalReason::NameTaken, "{reason}");
    let _ada = seat(&target, &folder, "ada")?.start(&relay).await?;
    Ok(())
}

#[tokio::test]
async fn a_second_relay_does_not_use_a_folder_that_one_has() -> Result<()> {
    let state = TempDir::new()?;
    let dir = state.path().join("relay");
    let first = relay(Some(&dir))?;
    let refused = relay(Some(&dir))
        .err()
        .context("the second relay started")?;
    let text = format!("{refused:#}");
    ensure!(text.contains("another tieline-relay"), "{text}");
    first.stop();
    relay(Some(&dir))?.stop();
    Ok(())
}
