//! A renewal that narrows access ends the sessions of callers who lost access, and no others.

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use tieline_e2e::behaviour::studio::{studio, token_of};
use tieline_e2e::behaviour::{
    TestRelay, WireAgent, WireKey, is_reset, read_to_close, registration, soon,
};
use tieline_e2e::on_each_driver;
use tieline_relay::{CallerAuth, DriverChoice};
use tieline_wire::{Event, Register, Scheme, SessionId, Token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

on_each_driver!(
    a_renewal_that_narrows_resets_those_who_lost_access_and_only_those,
    a_renewal_as_another_kind_resets_those_who_came_by_the_kind_and_only_those,
);

/// Callers per kind and holder: enough to have some on each shard, and thus crossing sessions.
const CALLERS: usize = 6;

/// Head and first event of an endless event stream.
const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: one\n\n";

/// Order of the test to the agent.
enum Order {
    /// Register with this token, kind and base path; the registration must be granted.
    Register(String, &'static str, &'static str),
    /// Send these bytes on every open session.
    Say(&'static [u8]),
}

/// Serves event streams until the channel of orders closes; reports each granted registration on `granted`.
async fn serve(
    mut agent: WireAgent,
    mut orders: mpsc::Receiver<Order>,
    granted: mpsc::Sender<()>,
) -> Result<()> {
    let mut open: Vec<SessionId> = Vec::new();
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            event = agent.event() => {
                match event?.context("the relay closed the link")? {
                    Event::Open { session, .. } => agent.mux.opened(session),
                    // Respond once per session, when its first request bytes arrive.
                    Event::Data { session, payload, .. } => {
                        agent.mux.consumed(session, payload.len());
                        if !open.contains(&session) {
                            agent.mux.send(session, Bytes::from_static(STREAM), false)?;
                            open.push(session);
                        }
                    }
                    Event::Reset { session, .. } => open.retain(|it| *it != session),
                    Event::RegisterAck(ack) => {
                        ack.outcome?;
                        granted.send(()).await?;
                    }
                    Event::GoAway(away) => bail!("the relay sent {away:?}"),
                    _ => {}
                }
                agent.flush().await?;
                continue;
            }
        };
        match order {
            None => return Ok(()),
            Some(Order::Register(token, dcc, base_path)) => agent.mux.register(&Register {
                scheme: Scheme::Http,
                token: Token::new(token),
                dcc: dcc.to_owned(),
                base_path: base_path.to_owned(),
                ..registration(Some("maya"))
            }),
            Some(Order::Say(text)) => {
                for session in &open {
                    agent.mux.send(*session, Bytes::from_static(text), false)?;
                }
            }
        }
        agent.flush().await?;
    }
}

/// Opens the stream as a caller, over HTTP or raw TCP.
async fn caller(relay: &TestRelay, token: &str, is_raw: bool) -> Result<TcpStream> {
    let path = if is_raw { None } else { Some("/w/maya/") };
    caller_at(relay, token, path).await
}

/// Opens the stream at an HTTP path, or over raw TCP if there is none.
async fn caller_at(relay: &TestRelay, token: &str, path: Option<&str>) -> Result<TcpStream> {
    let (address, request) = match path {
        None => {
            let text = format!("maya\n{token}");
            let length = u16::try_from(text.len())?.to_be_bytes();
            (
                relay.tcp_address(),
                [&length, text.as_bytes(), b"hello"].concat(),
            )
        }
        Some(path) => {
            let head =
                format!("GET {path} HTTP/1.1\r\nHost: r\r\nAuthorization: Bearer {token}\r\n\r\n");
            (relay.http_address(), head.into_bytes())
        }
    };
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&request).await?;
    until(&mut stream, b"data: one\n\n").await?;
    Ok(stream)
}

fn relay(driver: DriverChoice) -> Result<TestRelay> {
    let auth = studio()?;
    TestRelay::with()
        .shards(2)
        .driver(driver)
        .config(|config| {
            config.auth = auth;
            config.caller_auth = CallerAuth::Token;
        })
        .start()
}

/// Reads until `wanted` has arrived.
async fn until(stream: &mut TcpStream, wanted: &[u8]) -> Result<()> {
    let mut read = Vec::new();
    while !read.windows(wanted.len()).any(|it| it == wanted) {
        let count = soon("an event", stream.read_buf(&mut read)).await;
        let text = || String::from_utf8_lossy(&read).into_owned();
        let count = count.with_context(text)??;
        ensure!(
            count > 0,
            "the stream ended: {}",
            String::from_utf8_lossy(&read)
        );
    }
    Ok(())
}

async fn a_renewal_that_narrows_resets_those_who_lost_access_and_only_those(
    driver: DriverChoice,
) -> Result<()> {
    let relay = relay(driver)?;
    let agent = WireAgent::dial(relay.agent_address(), &WireKey::new()?, 1).await?;
    let (orders, taken) = mpsc::channel(4);
    let (granted, mut grants) = mpsc::channel(4);
    let serving = tokio::spawn(serve(agent, taken, granted));
    orders
        .send(Order::Register(token_of("ada", &["fx"], &[])?, "", ""))
        .await?;
    soon("a grant", grants.recv()).await?;

    let (mut stay, mut lose) = (Vec::new(), Vec::new());
    for is_raw in [true, false] {
        for _ in 0..CALLERS {
            for token in [token_of("ada", &[], &[])?, token_of("cyd", &[], &["maya"])?] {
                stay.push(caller(&relay, &token, is_raw).await?);
            }
            let bobs = token_of("bob", &["fx"], &[])?;
            lose.push((caller(&relay, &bobs, is_raw).await?, is_raw));
        }
    }
    // Registering again with the same token ends no session.
    orders
        .send(Order::Register(token_of("ada", &["fx"], &[])?, "", ""))
        .await?;
    soon("a grant", grants.recv()).await?;
    orders.send(Order::Say(b"data: two\n\n")).await?;
    let losing = lose.iter_mut().map(|(stream, _)| stream);
    for stream in stay.iter_mut().chain(losing) {
        until(stream, b"data: two\n\n").await?;
    }

    orders
        .send(Order::Register(token_of("ada", &[], &[])?, "", ""))
        .await?;
    soon("a grant", grants.recv()).await?;
    for (stream, is_raw) in &mut lose {
        let mut read = Vec::new();
        let end = soon("the end of a stream", stream.read_to_end(&mut read)).await?;
        // An HTTP answer is complete only with its last chunk.
        let is_whole = end.is_ok() && (*is_raw || read.ends_with(b"0\r\n\r\n"));
        ensure!(!is_whole, "the stream ended as if it were complete");
    }
    orders.send(Order::Say(b"data: three\n\n")).await?;
    for stream in &mut stay {
        until(stream, b"data: three\n\n").await?;
    }
    let metrics = relay.metrics().await?;
    let reset = metrics.labelled("relay_session_resets_total", "auth_changed");
    ensure!(reset == i64::try_from(lose.len())?, "{metrics}");
    drop(orders);
    serving.await??;
    Ok(())
}

async fn a_renewal_as_another_kind_resets_those_who_came_by_the_kind_and_only_those(
    driver: DriverChoice,
) -> Result<()> {
    let relay = relay(driver)?;
    let agent = WireAgent::dial(relay.agent_address(), &WireKey::new()?, 1).await?;
    let (orders, taken) = mpsc::channel(4);
    let (granted, mut grants) = mpsc::channel(4);
    let serving = tokio::spawn(serve(agent, taken, granted));
    let adas = token_of("ada", &[], &[])?;
    let mut register = async |dcc: &'static str, path: &'static str| -> Result<()> {
        orders
            .send(Order::Register(adas.clone(), dcc, path))
            .await?;
        soon("a grant", grants.recv()).await?.context("no grant")
    };
    register("maya", "").await?;
    let (mut by_kind, mut by_name, mut raw) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..CALLERS {
        for path in ["/dcc/maya/", "/dcc/maya/maya/"] {
            by_kind.push(caller_at(&relay, &adas, Some(path)).await?);
        }
        by_name.push(caller_at(&relay, &adas, Some("/w/maya/")).await?);
        raw.push(caller_at(&relay, &adas, None).await?);
    }
    // Registering again with the same kind ends no session.
    register("maya", "").await?;
    orders.send(Order::Say(b"data: two\n\n")).await?;
    let all = by_kind.iter_mut().chain(&mut by_name).chain(&mut raw);
    for stream in all {
        until(stream, b"data: two\n\n").await?;
    }

    register("nuke", "").await?;
    for stream in &mut by_kind {
        let mut read = Vec::new();
        let end = soon("the end of a stream", stream.read_to_end(&mut read)).await?;
        ensure!(
            end.is_err() || !read.ends_with(b"0\r\n\r\n"),
            "the stream ended as if it were complete"
        );
    }
    orders.send(Order::Say(b"data: three\n\n")).await?;
    for stream in by_name.iter_mut().chain(&mut raw) {
        until(stream, b"data: three\n\n").await?;
    }

    // An HTTP target with a base path is reachable over HTTP only.
    register("nuke", "/mcp").await?;
    for stream in &mut raw {
        let (_, end) = soon("the end of a session", read_to_close(stream)).await?;
        ensure!(is_reset(&end), "{end:?}");
    }
    let metrics = relay.metrics().await?;
    let reset = metrics.labelled("relay_session_resets_total", "auth_changed");
    ensure!(
        reset == i64::try_from(by_kind.len() + raw.len())?,
        "{metrics}"
    );
    drop(orders);
    serving.await??;
    Ok(())
}
