//! Credentials of the relay never reach a target, and callers are told correct public URLs.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use data_encoding::BASE64;
use serde_json::Value;
use tempfile::TempDir;
use tieline_e2e::behaviour::studio::{SECRET, order, studio, token, write_token};
use tieline_e2e::behaviour::{HttpStream, Target, TestAgent, TestRelay, soon};
use tieline_e2e::on_each_driver;
use tieline_relay::cli::TokenOrder;
use tieline_relay::config::{PublicUrl, TokenHash, read_tokens};
use tieline_relay::{Auth, CallerAuth, Config, DriverChoice, TokensAuth};

on_each_driver!(
    a_token_of_the_relay_never_reaches_a_target,
    a_caller_without_a_token_is_refused_where_it_arrived,
);

/// A relay with a tunnel `maya`, and everything that must outlive the test.
struct Studio {
    relay: TestRelay,
    _agent: TestAgent,
    _target: Target,
    _home: TempDir,
}

/// Starts a relay with a tunnel `maya`, whose target answers with the request it received.
async fn studio_with(
    token: &str,
    driver: DriverChoice,
    change: impl FnOnce(&mut Config),
) -> Result<Studio> {
    let relay = TestRelay::with()
        .shards(2)
        .driver(driver)
        .config(change)
        .start()?;
    let target = Target::http_requests(|mut http, head| async move {
        let lines = head
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\n"));
        let seen = format!("{}\n{}", head.first, lines.collect::<String>());
        http.body(&head).await?;
        http.respond("200 OK", "", seen.as_bytes()).await?;
        Ok(http)
    })
    .await?;
    let home = TempDir::new()?;
    let path = home.path().join("token");
    write_token(&path, token)?;
    let agent = TestAgent::of(&target).named("maya");
    let agent = agent
        .config(|config| config.with_token_file(path))
        .start(&relay)
        .await?;
    Ok(Studio {
        relay,
        _agent: agent,
        _target: target,
        _home: home,
    })
}

async fn seen(caller: &mut HttpStream, path: &str, lines: &str) -> Result<String> {
    let request = format!("GET /w/maya{path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
    caller.write(request).await?;
    let (head, body) = soon("an answer", caller.answer()).await??;
    ensure!(head.status() == 200, "{lines:?}: {head:?}");
    Ok(String::from_utf8(body.bytes)?)
}

async fn a_token_of_the_relay_never_reaches_a_target(driver: DriverChoice) -> Result<()> {
    let good = token(order(), &SECRET, 0)?;
    let signed = studio_with(&good, driver, {
        let auth = studio()?;
        |config| config.auth = auth
    })
    .await?;
    let expired = token(order(), &SECRET, 36_000)?;
    let others_are_not = token(order(), &[9; 32], 0)?;
    let audience = TokenOrder {
        audience: vec!["the-target".to_owned()],
        ..order()
    };
    let for_the_target = token(audience, &SECRET, 0)?;
    never_seen(&signed.relay, &[&good, &expired]).await?;
    passes(&signed.relay, &[&others_are_not, &for_the_target, "opaque"]).await?;

    let fixed = format!("tieline_{}", "A".repeat(43));
    let by_hand = "a-token-by-hand";
    let home = TempDir::new()?;
    let file = home.path().join("tokens.toml");
    let entry = |token: &str, more: &str| {
        let hash = TokenHash::of(token);
        format!("[[token]]\nsub = \"ada\"\nhash = \"{hash}\"\n{more}\n")
    };
    let expired = entry("tieline_expired", "expires = 2001-01-01T00:00:00Z");
    let text = [entry(&fixed, ""), entry(by_hand, ""), expired].concat();
    write_token(&file, &text)?;
    let table = read_tokens(&file)?;
    let listed = studio_with(&fixed, driver, |config| {
        config.auth = Auth::Tokens(TokensAuth {
            file: Some(file.clone()),
            table,
        });
    })
    .await?;
    never_seen(&listed.relay, &[&fixed, "tieline_expired"]).await?;
    passes(
        &listed.relay,
        &["tieline_of_another_relay", &good, "opaque"],
    )
    .await?;
    let mut caller = listed.relay.http().await?;
    let line = format!("Authorization: Bearer {by_hand}\r\n");
    ensure!(!seen(&mut caller, "/", &line).await?.contains(by_hand));
    Ok(())
}

/// Checks that none of `tokens` reaches the target, wherever a caller puts it.
async fn never_seen(relay: &TestRelay, tokens: &[&str]) -> Result<()> {
    let mut caller = relay.http().await?;
    for token in tokens {
        let basic = BASE64.encode(format!("ada:{token}").as_bytes());
        let lines = [
            format!("Authorization: Bearer {token}\r\n"),
            format!("authorization: bearer\t{token}\r\n"),
            format!("Authorization: Basic {basic}\r\n"),
            format!("Authorization: Bearer theirs\r\nAuthorization: Bearer {token}\r\n"),
            format!("Proxy-Authorization: Bearer {token}\r\n"),
            format!("X-Api-Key: {token}\r\n"),
            format!("X-Target-Authorization: Bearer {token}\r\n"),
            format!("Cookie: a=1; token={token}; b=2\r\n"),
            format!("Referer: http://relay/w/maya?access_token={token}\r\n"),
            format!("Referer: http://localhost/w/maya/mcp?access_token={token}\r\n"),
            format!("X-Basic: {basic}\r\n"),
            format!("X-Any: {{\"token\":\"{token}\"}}\r\n"),
        ];
        for line in &lines {
            let text = seen(&mut caller, "/mcp", line).await?;
            ensure!(
                !text.contains(token) && !text.contains(&basic),
                "{line}: {text}"
            );
        }
        let path = format!("/mcp?a=1&access_token={token}&b=2");
        let text = seen(&mut caller, &path, "").await?;
        ensure!(text.starts_with("GET /mcp?a=1&b=2 HTTP/1.1\n"), "{text}");
        let text = seen(&mut caller, "/mcp", &lines[7]).await?;
        ensure!(text.contains(": a=1; b=2\n"), "{text}");
        // Removing the token from the path would change the request, so the relay refuses it.
        let request = format!("GET /w/maya/{token}/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n");
        caller.write(request).await?;
        let (head, body) = soon("an answer", caller.answer()).await??;
        let body = String::from_utf8(body.bytes)?;
        ensure!(
            head.status() == 400 && body.contains("token_in_url"),
            "{body}"
        );
        ensure!(!body.contains(token), "{body}");
    }
    Ok(())
}

/// Checks that credentials of the target pass through unchanged.
async fn passes(relay: &TestRelay, tokens: &[&str]) -> Result<()> {
    let mut caller = relay.http().await?;
    for token in tokens {
        let line = format!("Authorization: Bearer {token}\r\nX-Api-Key: {token}\r\n");
        let path = format!("/mcp?access_token={token}");
        let text = seen(&mut caller, &path, &line).await?;
        ensure!(text.matches(token).count() == 3, "{token}: {text}");
    }
    Ok(())
}

async fn a_caller_without_a_token_is_refused_where_it_arrived(driver: DriverChoice) -> Result<()> {
    let good = token(order(), &SECRET, 0)?;
    let auth = studio()?;
    let it = studio_with(&good, driver, |config| {
        config.auth = auth;
        config.caller_auth = CallerAuth::Token;
    })
    .await?;
    let strangers = TokenOrder {
        subject: "eve".to_owned(),
        ..order()
    };
    let strangers = token(strangers, &SECRET, 0)?;
    let moved = async || -> Result<i64> {
        let metrics = it.relay.metrics().await?;
        Ok(metrics.labelled("relay_handoffs_total", "frontend"))
    };
    // Enough callers that some are accepted on another shard than the link's.
    for (token, status) in [
        (None, 401),
        (Some("rubbish"), 401),
        (Some(&*strangers), 404),
    ] {
        for tunnel in ["maya", "nothing"].iter().cycle().take(32) {
            let mut caller = it.relay.http().await?;
            let line = token.map_or(String::new(), |it| {
                format!("Authorization: Bearer {it}\r\n")
            });
            caller
                .write(format!(
                    "GET /w/{tunnel}/ HTTP/1.1\r\nHost: r\r\n{line}\r\n"
                ))
                .await?;
            let (head, _) = soon("an answer", caller.answer()).await??;
            ensure!(head.status() == status, "{token:?} {head:?}");
        }
    }
    ensure!(moved().await? == 0);
    // A caller with access is handed off to the link's shard.
    for _ in 0..32 {
        let mut caller = it.relay.http().await?;
        seen(
            &mut caller,
            "/",
            &format!("Authorization: Bearer {good}\r\n"),
        )
        .await?;
    }
    ensure!(moved().await? > 0);
    Ok(())
}

#[tokio::test]
async fn agents_and_callers_are_told_the_public_url() -> Result<()> {
    let relay = TestRelay::with()
        .config(|config| {
            config.public_url = PublicUrl::parse("https://relay.example").ok();
            config.domain = Some("relay.example".to_owned());
        })
        .start()?;
    let target = Target::echo().await?;
    let agent = TestAgent::of(&target).named("maya").start(&relay).await?;
    ensure!(
        agent.url() == "https://maya.relay.example",
        "{}",
        agent.url()
    );
    let urls = listed(&relay, "Host: localhost\r\n").await?;
    let expected = ["https://maya.relay.example", "https://relay.example/w/maya"];
    ensure!(urls["maya"] == expected, "{urls:?}");
    Ok(())
}

#[tokio::test]
async fn callers_are_told_urls_as_a_trusted_proxy_says_that_they_came() -> Result<()> {
    let auth = studio()?;
    let relay = TestRelay::with()
        .config(|config| {
            config.auth = auth;
            config.caller_auth = CallerAuth::Token;
            config.callers.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        })
        .start()?;
    let home = TempDir::new()?;
    let path = home.path().join("token");
    let good = token(order(), &SECRET, 0)?;
    write_token(&path, &good)?;
    let target = Target::echo().await?;
    let agent = TestAgent::of(&target).named("maya");
    let agent = agent
        .config(|config| config.with_token_file(path))
        .start(&relay)
        .await?;
    ensure!(agent.url() == format!("http://{}/w/maya", relay.http_address()));
    let lines = format!(
        "Host: 127.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: studio.example\r\n\
         Authorization: Bearer {good}\r\n"
    );
    let urls = listed(&relay, &lines).await?;
    ensure!(
        urls["maya"] == ["https://studio.example/w/maya"],
        "{urls:?}"
    );
    Ok(())
}

#[tokio::test]
async fn no_url_names_an_unspecified_address() -> Result<()> {
    let relay = TestRelay::with()
        .config(|config| config.http_listen = vec!["0.0.0.0:0".parse().unwrap()])
        .start()?;
    let port = relay.http_address().port();
    let target = Target::echo().await?;
    for (dialled, host) in [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "localhost"),
        ("0.0.0.0", "localhost"),
    ] {
        let url = format!("tcp://{dialled}:{}", relay.agent_address().port());
        let name = format!("maya-{}", dialled.replace('.', "-"));
        let agent = TestAgent::of(&target).named(&name);
        let agent = agent.start_at(&url).await?;
        ensure!(
            agent.url() == format!("http://{host}:{port}/w/{name}"),
            "{}",
            agent.url()
        );
        ensure!(agent.stop().await?.is_ok());
    }
    Ok(())
}

/// URLs of each tunnel in the relay's list for callers.
async fn listed(relay: &TestRelay, lines: &str) -> Result<HashMap<String, Vec<String>>> {
    let mut caller = HttpStream::connect(relay.http_address()).await?;
    caller
        .write(format!("GET /tunnels HTTP/1.1\r\n{lines}\r\n"))
        .await?;
    let (head, body) = soon("an answer", caller.answer()).await??;
    ensure!(head.status() == 200, "{head:?}");
    let told: Value = serde_json::from_slice(&body.bytes)?;
    let tunnels = told["tunnels"].as_array().context("tunnels")?;
    let row = |row: &Value| {
        let name = row["tunnel_id"].as_str()?.to_owned();
        Some((name, serde_json::from_value(row["urls"].clone()).ok()?))
    };
    tunnels.iter().map(|it| row(it).context("a row")).collect()
}
