//! Limits on agents that have not yet proven that they may have a tunnel.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tieline_e2e::behaviour::studio::studio;
use tieline_e2e::behaviour::{Target, TestRelay, WireAgent, WireKey, registration, soon};
use tieline_e2e::on_each_driver;
use tieline_relay::config::{HttpUrl, Secret};
use tieline_relay::{Auth, DriverChoice, ProviderAuth};
use tieline_wire::{Event, LinkEnd, RefusalReason, Register, Token};
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;

on_each_driver!(
    an_address_has_so_many_links_without_a_tunnel,
    an_agent_without_a_good_token_cannot_make_the_relay_hold_answers,
    strangers_do_not_keep_a_provider_from_renewing_what_lives,
);

async fn an_address_has_so_many_links_without_a_tunnel(driver: DriverChoice) -> Result<()> {
    let relay = TestRelay::with()
        .shards(2)
        .driver(driver)
        .config(|config| config.limits.address_new_links = 2)
        .start()?;
    let at = relay.agent_address();
    let mut first = WireAgent::dial(at, &WireKey::new()?, 1).await?;
    let (second, _) = WireAgent::greeted(at).await?;
    let refused = async || -> Result<LinkEnd> {
        let (mut third, _) = WireAgent::greeted(at).await?;
        third.reason().await
    };
    ensure!(refused().await? == LinkEnd::Limited);
    // The agent may receive the refusal before it is counted.
    relay
        .until("the refused link to be counted", |it| {
            it.labelled("relay_limited_total", "links") == 1
                && it.labelled("relay_link_refused_total", "limited") == 1
        })
        .await?;
    // A link that gets a tunnel no longer counts, so there may be any number of them.
    first.register(Some("maya-0")).await??;
    for number in 1..5 {
        let key = WireKey::new()?;
        let mut more = WireAgent::dial(at, &key, 1).await?;
        more.register(Some(&format!("maya-{number}"))).await??;
    }
    // A closed link makes room for another.
    drop(second);
    relay
        .until("the end of the link", |it| it.get("relay_links") == 1)
        .await?;
    let mut again = WireAgent::dial(at, &WireKey::new()?, 1).await?;
    again.register(Some("comfy")).await??;
    Ok(())
}

async fn an_agent_without_a_good_token_cannot_make_the_relay_hold_answers(
    driver: DriverChoice,
) -> Result<()> {
    let auth = studio()?;
    let relay = TestRelay::with().shards(2).driver(driver);
    let relay = relay.config(|config| config.auth = auth).start()?;
    let mut agent = WireAgent::dial(relay.agent_address(), &WireKey::new()?, 1).await?;
    // The agent sends registrations endlessly and reads nothing.
    let wrong = Register {
        token: Token::new("wrong".to_owned()),
        ..registration(Some("maya"))
    };
    let asked = async {
        loop {
            agent.mux.register(&wrong);
            if agent.flush().await.is_err() {
                return;
            }
        }
    };
    soon("the link's end", asked).await?;
    let metrics = relay
        .until("the end of the link", |it| it.get("relay_links") == 0)
        .await?;
    let reasons = metrics.labelled("relay_link_evictions_total", "overload");
    ensure!(reasons == 1, "{metrics}");
    Ok(())
}

/// A provider that grants `maya` and never answers for other names.
async fn provider(asked: &Arc<AtomicUsize>, again: &Arc<Notify>) -> Result<Target> {
    let (asked, again) = (Arc::clone(asked), Arc::clone(again));
    Target::http_requests(move |mut http, head| {
        let (asked, again) = (Arc::clone(&asked), Arc::clone(&again));
        async move {
            let question: Value = serde_json::from_slice(&http.body(&head).await?.bytes)?;
            if question["subdomain"] != "maya" {
                std::future::pending::<()>().await;
            }
            asked.fetch_add(1, Ordering::SeqCst);
            again.notify_one();
            let yes = br#"{"subdomains":["*"],"owner":"ada"}"#;
            http.respond("200 OK", "", yes).await?;
            Ok(http)
        }
    })
    .await
}

async fn strangers_do_not_keep_a_provider_from_renewing_what_lives(
    driver: DriverChoice,
) -> Result<()> {
    let (asked, again) = (Arc::<AtomicUsize>::default(), Arc::<Notify>::default());
    let provider = provider(&asked, &again).await?;
    let url = HttpUrl::parse(&provider.to_string()).context("a URL")?;
    let auth = Auth::Provider(ProviderAuth {
        interval: Duration::from_secs(1),
        grace: Duration::from_secs(3),
        ..ProviderAuth::new(url, Secret::new("the-relay-itself".to_owned()))
    });
    let relay = TestRelay::with().shards(2).driver(driver);
    let relay = relay.config(|config| config.auth = auth).start()?;
    let with_token = |name: &str| Register {
        token: Token::new("opaque".to_owned()),
        ..registration(Some(name))
    };
    let mut maya = WireAgent::dial(relay.agent_address(), &WireKey::new()?, 1).await?;
    maya.mux.register(&with_token("maya"));
    maya.flush().await?;
    let Event::RegisterAck(ack) = answer(&mut maya).await? else {
        anyhow::bail!("no answer");
    };
    ensure!(ack.outcome.is_ok(), "{ack:?}");

    // Keeps the link alive: answers pings and callers.
    tokio::spawn(maya.answer_with("hello", |_| {}));

    let mut strangers = Vec::new();
    for _ in 0..40 {
        let mut stranger = WireAgent::dial(relay.agent_address(), &WireKey::new()?, 1).await?;
        for number in 0..5 {
            stranger
                .mux
                .register(&with_token(&format!("stranger-{number}")));
        }
        stranger.flush().await?;
        // The fifth question of a link exceeds its limit; later links exceed the overall limit with every question.
        let Event::RegisterAck(ack) = answer(&mut stranger).await? else {
            anyhow::bail!("no answer");
        };
        let reason = ack.outcome.err().map(|refusal| refusal.reason);
        ensure!(reason == Some(RefusalReason::Limited), "{reason:?}");
        strangers.push(stranger);
    }
    // Six more answers take longer than interval plus grace, so an unrenewed tunnel would be gone.
    let before = asked.load(Ordering::SeqCst);
    while asked.load(Ordering::SeqCst) < before + 6 {
        let next = soon("the next question", again.notified()).await;
        next.with_context(|| format!("{:?}", asked.load(Ordering::SeqCst)))?;
    }
    let mut caller = relay.raw("maya").await?;
    let mut bytes = Vec::new();
    soon("the answer", caller.read_to_end(&mut bytes)).await??;
    ensure!(bytes == b"hello", "{bytes:?}");
    let metrics = relay.metrics().await?;
    ensure!(
        metrics.get("relay_tunnels_withdrawn_total") == 0,
        "{metrics}"
    );
    ensure!(
        metrics.labelled("relay_limited_total", "registrations") >= 40,
        "{metrics}"
    );
    Ok(())
}

/// Waits for the next answer to a registration.
async fn answer(agent: &mut WireAgent) -> Result<Event> {
    loop {
        let event = agent.event().await?.context("the link ended")?;
        if matches!(event, Event::RegisterAck(_)) {
            return Ok(event);
        }
    }
}
