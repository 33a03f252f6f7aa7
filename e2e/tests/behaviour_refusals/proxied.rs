//! Callers behind a load balancer that reports their addresses with the PROXY protocol.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tieline_e2e::behaviour::{
    Digest, HttpStream, Target, TestAgent, TestRelay, echo_round_trip, read_to_close, soon,
};
use tieline_e2e::on_each_driver;
use tieline_relay::{Config, DriverChoice};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

on_each_driver!(
    a_proxy_says_who_calls_over_http_and_raw_tcp,
    behind_a_header_without_an_address_no_caller_chooses_its_own,
    a_proxy_behind_the_balancer_says_who_calls,
    a_trusted_proxy_that_does_not_say_it_is_turned_away,
);

/// PROXY v2 header from `192.0.2.7:40000` to `10.0.0.1:80`, with an extension after the addresses.
const HEADER: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\xc0\0\x02\x07\x0a\0\0\x01\x9c\x40\0\x50\x04\0\0";

/// PROXY v2 header of the LOCAL command, with which a balancer checks the relay's health.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// PROXY v2 header of a caller whose address the balancer does not know.
const UNSPECIFIED: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0";

fn relay(driver: DriverChoice) -> Result<TestRelay> {
    relay_with(driver, |_| {})
}

fn relay_with(driver: DriverChoice, change: impl FnOnce(&mut Config)) -> Result<TestRelay> {
    let relay = TestRelay::with().shards(2).driver(driver);
    relay
        .config(|config| {
            config.callers.proxy_protocol = true;
            config.callers.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
            config.preamble_timeout = Duration::from_millis(300);
            change(config);
        })
        .start()
}

/// A target that answers with the caller's address from X-Forwarded-For.
async fn told() -> Result<Target> {
    Target::http_requests(|mut http, head| async move {
        let from = head
            .header("x-forwarded-for")
            .unwrap_or_default()
            .to_owned();
        http.respond("200 OK", "", from.as_bytes()).await?;
        Ok(http)
    })
    .await
}

async fn ask(relay: &TestRelay, header: &[u8], path: &str) -> Result<(u16, String)> {
    ask_with(relay, header, path, "").await
}

async fn ask_with(
    relay: &TestRelay,
    header: &[u8],
    path: &str,
    lines: &str,
) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(relay.http_address()).await?;
    // Byte by byte, as a network may deliver it.
    for byte in header {
        stream.write_all(&[*byte]).await?;
    }
    let mut caller = HttpStream::new(stream);
    caller
        .write(format!("GET {path} HTTP/1.1\r\nHost: r\r\n{lines}\r\n"))
        .await?;
    let (head, body) = soon("an answer", caller.answer()).await??;
    Ok((head.status(), String::from_utf8(body.bytes)?))
}

async fn a_proxy_says_who_calls_over_http_and_raw_tcp(driver: DriverChoice) -> Result<()> {
    let relay = relay(driver)?;
    let (web, raw) = (told().await?, Target::echo().await?);
    let _web = TestAgent::of(&web).named("maya").start(&relay).await?;
    let _raw = TestAgent::of(&raw).named("echo").start(&relay).await?;
    let (status, from) = ask(&relay, HEADER, "/w/maya/").await?;
    ensure!(
        status == 200 && from.ends_with("192.0.2.7"),
        "{status} {from}"
    );
    let (status, body) = ask(&relay, LOCAL, "/health").await?;
    ensure!(status == 200, "{status} {body}");

    let mut caller = TcpStream::connect(relay.tcp_address()).await?;
    caller
        .write_all(&[HEADER, b"\0\x04echo"].concat())
        .await
        .context("cannot send the header")?;
    echo_round_trip(&mut caller, b"hello").await?;
    Ok(())
}

async fn behind_a_header_without_an_address_no_caller_chooses_its_own(
    driver: DriverChoice,
) -> Result<()> {
    let relay = relay_with(driver, |config| {
        config.limits.address.requests_per_second = 1;
    })?;
    let web = told().await?;
    let _web = TestAgent::of(&web).named("maya").start(&relay).await?;
    let unix = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8"[..], &[0; 216]].concat();
    for header in [UNSPECIFIED, LOCAL, &unix[..]] {
        let lines = "X-Forwarded-For: 203.0.113.1\r\n";
        let (status, from) = ask_with(&relay, header, "/w/maya/", lines).await?;
        ensure!(status == 200 && from == "127.0.0.1", "{status} {from}");
    }
    // Ten seconds' worth of requests may come in one burst; on a slow machine, a few more are earned meanwhile.
    let mut status = 200;
    for last in 0..200 {
        let lines = format!("X-Forwarded-For: 203.0.113.{last}\r\n");
        (status, _) = ask_with(&relay, UNSPECIFIED, "/w/maya/", &lines).await?;
        if status != 200 {
            break;
        }
    }
    ensure!(status == 429, "{status}");
    Ok(())
}

async fn a_proxy_behind_the_balancer_says_who_calls(driver: DriverChoice) -> Result<()> {
    let relay = relay_with(driver, |config| {
        let inner = "192.0.2.7/32".parse().expect("a network");
        config.callers.trusted_proxies.push(inner);
    })?;
    let web = told().await?;
    let _web = TestAgent::of(&web).named("maya").start(&relay).await?;
    let lines = "X-Forwarded-For: 203.0.113.1\r\n";
    let (status, from) = ask_with(&relay, HEADER, "/w/maya/", lines).await?;
    ensure!(
        status == 200 && from == "203.0.113.1, 192.0.2.7",
        "{status} {from}"
    );
    Ok(())
}

async fn a_trusted_proxy_that_does_not_say_it_is_turned_away(driver: DriverChoice) -> Result<()> {
    let relay = relay(driver)?;
    let web = told().await?;
    let _web = TestAgent::of(&web).named("maya").start(&relay).await?;
    for opening in [
        &b"GET /w/maya/ HTTP/1.1\r\nHost: r\r\n\r\n"[..],
        b"PROXY TCP4 192.0.2.7 10.0.0.1 40000 80\r\n",
        &HEADER[..20],
        b"",
    ] {
        for address in [relay.http_address(), relay.tcp_address()] {
            let mut caller = TcpStream::connect(address).await?;
            caller.write_all(opening).await?;
            let (told, _end) = soon("the end", read_to_close(&mut caller)).await?;
            ensure!(told == Digest::of(b""), "the relay sent an answer");
        }
    }
    relay
        .until("all refusals to be counted", |it| {
            it.labelled("relay_frontend_refused_total", "preamble") == 8
        })
        .await?;
    Ok(())
}
