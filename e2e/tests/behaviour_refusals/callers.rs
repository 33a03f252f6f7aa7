//! Tunnels that callers may reach, and how a revocation ends their access.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tieline_e2e::behaviour::studio::{SECRET, order, studio, token, token_of, write_token};
use tieline_e2e::behaviour::{
    Head, HttpStream, Target, TestAgent, TestRelay, echo_round_trip, is_reset, read_to_close, soon,
};
use tieline_e2e::on_each_driver;
use tieline_relay::cli::TokenOrder;
use tieline_relay::{CallerAuth, DriverChoice};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::operators::told;

on_each_driver!(
    a_caller_reaches_its_own_its_groups_and_what_its_token_names,
    a_raw_caller_brings_its_token_behind_the_name,
    a_revoked_caller_is_cut_off_within_a_second_and_nobody_else,
);

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

/// An agent of `ada` that publishes `target` as `maya-1`.
async fn adas(relay: &TestRelay, target: &Target, home: &TempDir) -> Result<TestAgent> {
    let path = home.path().join("token");
    write_token(&path, &token_of("ada", &["lookdev"], &[])?)?;
    let agent = TestAgent::of(target).named("maya-1");
    agent
        .config(|config| config.with_token_file(path))
        .start(relay)
        .await
}

async fn ask(relay: &TestRelay, path: &str, token: Option<&str>) -> Result<HttpStream> {
    let mut caller = relay.http().await?;
    let line = token.map_or_else(String::new, |it| format!("Authorization: Bearer {it}\r\n"));
    caller
        .write(format!("GET {path} HTTP/1.1\r\nHost: r\r\n{line}\r\n"))
        .await?;
    Ok(caller)
}

async fn answer(relay: &TestRelay, path: &str, token: Option<&str>) -> Result<(Head, String)> {
    let mut caller = ask(relay, path, token).await?;
    let (head, body) = soon("an answer", caller.answer()).await??;
    Ok((head, String::from_utf8(body.bytes)?))
}

async fn raw(relay: &TestRelay, preamble: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(relay.tcp_address()).await?;
    let length = u16::try_from(preamble.len())?.to_be_bytes();
    stream
        .write_all(&[&length[..], preamble.as_bytes()].concat())
        .await?;
    Ok(stream)
}

async fn a_caller_reaches_its_own_its_groups_and_what_its_token_names(
    driver: DriverChoice,
) -> Result<()> {
    let relay = relay(driver)?;
    let target = Target::http_requests(|mut http, head| async move {
        ensure!(head.header("authorization").is_none(), "{head:?}");
        http.respond("200 OK", "", b"hello").await?;
        Ok(http)
    })
    .await?;
    let home = TempDir::new()?;
    let _agent = adas(&relay, &target, &home).await?;
    for (token, status) in [
        (token_of("ada", &[], &[])?, 200),
        (token_of("bob", &["rig", "lookdev"], &[])?, 200),
        (token_of("eve", &[], &["maya-*"])?, 200),
        (token_of("eve", &["rig"], &["nuke-*"])?, 404),
        ("rubbish".to_owned(), 401),
    ] {
        let (head, body) = answer(&relay, "/w/maya-1/", Some(&token)).await?;
        ensure!(head.status() == status, "{head:?} {body}");
    }
    let (head, _) = answer(&relay, "/w/maya-1/", None).await?;
    ensure!(head.status() == 401 && head.header("www-authenticate") == Some("Bearer"));
    let agents_only = TokenOrder {
        scopes: vec!["agent".to_owned()],
        ..order()
    };
    let agents_only = token(agents_only, &SECRET, 0)?;
    let (head, _) = answer(&relay, "/w/maya-1/", Some(&agents_only)).await?;
    ensure!(head.status() == 403, "{head:?}");
    // A tunnel of another holder gets exactly the answer of a tunnel that does not exist.
    let eve = token_of("eve", &[], &[])?;
    let (_, theirs) = answer(&relay, "/w/maya-1/", Some(&eve)).await?;
    let (_, nobodys) = answer(&relay, "/w/maya-2/", Some(&eve)).await?;
    ensure!(
        theirs.replace("maya-1", "maya-2") == nobodys,
        "{theirs} {nobodys}"
    );
    Ok(())
}

async fn a_raw_caller_brings_its_token_behind_the_name(driver: DriverChoice) -> Result<()> {
    let relay = relay(driver)?;
    let target = Target::echo().await?;
    let home = TempDir::new()?;
    let _agent = adas(&relay, &target, &home).await?;
    // On either shard, so that some are handed off.
    for _ in 0..16 {
        let mut caller = raw(&relay, &format!("maya-1\n{}", token_of("ada", &[], &[])?)).await?;
        echo_round_trip(&mut caller, b"hello").await?;
    }
    for (preamble, reason) in [
        ("maya-1".to_owned(), "bad_token"),
        ("maya-1\nrubbish".to_owned(), "bad_token"),
        (
            format!("maya-1\n{}", token_of("eve", &[], &[])?),
            "unknown_tunnel",
        ),
    ] {
        let mut caller = raw(&relay, &preamble).await?;
        let (answer, end) = soon("the end", read_to_close(&mut caller)).await?;
        ensure!(answer.is_empty() && is_reset(&end), "{answer:?} {end:?}");
        let refused = |it: &tieline_e2e::behaviour::Metrics| {
            it.labelled("relay_frontend_refused_total", reason) >= 1
        };
        relay.until("the refusal to be counted", refused).await?;
    }
    Ok(())
}

async fn a_revoked_caller_is_cut_off_within_a_second_and_nobody_else(
    driver: DriverChoice,
) -> Result<()> {
    let relay = relay(driver)?;
    let web = Target::http_requests(|mut http, _| async move {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        http.write(head).await?;
        Ok(http)
    })
    .await?;
    let home = TempDir::new()?;
    let _agent = adas(&relay, &web, &home).await?;
    let bytes = Target::echo().await?;
    let path = home.path().join("token");
    let echo = TestAgent::of(&bytes).named("maya-raw");
    let _echo = echo
        .config(|config| config.with_token_file(path))
        .start(&relay)
        .await?;
    let (ada, bob) = (
        token_of("ada", &[], &[])?,
        token_of("bob", &["lookdev"], &[])?,
    );
    let mut streams = Vec::new();
    for token in [&ada, &bob] {
        let mut stream = ask(&relay, "/w/maya-1/", Some(token)).await?;
        let head = soon("a head", stream.head()).await??.context("no head")?;
        ensure!(head.status() == 200, "{head:?}");
        let mut session = raw(&relay, &format!("maya-raw\n{token}")).await?;
        echo_round_trip(&mut session, b"hello").await?;
        streams.push((stream, session));
    }
    let (mut bobs, mut bobs_raw) = streams.pop().context("two")?;
    let (_adas, mut adas_raw) = streams.pop().context("two")?;

    let began = Instant::now();
    let (status, told) = told(&relay, "POST", "/revoke", r#"{"sub":"bob"}"#).await?;
    ensure!(status == 200, "{told}");
    // Reset, so that the stream does not look complete.
    ensure!(soon("the stream's end", bobs.closed()).await?.is_err());
    let (_, end) = soon("the session's end", read_to_close(&mut bobs_raw)).await?;
    ensure!(
        end.is_err(),
        "the session ended in order instead of with a reset"
    );
    ensure!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    let metrics = relay.metrics().await?;
    ensure!(metrics.get("relay_callers_revoked_total") == 2, "{metrics}");

    let (head, _) = answer(&relay, "/w/maya-1/", Some(&bob)).await?;
    ensure!(head.status() == 401, "{head:?}");
    echo_round_trip(&mut adas_raw, b"undisturbed").await?;
    Ok(())
}
