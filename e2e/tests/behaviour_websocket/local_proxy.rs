//! WebSockets through `tieline connect`, which adds the token.

use std::path::Path;

use anyhow::{Result, bail};
use futures_util::SinkExt;
use tempfile::TempDir;
use tieline_e2e::behaviour::studio::{studio, token_of, write_token};
use tieline_e2e::behaviour::{Digest, Target, TestAgent, TestProxy, TestRelay, noise, soon};
use tieline_e2e::on_each_driver;
use tieline_relay::{CallerAuth, DriverChoice};
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::{Socket, chat, close_of, read};

on_each_driver!(a_local_program_opens_websockets_with_the_token_of_its_proxy);

/// Opens a WebSocket at the proxy, as a page of `origin` does or, if that is empty, as another program.
async fn open(proxy: &TestProxy, path: &str, origin: &str) -> Result<Socket, Error> {
    let address = proxy.address();
    let stream = TcpStream::connect(address).await?;
    let mut request = format!("ws://{address}{path}").into_client_request()?;
    if !origin.is_empty()
        && let Ok(value) = origin.parse()
    {
        request.headers_mut().insert("origin", value);
    }
    Ok(client_async(request, stream).await?.0)
}

/// An agent with the token in `token_file`.
async fn agent(
    relay: &TestRelay,
    target: &Target,
    name: &str,
    token_file: &Path,
) -> Result<TestAgent> {
    let token_file = token_file.to_owned();
    let agent = TestAgent::of(target).named(name);
    agent
        .config(|config| config.with_token_file(token_file))
        .start(relay)
        .await
}

async fn a_local_program_opens_websockets_with_the_token_of_its_proxy(
    driver: DriverChoice,
) -> Result<()> {
    let auth = studio()?;
    let relay = TestRelay::with()
        .shards(2)
        .driver(driver)
        .config(|config| {
            config.auth = auth;
            config.caller_auth = CallerAuth::Token;
        })
        .start()?;
    let home = TempDir::new()?;
    let token_file = home.path().join("token");
    write_token(&token_file, &token_of("ada", &[], &[])?)?;
    let (echo, chat) = (Target::echo().await?, chat().await?);
    let _bytes = agent(&relay, &echo, "maya-cmd", &token_file).await?;
    let _page = agent(&relay, &chat, "comfy", &token_file).await?;
    let proxy = TestProxy::start(&format!("http://{}", relay.http_address()), &token_file).await?;

    for (seed, path) in [
        (1, "/tunnel/maya-cmd"),
        (2, "/w/maya-cmd"),
        (3, "/w/comfy/ws?room=1"),
    ] {
        let mut socket = soon("the handshake", open(&proxy, path, "")).await??;
        let sent = noise(seed, 100_000);
        socket.send(Message::binary(sent.clone())).await?;
        let heard = read(&mut socket, sent.len()).await?;
        assert_eq!(Digest::of(&heard), Digest::of(&sent), "{path}");
        socket.close(None).await?;
        close_of(&mut socket).await?;
    }
    // A page that the proxy serves may open one, and the close of the target arrives as it is.
    let mut page = soon("the page", open(&proxy, "/w/comfy/ws", proxy.url())).await??;
    page.send(Message::text("bye")).await?;
    assert_eq!(close_of(&mut page).await?, Some(CloseCode::Library(4001)));

    for (path, origin, status) in [
        ("/w/comfy/ws", "https://evil.example", 403),
        ("/w/maya-cmd", "https://evil.example", 403),
        ("/w/nobody", "", 404),
    ] {
        match soon("a refusal", open(&proxy, path, origin)).await? {
            Err(Error::Http(answer)) => assert_eq!(answer.status().as_u16(), status, "{path}"),
            other => bail!("{path}: {other:?}"),
        }
    }
    Ok(())
}
