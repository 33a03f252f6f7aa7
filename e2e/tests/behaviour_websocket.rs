//! WebSocket through the relay, with a client and a server that others wrote (tungstenite): payload of raw callers,
//! connections to HTTP targets, and how both end.

#[path = "behaviour_websocket/audit.rs"]
mod audit;
#[path = "behaviour_websocket/local_proxy.rs"]
mod local_proxy;
#[path = "behaviour_websocket/refusals.rs"]
mod refusals;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use tieline_e2e::behaviour::{
    Digest, LONG_BYTES, Target, TestAgent, TestRelay, abort, noise, soon,
};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

on_each_driver!(
    payload_of_raw_callers_passes_both_ways_on_every_shard,
    the_end_of_a_target_comes_behind_its_last_byte_as_a_normal_close,
    what_a_target_breaks_off_is_no_normal_close,
    text_is_not_payload,
    the_end_of_a_caller_reaches_its_target,
    a_websocket_of_an_http_target_passes_as_it_is,
    bytes_around_the_handshake_are_kept_on_every_shard,
);

type Socket = WebSocketStream<TcpStream>;

fn relay(driver: DriverChoice) -> Result<TestRelay> {
    TestRelay::with().shards(2).driver(driver).start()
}

/// Opens a WebSocket at the relay's HTTP port; `protocols` are the subprotocols to offer.
async fn open(relay: &TestRelay, path: &str, protocols: &str) -> Result<Socket, Error> {
    let address = relay.http_address();
    let stream = TcpStream::connect(address).await?;
    let mut request = format!("ws://{address}{path}").into_client_request()?;
    if !protocols.is_empty()
        && let Ok(value) = protocols.parse()
    {
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", value);
    }
    Ok(client_async(request, stream).await?.0)
}

async fn connect(relay: &TestRelay, path: &str) -> Result<Socket> {
    let socket = soon("the handshake", open(relay, path, "")).await?;
    socket.context("no WebSocket")
}

/// Reads `len` bytes of binary messages.
async fn read(socket: &mut Socket, len: usize) -> Result<Vec<u8>> {
    let reading = async {
        let mut all = Vec::new();
        while all.len() < len {
            match socket.next().await {
                Some(Ok(Message::Binary(bytes))) => all.extend_from_slice(&bytes),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => bail!("{other:?} after {} bytes", all.len()),
            }
        }
        Ok(all)
    };
    soon("payload", reading).await?
}

/// Reads to the Close, if one comes; skips all messages in front of it.
async fn close_of(socket: &mut Socket) -> Result<Option<CloseCode>> {
    let reading = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    };
    soon("a close", reading).await
}

async fn payload_of_raw_callers_passes_both_ways_on_every_shard(
    driver: DriverChoice,
) -> Result<()> {
    let relay = relay(driver)?;
    let echo = Target::echo().await?;
    let agent = TestAgent::of(&echo).start(&relay).await?;
    // Several callers, so that some come in on a shard without the link, and move.
    for seed in 0..8 {
        let mut socket = connect(&relay, &format!("/tunnel/{}", agent.tunnel())).await?;
        let sent = noise(seed, 100_000);
        for piece in sent.chunks(33_333) {
            socket.send(Message::binary(piece.to_vec())).await?;
        }
        let heard = read(&mut socket, sent.len()).await?;
        assert_eq!(Digest::of(&heard), Digest::of(&sent));
        socket.close(None).await?;
        close_of(&mut socket).await?;
    }
    let metrics = relay.metrics().await?;
    assert_eq!(metrics.labelled("relay_frontends_total", "websocket"), 8);
    Ok(())
}

async fn the_end_of_a_target_comes_behind_its_last_byte_as_a_normal_close(
    driver: DriverChoice,
) -> Result<()> {
    let relay = relay(driver)?;
    let target = Target::tcp(|mut stream| async move {
        stream.write_all(&noise(3, LONG_BYTES)).await?;
        stream.shutdown().await?;
        // Until the caller has everything.
        stream.read_to_end(&mut Vec::new()).await?;
        Ok(())
    })
    .await?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut socket = connect(&relay, &agent.path("/")).await?;
    let heard = read(&mut socket, LONG_BYTES).await?;
    assert_eq!(Digest::of(&heard), Digest::of_noise(3, LONG_BYTES));
    assert_eq!(close_of(&mut socket).await?, Some(CloseCode::Normal));
    Ok(())
}

async fn what_a_target_breaks_off_is_no_normal_close(driver: DriverChoice) -> Result<()> {
    let relay = relay(driver)?;
    let target = Target::tcp(|mut stream| async move {
        stream.write_all(b"half an answ").await?;
        stream.read_u8().await?;
        abort(stream)?;
        Ok(())
    })
    .await?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut socket = connect(&relay, &agent.path("")).await?;
    assert_eq!(read(&mut socket, 12).await?, b"half an answ");
    socket.send(Message::binary(vec![1])).await?;
    let code = close_of(&mut socket).await?;
    ensure!(code != Some(CloseCode::Normal), "{code:?}");
    Ok(())
}

async fn text_is_not_payload(driver: DriverChoice) -> Result<()> {
    let relay = relay(driver)?;
    let echo = Target::echo().await?;
    let agent = TestAgent::of(&echo).start(&relay).await?;
    let mut socket = connect(&relay, &agent.path("")).await?;
    socket.send(Message::text("hello")).await?;
    let code = close_of(&mut socket).await?;
    assert_eq!(code, Some(CloseCode::Unsupported));
    Ok(())
}

async fn the_end_of_a_caller_reaches_its_target(driver: DriverChoice) -> Result<()> {
    let relay = relay(driver)?;
    let (tell, mut requests) = tokio::sync::mpsc::channel(1);
    let target = Target::tcp(move |mut stream| {
        let tell = tell.clone();
        async move {
            let mut request = Vec::new();
            stream.read_to_end(&mut request).await?;
            tell.send(request).await?;
            Ok(())
        }
    })
    .await?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut socket = connect(&relay, &agent.path("")).await?;
    socket.send(Message::binary(b"a request".to_vec())).await?;
    socket.close(None).await?;
    let request = soon("the caller's end", requests.recv()).await?;
    assert_eq!(request.as_deref(), Some(&b"a request"[..]));
    Ok(())
}

/// An HTTP target that echoes messages, and closes with a code of its own at the text `bye`.
async fn chat() -> Result<Target> {
    Target::http(|http| async move {
        let mut socket = accept_async(http.into_stream()).await?;
        while let Some(message) = socket.next().await {
            match message? {
                Message::Text(text) if text.as_str() == "bye" => {
                    let code = CloseCode::Library(4001);
                    let reason = "as asked".into();
                    socket.close(Some(CloseFrame { code, reason })).await?;
                }
                message @ (Message::Text(_) | Message::Binary(_)) => socket.send(message).await?,
                _ => {}
            }
        }
        Ok(())
    })
    .await
}

async fn a_websocket_of_an_http_target_passes_as_it_is(driver: DriverChoice) -> Result<()> {
    let relay = relay(driver)?;
    let target = chat().await?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    for seed in 0..8 {
        let mut socket = connect(&relay, &agent.path("/chat?room=1")).await?;
        socket.send(Message::text("hello")).await?;
        let heard = soon("the echo", socket.next()).await?;
        assert_eq!(heard.context("an end")??, Message::text("hello"));
        let sent = noise(seed, LONG_BYTES);
        let message = Message::binary(sent.clone());
        soon("a send", socket.send(message)).await??;
        let heard = read(&mut socket, LONG_BYTES).await?;
        assert_eq!(Digest::of(&heard), Digest::of(&sent));
        socket.send(Message::text("bye")).await?;
        let code = close_of(&mut socket).await?;
        assert_eq!(code, Some(CloseCode::Library(4001)));
    }
    // The sessions end with their callers.
    let is_over = |metrics: &tieline_e2e::behaviour::Metrics| metrics.get("relay_sessions") == 0;
    relay.until("the sessions' end", is_over).await?;
    Ok(())
}

async fn bytes_around_the_handshake_are_kept_on_every_shard(driver: DriverChoice) -> Result<()> {
    let relay = relay(driver)?;
    // Not a server for WebSockets: it answers any bytes with themselves, behind the answer to the handshake.
    let target = Target::http(|mut http| async move {
        http.head().await?.context("no request")?;
        let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Accept: x\r\n\r\nfirst,";
        http.write(head).await?;
        let early = http.closed().await?;
        http.write(&early).await?;
        Ok(())
    })
    .await?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    for seed in 0..8 {
        let early = noise(seed, 20_000);
        let head = format!(
            "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            agent.path("/x")
        );
        let mut caller = TcpStream::connect(relay.http_address()).await?;
        caller
            .write_all(&[head.as_bytes(), &early].concat())
            .await?;
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        while !answer.ends_with(b"\r\n\r\nfirst,") {
            let count = soon("the handshake", caller.read(&mut part)).await??;
            ensure!(count > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&part[..count]);
        }
        // Each direction ends alone.
        caller.shutdown().await?;
        let mut rest = Vec::new();
        soon("the rest", caller.read_to_end(&mut rest)).await??;
        assert_eq!(Digest::of(&rest), Digest::of(&early));
    }
    Ok(())
}
