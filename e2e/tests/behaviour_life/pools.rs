//! Several agents behind one URL.
//! Long because all pool tests share one set of targets.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tieline_e2e::behaviour::studio::{SECRET, order, studio, token, write_token};
use tieline_e2e::behaviour::{
    Head, HttpStream, Target, TestAgent, TestRelay, echo_round_trip, is_reset, read_to_close, soon,
};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tieline_relay::cli::TokenOrder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

on_each_driver!(
    agents_that_share_a_name_spread_its_load_and_one_that_dies_takes_only_its_own,
    an_mcp_session_stays_with_its_agent_from_any_connection,
    a_kind_leads_to_any_tunnel_of_it,
    a_request_whose_target_is_dead_goes_to_another_agent,
    what_is_bound_to_an_agent_whose_target_is_dead_goes_nowhere_else,
    a_raw_caller_whose_target_is_dead_goes_to_another_agent,
);

/// Time that requests wait for an absent agent.
const GRACE: Duration = Duration::from_millis(300);

fn relay(driver: DriverChoice) -> Result<TestRelay> {
    let auth = studio()?;
    let relay = TestRelay::with().shards(2).driver(driver);
    relay
        .config(|config| {
            config.auth = auth;
            config.callers.offline_grace = GRACE;
        })
        .start()
}

/// A target that answers with its name, tracks its own MCP sessions, and never finishes `/hold`.
async fn node(name: &'static str) -> Result<Target> {
    Target::http_requests(move |mut http, head| async move {
        let own = format!("{name}.session");
        let (_, path) = head.request();
        match (path, head.header("mcp-session-id")) {
            ("/hold", _) => {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                http.write(head).await?;
                http.write_chunk(name.as_bytes()).await?;
                // Wait until the caller disconnects.
                let _end = http.stream().read_to_end(&mut Vec::new()).await;
            }
            (_, Some(session)) if session != own => {
                http.respond("404 Not Found", "", b"whose?").await?;
            }
            ("/begin", None) => {
                let line = format!("Mcp-Session-Id: {own}\r\n");
                http.respond("200 OK", &line, name.as_bytes()).await?;
            }
            _ => http.respond("200 OK", "", name.as_bytes()).await?,
        }
        Ok(http)
    })
    .await
}

/// Order for a token that lets agents share a name.
fn shared() -> TokenOrder {
    TokenOrder {
        shared: true,
        ..order()
    }
}

/// Address of a target that refuses connections while its socket is held.
struct Dead(TcpSocket);

impl Dead {
    fn new() -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(([127, 0, 0, 1], 0).into())?;
        Ok(Self(socket))
    }

    fn address(&self) -> Result<SocketAddr> {
        Ok(self.0.local_addr()?)
    }
}

/// Starts an agent with its own key and a token of `order`.
async fn agent(
    relay: &TestRelay,
    target: impl ToString,
    name: &str,
    order: TokenOrder,
    home: &TempDir,
) -> Result<TestAgent> {
    let path = home.path().join("token");
    write_token(&path, &token(order, &SECRET, 0)?)?;
    let agent = TestAgent::to(&target.to_string()).named(name);
    agent
        .config(|config| config.with_token_file(path).with_dcc("maya"))
        .start(relay)
        .await
}

async fn ask(
    relay: &TestRelay,
    method: &str,
    path: &str,
    session: Option<&str>,
) -> Result<(Head, String)> {
    say(relay, method, path, session, "").await
}

/// Sends a request with a body and returns the answer.
async fn say(
    relay: &TestRelay,
    method: &str,
    path: &str,
    session: Option<&str>,
    body: &str,
) -> Result<(Head, String)> {
    let mut caller = relay.http().await?;
    let line = session.map_or_else(String::new, |it| format!("Mcp-Session-Id: {it}\r\n"));
    let length = body.len();
    caller
        .write(format!(
            "{method} {path} HTTP/1.1\r\nHost: r\r\nContent-Length: {length}\r\n{line}\r\n{body}"
        ))
        .await?;
    let (head, body) = soon("an answer", caller.answer()).await??;
    Ok((head, String::from_utf8(body.bytes)?))
}

/// Requests `/hold` and reads the node's name, with which the answer starts.
async fn hold(relay: &TestRelay) -> Result<(HttpStream, String)> {
    let mut caller = relay.http().await?;
    caller.get("/w/pool/hold").await?;
    let head = soon("a head", caller.head()).await??.context("no head")?;
    let mut framing = HttpStream::framing(&head)?;
    let piece = soon("a piece", caller.piece(&mut framing)).await??;
    let name = String::from_utf8(piece.context("no piece")?.to_vec())?;
    Ok((caller, name))
}

async fn agents_that_share_a_name_spread_its_load_and_one_that_dies_takes_only_its_own(
    driver: DriverChoice,
) -> Result<()> {
    let relay = relay(driver)?;
    let home = TempDir::new()?;
    let (one, two) = (node("one").await?, node("two").await?);
    let first = agent(&relay, &one, "pool", shared(), &home).await?;
    let _second = agent(&relay, &two, "pool", shared(), &home).await?;

    // Each new session goes to the agent with fewer sessions.
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(hold(&relay).await?);
        relay
            .until("the session counts", |it| {
                it.get("relay_sessions") >= held.len() as i64
            })
            .await?;
    }
    let of_one = held.iter().filter(|(_, name)| name == "one").count();
    ensure!(
        of_one == 2,
        "{:?}",
        held.iter().map(|it| &it.1).collect::<Vec<_>>()
    );
    let row = relay.tunnels().await?;
    ensure!(
        row.len() == 1 && row[0].agents == 2 && row[0].session_count >= 4,
        "{row:?}"
    );

    first.kill()?;
    for (mut caller, name) in held {
        let mut ended = Vec::new();
        let ended = caller.stream().read_to_end(&mut ended);
        if name == "one" {
            soon("the end of a session of the dead agent", ended)
                .await?
                .ok();
        } else {
            let ended = tokio::time::timeout(Duration::from_millis(50), ended).await;
            ensure!(ended.is_err(), "sessions of the other agent go on");
        }
    }
    for _ in 0..4 {
        let (head, body) = ask(&relay, "GET", "/w/pool/", None).await?;
        ensure!(head.status() == 200 && body == "two", "{head:?} {body}");
    }

    // An agent whose token does not share the name is refused for good.
    let home = TempDir::new()?;
    let alone = agent(&relay, &one, "pool", order(), &home).await;
    let Err(error) = alone else {
        bail!("the agent got the name")
    };
    let message = format!("{error:#}");
    ensure!(message.contains("holds this tunnel name"), "{message}");
    Ok(())
}

async fn an_mcp_session_stays_with_its_agent_from_any_connection(
    driver: DriverChoice,
) -> Result<()> {
    let relay = relay(driver)?;
    let home = TempDir::new()?;
    let (one, two) = (node("one").await?, node("two").await?);
    let first = agent(&relay, &one, "pool", shared(), &home).await?;
    let _second = agent(&relay, &two, "pool", shared(), &home).await?;
    for way in ["/w/pool", "/dcc/maya"] {
        let mut sessions = Vec::new();
        for _ in 0..6 {
            let (head, name) = ask(&relay, "POST", &format!("{way}/begin"), None).await?;
            let session = head.header("mcp-session-id").context("no session")?;
            sessions.push((session.to_owned(), name));
        }
        let names: BTreeSet<_> = sessions.iter().map(|(_, name)| name.as_str()).collect();
        ensure!(names.len() == 2, "{names:?}");
        for (session, name) in &sessions {
            for method in ["POST", "GET", "DELETE"] {
                let (head, body) =
                    ask(&relay, method, &format!("{way}/mcp"), Some(session)).await?;
                ensure!(
                    head.status() == 200 && body == *name,
                    "{head:?} {body}, not {name}"
                );
            }
        }
        let (head, body) = ask(&relay, "POST", &format!("{way}/mcp"), Some("one.session")).await?;
        ensure!(
            head.status() == 404 && body.contains("unknown_session"),
            "{head:?} {body}"
        );
    }

    let mut of_one = None;
    while of_one.is_none() {
        let (head, name) = ask(&relay, "POST", "/w/pool/begin", None).await?;
        of_one = head
            .header("mcp-session-id")
            .filter(|_| name == "one")
            .map(str::to_owned);
    }
    first.kill()?;
    let (head, body) = ask(&relay, "POST", "/w/pool/mcp", of_one.as_deref()).await?;
    ensure!(
        head.status() == 404 && body.contains("unknown_session"),
        "{head:?} {body}"
    );
    Ok(())
}

async fn a_kind_leads_to_any_tunnel_of_it(driver: DriverChoice) -> Result<()> {
    let relay = relay(driver)?;
    let home = TempDir::new()?;
    let (one, two) = (node("one").await?, node("two").await?);
    let (head, body) = ask(&relay, "GET", "/dcc/maya/", None).await?;
    ensure!(head.status() == 404, "{head:?} {body}");
    let first = agent(&relay, &one, "seat-1", order(), &home).await?;
    let second = agent(&relay, &two, "seat-2", order(), &home).await?;
    let mut names = BTreeSet::new();
    for _ in 0..8 {
        let (head, body) = ask(&relay, "GET", "/dcc/maya/x", None).await?;
        ensure!(head.status() == 200, "{head:?} {body}");
        names.insert(body);
    }
    ensure!(names.len() == 2, "{names:?}");
    let (_, body) = ask(&relay, "GET", "/dcc/maya/seat-2/x", None).await?;
    ensure!(
        body == "two",
        "a URL with a tunnel name leads to that tunnel"
    );
    first.kill()?;
    for _ in 0..4 {
        let (head, body) = ask(&relay, "GET", "/dcc/maya/x", None).await?;
        ensure!(head.status() == 200 && body == "two", "{head:?} {body}");
    }
    second.kill()?;
    let (head, body) = ask(&relay, "GET", "/dcc/maya/x", None).await?;
    ensure!(
        head.status() == 503 && body.contains("tunnel_offline"),
        "{head:?} {body}"
    );
    Ok(())
}

#[tokio::test]
async fn raw_callers_are_spread_over_agents_that_share_a_name() -> Result<()> {
    let relay = relay(DriverChoice::Auto)?;
    let home = TempDir::new()?;
    let says = |name: &'static str| {
        Target::tcp(move |mut stream| async move {
            stream.write_all(name.as_bytes()).await?;
            let _end = stream.read_to_end(&mut Vec::new()).await;
            Ok(())
        })
    };
    let (one, two) = (says("one").await?, says("two").await?);
    let _first = agent(&relay, &one, "pool", shared(), &home).await?;
    let _second = agent(&relay, &two, "pool", shared(), &home).await?;
    let mut held = Vec::new();
    for _ in 0..6 {
        let mut caller = relay.raw("pool").await?;
        let mut name = [0; 3];
        soon("the node's name", caller.read_exact(&mut name)).await??;
        held.push((caller, name));
    }
    let of_one = held.iter().filter(|(_, name)| name == b"one").count();
    ensure!(of_one == 3, "{of_one} of 6");
    Ok(())
}

async fn a_request_whose_target_is_dead_goes_to_another_agent(driver: DriverChoice) -> Result<()> {
    let relay = relay(driver)?;
    let home = TempDir::new()?;
    let one = node("one").await?;
    let dead = Dead::new()?;
    let _first = agent(&relay, dead.address()?, "pool", shared(), &home).await?;
    let _second = agent(&relay, dead.address()?, "pool", shared(), &home).await?;
    for path in ["/w/pool/", "/dcc/maya/"] {
        let (head, body) = say(&relay, "POST", path, None, "x").await?;
        let is_told = body.contains("target_refused") && body.contains("not_sent");
        ensure!(head.status() == 502 && is_told, "{head:?} {body}");
    }
    let _alive = agent(&relay, &one, "pool", shared(), &home).await?;
    let body = "x".repeat(8 * 1024);
    for number in 0..24 {
        for way in ["/w/pool", "/dcc/maya"] {
            for (method, body) in [("GET", ""), ("POST", "{}"), ("POST", &body)] {
                let path = format!("{way}/{number}");
                let (head, answer) = say(&relay, method, &path, None, body).await?;
                let length = body.len();
                ensure!(
                    head.status() == 200 && answer == "one",
                    "{method} {path} with {length} bytes: {head:?} {answer}"
                );
            }
        }
    }
    // An MCP session that starts on the live agent stays there.
    let (head, _) = ask(&relay, "POST", "/w/pool/begin", None).await?;
    let session = head.header("mcp-session-id").context("no session")?;
    for _ in 0..4 {
        let (head, body) = ask(&relay, "POST", "/w/pool/mcp", Some(session)).await?;
        ensure!(head.status() == 200 && body == "one", "{head:?} {body}");
    }
    // A request to a kind does not depend on the tunnel that is tried first.
    let _other = agent(&relay, dead.address()?, "seat", order(), &home).await?;
    for _ in 0..8 {
        let (head, body) = say(&relay, "POST", "/dcc/maya/x", None, "x").await?;
        ensure!(head.status() == 200 && body == "one", "{head:?} {body}");
    }
    let (head, body) = ask(&relay, "GET", "/w/seat/", None).await?;
    ensure!(head.status() == 502, "{head:?} {body}");
    Ok(())
}

async fn what_is_bound_to_an_agent_whose_target_is_dead_goes_nowhere_else(
    driver: DriverChoice,
) -> Result<()> {
    let relay = relay(driver)?;
    let home = TempDir::new()?;
    let (one, two) = (node("one").await?, node("two").await?);
    let _first = agent(&relay, &one, "pool", shared(), &home).await?;
    let (head, _) = ask(&relay, "POST", "/w/pool/begin", None).await?;
    let of_one = head.header("mcp-session-id").context("no session")?;
    let _second = agent(&relay, &two, "pool", shared(), &home).await?;
    drop(one);
    let (head, body) = ask(&relay, "POST", "/w/pool/mcp", Some(of_one)).await?;
    ensure!(
        head.status() == 502 && body.contains("target_refused"),
        "{head:?} {body}"
    );
    let (head, body) = ask(&relay, "POST", "/w/pool/mcp", None).await?;
    ensure!(head.status() == 200 && body == "two", "{head:?} {body}");
    Ok(())
}

async fn a_raw_caller_whose_target_is_dead_goes_to_another_agent(
    driver: DriverChoice,
) -> Result<()> {
    let relay = relay(driver)?;
    let home = TempDir::new()?;
    let echo = Target::echo().await?;
    let dead = Dead::new()?;
    let _first = agent(&relay, dead.address()?, "pool", shared(), &home).await?;
    let mut refused = relay.raw("pool").await?;
    let (_, end) = soon("the end", read_to_close(&mut refused)).await?;
    ensure!(is_reset(&end), "{end:?}");
    let _second = agent(&relay, dead.address()?, "pool", shared(), &home).await?;
    let mut refused = relay.raw("pool").await?;
    let (_, end) = soon("the end", read_to_close(&mut refused)).await?;
    ensure!(is_reset(&end), "{end:?}");
    let _alive = agent(&relay, &echo, "pool", shared(), &home).await?;
    let mut held = Vec::new();
    for _ in 0..12 {
        let mut caller = relay.raw("pool").await?;
        echo_round_trip(&mut caller, &[7; 40_000]).await?;
        held.push(caller);
    }
    Ok(())
}
