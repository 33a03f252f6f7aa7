//! What agents may cost before they have shown that they may have a tunnel.

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
use tieline_wire::{Event, Reason, Register, Token};
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
    let refused = async || -> Result<Reason> {
        let (mut third, _) = WireAgent::greeted(at).await?;
        third.reason().await
    };
    ensure!(refused().await? == Reason::Limited);
    // The agent may hear of the refusal before it is counted.
    relay
        .until("one link that was too many", |it| {
            it.labelled("relay_limited_total", "links") == 1
                && it.labelled("relay_link_refused_total", "limited") == 1
        })
        .await?;
    // One that got a tunnel is counted no longer, however many there are.
    first.register(Some("maya-0")).await??;
    for number in 1..5 {
        let key = WireKey::new()?;
        let mut more = WireAgent::dial(at, &key, 1).await?;
        more.register(Some(&format!("maya-{number}"))).await??;
    }
    // And one that is gone makes room.
    drop(second);
    relay
        .until("its end", |it| it.get("relay_links") == 1)
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
    // It asks and asks, and reads nothing.
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
        .until("its end", |it| it.get("relay_links") == 0)
        .await?;
    let reasons = metrics.labelled("relay_link_evictions_total", "overload");
    ensure!(reasons == 1, "{metrics}");
    Ok(())
}

/// Says yes to `maya`, and nothing to strangers.
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

    // It answers pings, and callers.
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
        // The fifth question of a link is one too many; of some links, all are.
        let Event::RegisterAck(ack) = answer(&mut stranger).await? else {
            anyhow::bail!("no answer");
        };
        let reason = ack.outcome.err().map(|refusal| refusal.reason);
        ensure!(reason == Some(Reason::Limited), "{reason:?}");
        strangers.push(stranger);
    }
    // Interval and grace are over in between: without an answer the tunnel would be gone.
    let before = asked.load(Ordering::SeqCst);
    while asked.load(Ordering::SeqCst) < before + 6 {
        let next = soon("the next question", again.notified()).await;
        next.with_context(|| format!("{:?}", asked.load(Ordering::SeqCst)))?;
    }
    let mut caller = relay.raw("maya").await?;
    let mut said = Vec::new();
    soon("the answer", caller.read_to_end(&mut said)).await??;
    ensure!(said == b"hello", "{said:?}");
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

/// The next event that is an answer to a registration.
async fn answer(agent: &mut WireAgent) -> Result<Event> {
    loop {
        let event = agent.event().await?.context("the link ended")?;
        if matches!(event, Event::RegisterAck(_)) {
            return Ok(event);
        }
    }
}
