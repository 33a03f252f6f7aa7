//! Operator actions on a tunnel, and their audit log.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tieline_e2e::behaviour::{
    Head, HttpStream, Target, TestAgent, TestRelay, echo_round_trip, is_reset, read_to_close, soon,
};
use tieline_e2e::on_each_driver;
use tieline_relay::config::{TokenHash, read_tokens};
use tieline_relay::{AuditConfig, Auth, CallerAuth, DriverChoice, TokensAuth};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::bystander::Bystander;
use tieline_e2e::behaviour::studio::{SECRET, order, studio, token, write_token};

on_each_driver!(
    a_paused_tunnel_takes_no_callers_until_it_is_resumed,
    a_kicked_agent_comes_back,
    the_callers_of_a_tunnel_are_shown_with_their_bytes,
    the_audit_log_names_no_tunnel_that_is_a_token,
    the_audit_log_says_who_did_what_and_no_secret,
);

pub(crate) async fn asked(relay: &TestRelay, method: &str, path: &str) -> Result<(u16, Value)> {
    let body = if method == "POST" { "{}" } else { "" };
    told(relay, method, path, body).await
}

/// Sends a request with `body` to the admin port; returns status and JSON of the answer.
pub(crate) async fn told(
    relay: &TestRelay,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(u16, Value)> {
    let mut admin = HttpStream::connect(relay.admin_address()).await?;
    admin
        .write(format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await?;
    let (head, body) = soon(path, admin.answer()).await??;
    Ok((head.status(), serde_json::from_slice(&body.bytes)?))
}

/// An HTTP target that answers every request with an endless stream.
async fn streams() -> Result<Target> {
    Target::http_requests(|mut http, _| async move {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        http.write(head).await?;
        Ok(http)
    })
    .await
}

async fn get(relay: &TestRelay, path: &str) -> Result<(HttpStream, Head)> {
    let mut caller = relay.http().await?;
    caller.get(path).await?;
    let head = soon("a head", caller.head()).await??.context("no head")?;
    Ok((caller, head))
}

async fn a_paused_tunnel_takes_no_callers_until_it_is_resumed(driver: DriverChoice) -> Result<()> {
    let relay = TestRelay::with().shards(2).driver(driver).start()?;
    let bystander = Bystander::beside(&relay).await?;
    let (echo, web) = (Target::echo().await?, streams().await?);
    let _raw = TestAgent::of(&echo).named("comfy").start(&relay).await?;
    let web = TestAgent::of(&web).named("maya");
    let home = TempDir::new()?;
    let agent = web.state_dir(home.path()).start(&relay).await?;
    let mut session = relay.raw("comfy").await?;
    echo_round_trip(&mut session, b"hello").await?;
    let (mut stream, head) = get(&relay, "/w/maya/").await?;
    ensure!(head.status() == 200, "{head:?}");

    for tunnel in ["comfy", "maya"] {
        let (status, answer) = asked(&relay, "POST", &format!("/tunnels/{tunnel}/pause")).await?;
        ensure!(status == 200, "{answer}");
        ensure!(answer["sessions_ended"] == 1, "{answer}");
    }
    // An interrupted session or stream must not look complete.
    let (_, end) = soon("the session's end", read_to_close(&mut session)).await?;
    ensure!(is_reset(&end), "{end:?}");
    let rest = soon("the stream's end", stream.closed()).await?;
    ensure!(
        rest.is_err() || !rest?.ends_with(b"0\r\n\r\n"),
        "the stream looks complete"
    );

    for _ in 0..4 {
        let mut caller = relay.http().await?;
        caller.get("/w/maya/").await?;
        let (head, body) = soon("an answer", caller.answer()).await??;
        let body: Value = serde_json::from_slice(&body.bytes)?;
        ensure!(
            head.status() == 503 && body["error"] == "tunnel_paused",
            "{body}"
        );
        ensure!(head.header("retry-after").is_some(), "{head:?}");
        let mut caller = relay.raw("comfy").await?;
        let (answer, end) = soon("the end", read_to_close(&mut caller)).await?;
        ensure!(answer.is_empty() && is_reset(&end), "{answer:?} {end:?}");
    }
    let metrics = relay.metrics().await?;
    let refused = metrics.labelled("relay_frontend_refused_total", "tunnel_paused");
    ensure!(refused == 4, "{metrics}");
    let (_, shown) = asked(&relay, "GET", "/tunnels/maya").await?;
    ensure!(shown["paused"] == true && shown["links"] == 1, "{shown}");

    // A new run of the agent does not resume the tunnel.
    drop(agent);
    let again = streams().await?;
    let again = TestAgent::of(&again).named("maya");
    let _again = again.state_dir(home.path()).start(&relay).await?;
    let (_, head) = get(&relay, "/w/maya/").await?;
    ensure!(head.status() == 503, "{head:?}");

    for tunnel in ["comfy", "maya"] {
        let (status, _) = asked(&relay, "POST", &format!("/tunnels/{tunnel}/resume")).await?;
        ensure!(status == 200);
    }
    let mut session = relay.raw("comfy").await?;
    echo_round_trip(&mut session, b"hello").await?;
    bystander.stays_well(&relay).await
}

async fn a_kicked_agent_comes_back(driver: DriverChoice) -> Result<()> {
    let relay = TestRelay::with().shards(2).driver(driver).start()?;
    let bystander = Bystander::beside(&relay).await?;
    let target = Target::echo().await?;
    let agent = TestAgent::of(&target).named("maya").links(2);
    let mut agent = agent.start(&relay).await?;
    // The second link's; the start waits for the first one's.
    agent.registered().await?;
    let mut session = relay.raw("maya").await?;
    echo_round_trip(&mut session, b"hello").await?;
    let (status, answer) = asked(&relay, "POST", "/tunnels/maya/kick").await?;
    let wanted = serde_json::json!({"links_ended": 2, "sessions_ended": 1});
    ensure!(status == 200 && answer == wanted, "{answer}");
    let (_, end) = soon("the session's end", read_to_close(&mut session)).await?;
    ensure!(is_reset(&end), "{end:?}");
    // Each link registers again.
    for _ in 0..2 {
        agent.registered().await?;
    }
    let mut session = relay.raw("maya").await?;
    echo_round_trip(&mut session, b"hello again").await?;
    let metrics = relay.metrics().await?;
    let kicked = metrics.labelled("relay_tunnels_withdrawn_total", "kicked");
    ensure!(kicked == 2, "{metrics}");
    let (status, _) = asked(&relay, "POST", "/tunnels/nobody/kick").await?;
    ensure!(status == 404);
    bystander.stays_well(&relay).await
}

async fn the_callers_of_a_tunnel_are_shown_with_their_bytes(driver: DriverChoice) -> Result<()> {
    let auth = studio()?;
    let relay = TestRelay::with().shards(2).driver(driver).config(|config| {
        config.auth = auth;
        config.caller_auth = CallerAuth::Token;
    });
    let relay = relay.start()?;
    let target = Target::echo().await?;
    let home = TempDir::new()?;
    let path = home.path().join("token");
    let ada = token(order(), &SECRET, 0)?;
    write_token(&path, &ada)?;
    let agent = TestAgent::of(&target).named("maya-1");
    let agent = agent.config(|config| config.with_token_file(path));
    let _agent = agent.start(&relay).await?;
    let mut session = raw_caller(&relay, &format!("maya-1\n{ada}")).await?;
    echo_round_trip(&mut session, &[7; 1000]).await?;
    let (_, shown) = asked(&relay, "GET", "/tunnels/maya-1").await?;
    let caller = &shown["callers"][0];
    ensure!(caller["sub"] == order().subject.as_str(), "{shown}");
    ensure!(
        caller["kind"] == "tcp" && caller["address"] == "127.0.0.1",
        "{shown}"
    );
    for counted in [caller, &shown] {
        ensure!(counted["bytes_to_target"] == 1000, "{shown}");
        ensure!(counted["bytes_to_frontend"] == 1000, "{shown}");
    }
    ensure!(shown["callers_total"] == 1, "{shown}");
    drop(session);
    relay
        .until("the session is over", |it| it.get("relay_sessions") == 0)
        .await?;
    let (_, shown) = asked(&relay, "GET", "/tunnels/maya-1").await?;
    ensure!(
        shown["callers_total"] == 0 && shown["bytes_to_target"] == 1000,
        "{shown}"
    );
    Ok(())
}

/// Opens a raw TCP connection with `text` as its preamble.
async fn raw_caller(relay: &TestRelay, text: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(relay.tcp_address()).await?;
    let length = u16::try_from(text.len())?.to_be_bytes();
    stream
        .write_all(&[&length[..], text.as_bytes()].concat())
        .await?;
    Ok(stream)
}

fn events(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path)?;
    let lines = text.lines().map(serde_json::from_str);
    Ok(lines.collect::<Result<_, _>>()?)
}

async fn the_audit_log_names_no_tunnel_that_is_a_token(driver: DriverChoice) -> Result<()> {
    let home = TempDir::new()?;
    let (file, tokens) = (home.path().join("audit.log"), home.path().join("tokens"));
    let token = "0123456789abcdef0123456789abcdef01234567";
    let with_capitals = "Abcdef0123456789Abcdef0123456789";
    let entries = [token, with_capitals].map(|token| {
        let hash = TokenHash::of(token);
        format!("[[token]]\nsub = \"ada\"\nhash = \"{hash}\"\n")
    });
    write_token(&tokens, &entries.concat())?;
    let table = read_tokens(&tokens)?;
    let auth = Auth::Tokens(TokensAuth {
        file: Some(tokens),
        table,
    });
    let audit = AuditConfig::new(file.clone());
    let relay = TestRelay::with().driver(driver).config(|config| {
        config.auth = auth;
        config.caller_auth = CallerAuth::Token;
        config.audit = Some(audit);
    });
    let relay = relay.start()?;
    let texts = [
        token.to_owned(),
        with_capitals.to_owned(),
        format!("{token}\nmaya"),
        format!("{token}\n{token}"),
        format!("x-{token}\n{token}"),
        format!("{with_capitals}\n{token}"),
        format!("maya\n{token}"),
    ];
    for text in &texts {
        let mut caller = raw_caller(&relay, text).await?;
        soon("the end", read_to_close(&mut caller)).await?.1.ok();
    }
    relay.stop();
    let text = format!("{:?}", events(&file)?).to_ascii_lowercase();
    ensure!(
        text.matches("session_refused").count() == texts.len(),
        "{text}"
    );
    ensure!(text.contains("\"maya\""), "{text}");
    for token in [token, with_capitals] {
        ensure!(!text.contains(&token.to_ascii_lowercase()), "{text}");
    }
    Ok(())
}

async fn the_audit_log_says_who_did_what_and_no_secret(driver: DriverChoice) -> Result<()> {
    let home = TempDir::new()?;
    let file = home.path().join("audit.log");
    let (auth, audit) = (studio()?, AuditConfig::new(file.clone()));
    let relay = TestRelay::with().shards(2).driver(driver).config(|config| {
        config.auth = auth;
        config.caller_auth = CallerAuth::Token;
        config.audit = Some(audit);
    });
    let relay = relay.start()?;
    let web = Target::http_requests(|mut http, _| async move {
        http.respond("201 Created", "", b"hello").await?;
        Ok(http)
    })
    .await?;
    let path = home.path().join("token");
    let ada = token(order(), &SECRET, 0)?;
    write_token(&path, &ada)?;
    let agent = TestAgent::of(&web).named("maya-1");
    let agent = agent.config(|config| config.with_token_file(path));
    let agent = agent.start(&relay).await?;
    for credential in [&ada, "not-a-good-token"] {
        let mut caller = relay.http().await?;
        let head = format!(
            "POST /w/maya-1/mcp?key=in-the-query HTTP/1.1\r\nHost: r\r\nX-Key: in-a-header\r\n\
             Authorization: Bearer {credential}\r\nContent-Length: 0\r\n\r\n"
        );
        caller.write(head).await?;
        soon("an answer", caller.answer()).await??;
    }
    // Moves the log like logrotate.
    fs::rename(&file, home.path().join("audit.log.1"))?;
    for text in [format!("maya-1\n{ada}"), "maya-1\nrubbish-token".to_owned()] {
        let mut caller = raw_caller(&relay, &text).await?;
        caller.shutdown().await?;
        soon("the end", read_to_close(&mut caller)).await?.1.ok();
    }
    asked(&relay, "POST", "/tunnels/maya-1/pause").await?;
    asked(&relay, "POST", "/tunnels/maya-1/kick").await?;
    drop(agent);
    relay.stop();

    let mut all = events(&home.path().join("audit.log.1"))?;
    let new = events(&file)?;
    ensure!(!new.is_empty(), "nothing was written after the rotation");
    all.extend(new);
    let text = format!("{all:?}");
    for secret in [
        &ada[..],
        "not-a-good-token",
        "rubbish-token",
        "in-the-query",
        "in-a-header",
    ] {
        ensure!(!text.contains(secret), "{text}");
    }
    let one = |event: &str, reason: Option<&str>| {
        let mut fitting = all.iter().filter(|it| {
            it["event"] == event && reason.is_none_or(|reason| it["reason"] == reason)
        });
        fitting
            .next()
            .with_context(|| format!("no {event} in {text}"))
    };
    let sub = order().subject;
    let registered = one("registered", None)?;
    ensure!(registered["sub"] == sub.as_str() && registered["tunnel"] == "maya-1");
    ensure!(
        registered["agent"].as_str().map(str::len) == Some(32),
        "{registered}"
    );
    let request = one("request", None)?;
    ensure!(
        request["sub"] == sub.as_str() && request["status"] == 201,
        "{request}"
    );
    ensure!(request["path"] == "/w/maya-1/mcp" && request["method"] == "POST");
    let refused = one("request", Some("invalid_token"))?;
    ensure!(
        refused["status"] == 401 && refused["sub"].is_null(),
        "{refused}"
    );
    let session = one("session", None)?;
    ensure!(session["sub"] == sub.as_str() && session["address"] == "127.0.0.1");
    one("session_ended", None)?;
    let refused = one("session_refused", Some("bad_token"))?;
    ensure!(refused["tunnel"] == "maya-1", "{refused}");
    one("paused", None)?;
    ensure!(one("kicked", None)?["count"] == 1);
    let kicked = one("withdrawn", Some("kicked"))?;
    ensure!(
        kicked["sub"] == sub.as_str() && kicked["tunnel"] == "maya-1",
        "{kicked}"
    );
    one("link_ended", None)?;
    ensure!(all.first().is_some_and(|it| it["event"] == "started"));
    ensure!(all.last().is_some_and(|it| it["event"] == "stopped"));
    ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600);
    Ok(())
}
