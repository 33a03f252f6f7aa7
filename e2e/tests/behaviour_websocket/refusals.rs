//! Checks of a caller before the `101`, and ends that an operator or a provider of tokens causes behind it.

use anyhow::{Result, bail, ensure};
use futures_util::SinkExt;
use serde_json::json;
use tempfile::TempDir;
use tieline_e2e::behaviour::studio::{studio, token_of, write_token};
use tieline_e2e::behaviour::{Target, TestAgent, TestRelay, soon};
use tieline_e2e::on_each_driver;
use tieline_relay::{CallerAuth, DriverChoice};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::{close_of, open, read};

on_each_driver!(
    a_browser_brings_its_token_in_a_subprotocol_or_in_the_url,
    a_kicked_tunnel_closes_its_callers_connections,
    a_revoked_caller_is_told_and_nobody_else,
);

/// The status of the relay's answer instead of a WebSocket.
async fn refused(relay: &TestRelay, path: &str, protocols: &str) -> Result<u16> {
    match soon("an answer", open(relay, path, protocols)).await? {
        Err(Error::Http(answer)) => Ok(answer.status().as_u16()),
        other => bail!("{other:?}"),
    }
}

/// A relay whose agents and callers need a token.
fn relay_with_tokens(driver: DriverChoice) -> Result<TestRelay> {
    let auth = studio()?;
    let relay = TestRelay::with().shards(2).driver(driver);
    let relay = relay.config(|config| {
        config.auth = auth;
        config.caller_auth = CallerAuth::Token;
    });
    relay.start()
}

/// Serves `target` as Ada's tunnel `maya-1`; her token is in `home`.
async fn adas(relay: &TestRelay, target: &Target, home: &TempDir) -> Result<TestAgent> {
    let path = home.path().join("token");
    write_token(&path, &token_of("ada", &[], &[])?)?;
    let agent = TestAgent::of(target).named("maya-1");
    let agent = agent.config(|config| config.with_token_file(path));
    agent.start(relay).await
}

async fn a_browser_brings_its_token_in_a_subprotocol_or_in_the_url(
    driver: DriverChoice,
) -> Result<()> {
    let relay = relay_with_tokens(driver)?;
    let (echo, home) = (Target::echo().await?, TempDir::new()?);
    let _agent = adas(&relay, &echo, &home).await?;
    let (ada, eve) = (token_of("ada", &[], &[])?, token_of("eve", &[], &[])?);
    let in_url = |token: &str| format!("/tunnel/maya-1?access_token={token}");
    let bearer = |token: &str| format!("bearer.{token}, binary");
    for (path, protocols) in [
        (in_url(&ada), String::new()),
        ("/w/maya-1/".to_owned(), bearer(&ada)),
    ] {
        let mut socket = soon("the handshake", open(&relay, &path, &protocols)).await??;
        socket.send(Message::binary(b"hello".to_vec())).await?;
        ensure!(read(&mut socket, 5).await? == b"hello");
    }
    for (path, protocols, status) in [
        ("/w/maya-1".to_owned(), String::new(), 401),
        ("/w/maya-1".to_owned(), bearer("rubbish"), 401),
        (in_url("rubbish"), String::new(), 401),
        (in_url(&eve), String::new(), 404),
        ("/w/maya-1".to_owned(), bearer(&eve), 404),
        ("/w/maya-2".to_owned(), bearer(&ada), 404),
        ("/agent".to_owned(), bearer(&ada), 400),
    ] {
        let found = refused(&relay, &path, &protocols).await?;
        ensure!(found == status, "{found} instead of {status}: {protocols}");
    }
    Ok(())
}

async fn a_kicked_tunnel_closes_its_callers_connections(driver: DriverChoice) -> Result<()> {
    let relay = TestRelay::with().shards(2).driver(driver).start()?;
    let echo = Target::echo().await?;
    let agent = TestAgent::of(&echo).start(&relay).await?;
    let mut socket = soon("the handshake", open(&relay, &agent.path(""), "")).await??;
    socket.send(Message::binary(b"hello".to_vec())).await?;
    ensure!(read(&mut socket, 5).await? == b"hello");
    let (status, answer) = relay
        .order(&format!("/tunnels/{}/kick", agent.tunnel()), &json!({}))
        .await?;
    ensure!(status == 200, "{status} {answer}");
    let code = close_of(&mut socket).await?;
    ensure!(code == Some(CloseCode::Again), "{code:?}");
    Ok(())
}

async fn a_revoked_caller_is_told_and_nobody_else(driver: DriverChoice) -> Result<()> {
    let relay = relay_with_tokens(driver)?;
    let (echo, home) = (Target::echo().await?, TempDir::new()?);
    let _agent = adas(&relay, &echo, &home).await?;
    let mut sockets = Vec::new();
    // Several callers, so that some are served on another shard than they came in on.
    for sub in ["ada", "bob", "bob", "bob", "bob"] {
        let protocols = format!("bearer.{}, binary", token_of(sub, &[], &["maya-*"])?);
        let mut socket = soon("the handshake", open(&relay, "/w/maya-1", &protocols)).await??;
        socket.send(Message::binary(b"hello".to_vec())).await?;
        ensure!(read(&mut socket, 5).await? == b"hello");
        sockets.push(socket);
    }
    let (status, answer) = relay.order("/revoke", &json!({ "sub": "bob" })).await?;
    ensure!(status == 200, "{status} {answer}");
    for socket in &mut sockets[1..] {
        let code = close_of(socket).await?;
        ensure!(code == Some(CloseCode::Policy), "{code:?}");
    }
    sockets[0].send(Message::binary(b"again".to_vec())).await?;
    ensure!(read(&mut sockets[0], 5).await? == b"again");
    Ok(())
}
