//! Callers that exceed their limits.

use std::io;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tieline_e2e::behaviour::{
    Head, HttpStream, Metrics, Target, TestAgent, TestRelay, echo_round_trip, is_reset,
    read_to_close, soon,
};
use tieline_e2e::on_each_driver;
use tieline_relay::cli::TokenOrder;
use tieline_relay::{CallerAuth, Config, DriverChoice};

use tieline_e2e::behaviour::studio::{SECRET, order, studio, token, write_token};

on_each_driver!(
    an_address_has_so_many_sessions_at_a_time_over_either_port,
    an_address_asks_so_often_as_a_trusted_proxy_tells_it,
    a_holder_asks_so_often_and_others_are_not_concerned,
    a_caller_over_its_byte_limit_keeps_what_runs_and_gets_nothing_new,
);

fn relay(driver: DriverChoice, change: impl FnOnce(&mut Config)) -> Result<TestRelay> {
    let relay = TestRelay::with().shards(2).driver(driver);
    relay.config(change).start()
}

/// Checks that a raw caller from an address at its limit is reset, possibly before its preamble.
async fn is_reset_at_once(relay: &TestRelay, tunnel: &str) -> Result<()> {
    let end = match relay.raw(tunnel).await {
        Ok(mut caller) => {
            let (answer, end) = soon("the end", read_to_close(&mut caller)).await?;
            ensure!(answer.is_empty(), "{answer:?}");
            end
        }
        Err(error) => Err(error.downcast::<io::Error>()?),
    };
    ensure!(is_reset(&end), "{end:?}");
    Ok(())
}

async fn hello() -> Result<Target> {
    Target::http_requests(|mut http, _| async move {
        http.respond("200 OK", "", b"hello").await?;
        Ok(http)
    })
    .await
}

async fn ask(relay: &TestRelay, lines: &str) -> Result<(HttpStream, Head)> {
    let mut caller = relay.http().await?;
    let head = format!("GET /w/maya-1/ HTTP/1.1\r\nHost: r\r\n{lines}\r\n");
    caller.write(head).await?;
    let head = soon("a head", caller.head()).await??.context("no head")?;
    Ok((caller, head))
}

/// Expects a 429 due to `limit`; returns its Retry-After in seconds.
async fn limited(relay: &TestRelay, lines: &str, limit: &str) -> Result<u64> {
    let (mut caller, head) = ask(relay, lines).await?;
    let body: Value = serde_json::from_slice(&caller.body(&head).await?.bytes)?;
    ensure!(
        head.status() == 429 && body["limit"] == limit,
        "{head:?} {body}"
    );
    ensure!(body["error"] == "too_many_requests", "{body}");
    Ok(head.header("retry-after").context("no time")?.parse()?)
}

fn turned_away(metrics: &Metrics, limit: &str) -> i64 {
    metrics.labelled("relay_limited_total", limit)
}

async fn an_address_has_so_many_sessions_at_a_time_over_either_port(
    driver: DriverChoice,
) -> Result<()> {
    let relay = relay(driver, |config| config.limits.address.sessions = 3)?;
    let web = Target::http_requests(|mut http, _| async move {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        http.write(head).await?;
        Ok(http)
    })
    .await?;
    let echo = Target::echo().await?;
    let _web = TestAgent::of(&web).named("maya-1").start(&relay).await?;
    let _raw = TestAgent::of(&echo).named("comfy").start(&relay).await?;
    let (stream, head) = ask(&relay, "").await?;
    ensure!(head.status() == 200, "{head:?}");
    let mut sessions = [relay.raw("comfy").await?, relay.raw("comfy").await?];
    for session in &mut sessions {
        echo_round_trip(session, b"hello").await?;
    }
    let seconds = limited(&relay, "", "sessions").await?;
    ensure!((1..=60).contains(&seconds), "{seconds}");
    is_reset_at_once(&relay, "comfy").await?;
    let metrics = relay.metrics().await?;
    ensure!(turned_away(&metrics, "sessions") == 2, "{metrics}");
    let refused = metrics.labelled("relay_frontend_refused_total", "limited");
    ensure!(refused == 1, "{metrics}");
    // A session that ends, of either kind, makes room for another.
    let [mut kept, left] = sessions;
    drop((stream, left));
    relay
        .until("both are over", |it| it.get("relay_sessions") == 1)
        .await?;
    let (_stream, head) = ask(&relay, "").await?;
    ensure!(head.status() == 200, "{head:?}");
    let mut session = relay.raw("comfy").await?;
    echo_round_trip(&mut session, b"hello").await?;
    echo_round_trip(&mut kept, b"undisturbed").await?;
    Ok(())
}

async fn an_address_asks_so_often_as_a_trusted_proxy_tells_it(driver: DriverChoice) -> Result<()> {
    let relay = relay(driver, |config| {
        config.limits.address.requests_per_second = 1;
        config.callers.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    })?;
    let target = hello().await?;
    let _agent = TestAgent::of(&target).named("maya-1").start(&relay).await?;
    let from = |last: u8| format!("X-Forwarded-For: 203.0.113.{last}\r\n");
    // Ten seconds' worth of requests may come in one burst.
    for _ in 0..10 {
        let (_, head) = ask(&relay, &from(1)).await?;
        ensure!(head.status() == 200, "{head:?}");
    }
    let mut seconds = Vec::new();
    // On a slow machine, a few more requests may have been earned meanwhile.
    for _ in 0..200 {
        let (_, head) = ask(&relay, &from(1)).await?;
        if head.status() == 429 {
            seconds.push(limited(&relay, &from(1), "requests").await?);
            break;
        }
    }
    ensure!(seconds == [1], "{seconds:?}");
    let (_, head) = ask(&relay, &from(2)).await?;
    ensure!(head.status() == 200, "{head:?}");
    let metrics = relay.metrics().await?;
    ensure!(turned_away(&metrics, "requests") == 2, "{metrics}");
    Ok(())
}

async fn a_holder_asks_so_often_and_others_are_not_concerned(driver: DriverChoice) -> Result<()> {
    let auth = studio()?;
    let relay = relay(driver, |config| {
        config.auth = auth;
        config.caller_auth = CallerAuth::Token;
        config.limits.sub.requests_per_second = 1;
    })?;
    let target = hello().await?;
    let home = TempDir::new()?;
    let path = home.path().join("token");
    let of = |subject: &str| {
        let order = TokenOrder {
            subject: subject.to_owned(),
            groups: vec!["lookdev".to_owned()],
            ..order()
        };
        token(order, &SECRET, 0)
    };
    write_token(&path, &of("ada")?)?;
    let agent = TestAgent::of(&target).named("maya-1");
    let agent = agent.config(|config| config.with_token_file(path));
    let _agent = agent.start(&relay).await?;
    let with = |token: &str| format!("Authorization: Bearer {token}\r\n");
    // Two tokens of the same holder.
    let (adas, others) = ([with(&of("ada")?), with(&of("ada")?)], with(&of("bob")?));
    let mut answers = Vec::new();
    for number in 0..200 {
        let (_, head) = ask(&relay, &adas[number % 2]).await?;
        answers.push(head.status());
        if head.status() == 429 {
            break;
        }
    }
    ensure!(
        answers.len() > 10 && answers.last() == Some(&429),
        "{answers:?}"
    );
    let (_, head) = ask(&relay, &others).await?;
    ensure!(head.status() == 200, "{head:?}");
    Ok(())
}

async fn a_caller_over_its_byte_limit_keeps_what_runs_and_gets_nothing_new(
    driver: DriverChoice,
) -> Result<()> {
    const LEN: usize = 4 * 1024 * 1024;
    let relay = relay(driver, |config| {
        config.limits.address.bytes_per_second = 100_000;
    })?;
    let target = Target::http_requests(|mut http, _| async move {
        http.respond("200 OK", "", &vec![7; LEN]).await?;
        Ok(http)
    })
    .await?;
    let echo = Target::echo().await?;
    let _web = TestAgent::of(&target).named("maya-1").start(&relay).await?;
    let _raw = TestAgent::of(&echo).named("comfy").start(&relay).await?;
    let mut session = relay.raw("comfy").await?;
    echo_round_trip(&mut session, b"hello").await?;
    let (mut caller, head) = ask(&relay, "").await?;
    let body = soon("the whole body", caller.body(&head)).await??;
    ensure!(body.bytes.len() == LEN, "{}", body.bytes.len());
    let seconds = limited(&relay, "", "bytes").await?;
    // 3.2 MB more than ten seconds' worth of bytes.
    ensure!((20..=33).contains(&seconds), "{seconds}");
    echo_round_trip(&mut session, b"goes on").await?;
    is_reset_at_once(&relay, "comfy").await?;
    let metrics = relay.metrics().await?;
    ensure!(turned_away(&metrics, "bytes") == 2, "{metrics}");
    Ok(())
}
