//! A single tunnel of a link is withdrawn, while the link and its other tunnels go on.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tieline_agent::{AgentEvent, TargetConfig};
use tieline_e2e::behaviour::studio::write_token;
use tieline_e2e::behaviour::{
    Target, TestAgent, TestRelay, WireAgent, WireKey, echo_round_trip, is_reset, noise,
    read_to_close, registration, soon,
};
use tieline_e2e::on_each_driver;
use tieline_relay::config::{HttpUrl, Secret};
use tieline_relay::{Auth, DriverChoice, ProviderAuth};
use tieline_wire::{Event, Register};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::task::{JoinHandle, yield_now};

use crate::bystander::Bystander;
use crate::operators::asked;

on_each_driver!(
    a_kick_costs_an_agent_that_tunnel_and_no_other,
    requests_wait_for_a_kicked_tunnel_and_get_it_over_the_same_link,
    a_providers_no_costs_an_agent_that_tunnel_and_no_other,
    an_agent_that_does_not_listen_gets_no_callers,
    every_registration_is_answered_however_it_crosses_a_kick,
);

/// Bytes sent through the surviving session: much more than sockets and windows hold.
const TRANSFER_BYTES: usize = 16 * 1024 * 1024;

/// Longer than any agent here takes to register again.
const GRACE: Duration = Duration::from_secs(15);

fn comfy(target: &Target) -> Result<TargetConfig> {
    Ok(TargetConfig::new(&target.to_string())?.with_name("comfy")?)
}

/// Waits until both tunnels of an agent are up.
async fn both_up(agent: &mut TestAgent) -> Result<()> {
    for _ in 0..2 {
        agent.registered().await?;
    }
    Ok(())
}

/// Waits until an agent loses its tunnel `maya`; returns the reason, and whether it is final.
async fn saw_lost(agent: &mut TestAgent) -> Result<(&'static str, bool)> {
    let lost = agent.saw(|event| match event {
        AgentEvent::TunnelRefused {
            tunnel,
            reason,
            is_final,
            ..
        } if tunnel == "maya" => Some((*reason, *is_final)),
        _ => None,
    });
    lost.await
}

/// A session that has received half of its echo, with the other half in flight.
struct Transfer {
    stream: OwnedReadHalf,
    read: Vec<u8>,
    writer: JoinHandle<std::io::Result<()>>,
}

impl Transfer {
    async fn half(session: TcpStream) -> Result<Self> {
        let (mut stream, mut writes) = session.into_split();
        let writer = tokio::spawn(async move {
            writes.write_all(&noise(1, TRANSFER_BYTES)).await?;
            writes.shutdown().await
        });
        let mut read = vec![0; TRANSFER_BYTES / 2];
        soon("half of the bytes", stream.read_exact(&mut read)).await??;
        Ok(Self {
            stream,
            read,
            writer,
        })
    }

    async fn finish(mut self) -> Result<()> {
        soon("the rest", self.stream.read_to_end(&mut self.read)).await??;
        self.writer.await??;
        ensure!(
            self.read == noise(1, TRANSFER_BYTES),
            "the echo differs from the bytes sent"
        );
        Ok(())
    }
}

async fn a_kick_costs_an_agent_that_tunnel_and_no_other(driver: DriverChoice) -> Result<()> {
    // Without and with bulk lanes.
    for bulk_run_bytes in [0, 64 * 1024] {
        let relay = TestRelay::with().shards(2).driver(driver);
        let relay = relay
            .config(|config| config.bulk_run_bytes = bulk_run_bytes)
            .start()?;
        let bystander = Bystander::beside(&relay).await?;
        let (maya, echo) = (Target::echo().await?, Target::echo().await?);
        let second = comfy(&echo)?;
        let agent = TestAgent::of(&maya).named("maya");
        let agent = agent.config(|config| config.with_target(second));
        let mut agent = agent.spawn(&relay)?;
        both_up(&mut agent).await?;
        let transfer = Transfer::half(relay.raw("comfy").await?).await?;
        let mut session = relay.raw("maya").await?;
        echo_round_trip(&mut session, b"hello").await?;
        session.write_all(&noise(2, 64 * 1024)).await?;

        let (status, answer) = asked(&relay, "POST", "/tunnels/maya/kick").await?;
        let wanted = json!({"links_ended": 1, "sessions_ended": 1});
        ensure!(status == 200 && answer == wanted, "{answer}");
        let (_, end) = soon("the session's end", read_to_close(&mut session)).await?;
        ensure!(is_reset(&end), "{end:?}");
        ensure!(saw_lost(&mut agent).await? == ("kicked", false));
        agent.registered().await?;
        ensure!(agent.tunnel() == "maya");
        let mut session = relay.raw("maya").await?;
        echo_round_trip(&mut session, b"hello again").await?;
        transfer.finish().await?;

        let metrics = relay.metrics().await?;
        // One link is the bystander's.
        ensure!(metrics.get("relay_links") == 2, "{metrics}");
        ensure!(metrics.get("relay_links_total") == 2, "{metrics}");
        for (family, count) in [
            ("relay_tunnels_withdrawn_total", 1),
            ("relay_session_resets_total", 1),
        ] {
            ensure!(metrics.labelled(family, "kicked") == count, "{metrics}");
        }
        ensure!(metrics.get("relay_link_evictions_total") == 0, "{metrics}");
        bystander.stays_well(&relay).await?;
    }
    Ok(())
}

async fn requests_wait_for_a_kicked_tunnel_and_get_it_over_the_same_link(
    driver: DriverChoice,
) -> Result<()> {
    let relay = TestRelay::with().shards(2).driver(driver);
    let relay = relay
        .config(|config| config.callers.offline_grace = GRACE)
        .start()?;
    let web = Target::http_requests(|mut http, _| async move {
        http.respond("200 OK", "", b"hello").await?;
        Ok(http)
    })
    .await?;
    let echo = Target::echo().await?;
    let second = comfy(&echo)?;
    let agent = TestAgent::of(&web).named("maya");
    let agent = agent.config(|config| config.with_target(second));
    let mut agent = agent.spawn(&relay)?;
    both_up(&mut agent).await?;
    // A kept-alive caller, whose session to the target is reset between two requests.
    let mut kept = relay.http().await?;
    kept.get("/w/maya/").await?;
    let (head, _) = soon("an answer", kept.answer()).await??;
    ensure!(head.status() == 200, "{head:?}");
    let (status, answer) = asked(&relay, "POST", "/tunnels/maya/kick").await?;
    ensure!(status == 200, "{answer}");
    let mut callers = vec![kept];
    for _ in 0..8 {
        callers.push(relay.http().await?);
    }
    for caller in &mut callers {
        caller.get("/w/maya/").await?;
    }
    for mut caller in callers {
        let (head, body) = soon("an answer", caller.answer()).await??;
        ensure!(head.status() == 200 && body.bytes == b"hello", "{head:?}");
    }
    let metrics = relay.metrics().await?;
    ensure!(metrics.get("relay_links_total") == 1, "{metrics}");
    Ok(())
}

/// A provider that grants every name, until `denied` closes `maya`.
async fn provider(denied: &Arc<AtomicBool>) -> Result<Target> {
    let denied = Arc::clone(denied);
    Target::http_requests(move |mut http, head| {
        let denied = Arc::clone(&denied);
        async move {
            let asked: Value = serde_json::from_slice(&http.body(&head).await?.bytes)?;
            let (status, body) = match asked["subdomain"] == "maya" && denied.load(Ordering::SeqCst)
            {
                true => ("403 Forbidden", r#"{"error":"maya is closed"}"#),
                false => ("200 OK", r#"{"subdomains":["*"],"owner":"ada"}"#),
            };
            http.respond(status, "", body.as_bytes()).await?;
            Ok(http)
        }
    })
    .await
}

async fn a_providers_no_costs_an_agent_that_tunnel_and_no_other(
    driver: DriverChoice,
) -> Result<()> {
    let denied = Arc::new(AtomicBool::new(false));
    let provider = provider(&denied).await?;
    let secret = Secret::new("the-relay-itself".to_owned());
    let url = HttpUrl::parse(&provider.to_string()).context("a URL")?;
    let auth = Auth::Provider(ProviderAuth {
        interval: Duration::from_secs(1),
        ..ProviderAuth::new(url, secret)
    });
    let relay = TestRelay::with().shards(2).driver(driver);
    let relay = relay.config(|config| config.auth = auth).start()?;
    let (maya, echo) = (Target::echo().await?, Target::echo().await?);
    let home = TempDir::new()?;
    let path = home.path().join("token");
    write_token(&path, "opaque")?;
    let second = comfy(&echo)?;
    let agent = TestAgent::of(&maya).named("maya");
    let agent = agent.config(|config| config.with_token_file(path).with_target(second));
    let mut agent = agent.spawn(&relay)?;
    both_up(&mut agent).await?;
    let transfer = Transfer::half(relay.raw("comfy").await?).await?;
    let mut session = relay.raw("maya").await?;
    echo_round_trip(&mut session, b"hello").await?;

    denied.store(true, Ordering::SeqCst);
    let (_, end) = soon("the session's end", read_to_close(&mut session)).await?;
    ensure!(is_reset(&end), "{end:?}");
    ensure!(saw_lost(&mut agent).await? == ("revoked", true));
    transfer.finish().await?;
    let mut session = relay.raw("comfy").await?;
    echo_round_trip(&mut session, b"undisturbed").await?;
    let (_, shown) = asked(&relay, "GET", "/tunnels/maya").await?;
    ensure!(shown["links"] == 0, "{shown}");
    let metrics = relay.metrics().await?;
    ensure!(metrics.get("relay_links_total") == 1, "{metrics}");
    let withdrawn = metrics.labelled("relay_tunnels_withdrawn_total", "revoked");
    ensure!(
        withdrawn == 1 && metrics.get("relay_links") == 1,
        "{metrics}"
    );
    Ok(())
}

async fn an_agent_that_does_not_listen_gets_no_callers(driver: DriverChoice) -> Result<()> {
    let relay = TestRelay::with().shards(2).driver(driver).start()?;
    let mut agent = WireAgent::registered(relay.agent_address(), &WireKey::new()?, "maya").await?;
    let (status, answer) = asked(&relay, "POST", "/tunnels/maya/kick").await?;
    ensure!(status == 200 && answer["links_ended"] == 1, "{answer}");
    for _ in 0..4 {
        let mut caller = relay.raw("maya").await?;
        let (answer, end) = soon("the end", read_to_close(&mut caller)).await?;
        ensure!(answer.is_empty() && is_reset(&end), "{answer:?} {end:?}");
    }
    let (status, answer) = asked(&relay, "POST", "/tunnels/maya/kick").await?;
    ensure!(
        status == 409 && answer["error"] == "tunnel_absent",
        "{answer}"
    );
    // The agent ignores the withdrawal. It gets no callers, and unregistering the lost tunnel has no effect.
    agent.mux.unregister(&"maya".parse()?);
    let granted = agent.register(Some("comfy")).await??;
    ensure!(granted.tunnel.as_str() == "comfy", "{granted:?}");
    let _caller = relay.raw("comfy").await?;
    agent.opened().await?;
    let metrics = relay.metrics().await?;
    ensure!(metrics.get("relay_sessions_total") == 1, "{metrics}");
    Ok(())
}

/// Registrations per round that cross a kick.
const CROSSING: usize = 16;

async fn every_registration_is_answered_however_it_crosses_a_kick(
    driver: DriverChoice,
) -> Result<()> {
    let relay = TestRelay::with().shards(4).driver(driver).start()?;
    let mut agent = WireAgent::registered(relay.agent_address(), &WireKey::new()?, "maya").await?;
    let (mut request, mut withdrawn, mut is_up) = (1, 0, true);
    for round in 0..64 {
        let mut waiting = Vec::new();
        let mut kick = pin!(asked(&relay, "POST", "/tunnels/maya/kick"));
        let kicked = loop {
            tokio::select! {
                biased;
                kicked = &mut kick => break kicked?,
                () = yield_now(), if waiting.len() < CROSSING => {
                    request += 1;
                    waiting.push(request);
                    ask(&mut agent, request, "maya").await?;
                }
            }
        };
        // The answer to this registration comes after all frames that the kick caused.
        request += 1;
        let last = request;
        waiting.push(last);
        ask(&mut agent, last, "comfy").await?;
        while !waiting.is_empty() {
            match agent.event().await?.context("the link ended")? {
                Event::RegisterAck(ack) => {
                    let at = waiting.iter().position(|it| *it == ack.request);
                    waiting.remove(at.with_context(|| format!("answered twice: {ack:?}"))?);
                    if ack.request != last {
                        is_up = ack.outcome.is_ok();
                    }
                }
                Event::Withdrawn(it) => {
                    ensure!(it.tunnel.as_str() == "maya", "{it:?}");
                    (is_up, withdrawn) = (false, withdrawn + 1);
                }
                Event::GoAway(away) => bail!("the relay sent {away:?}"),
                _ => {}
            }
        }
        let (_, shown) = asked(&relay, "GET", "/tunnels/maya").await?;
        ensure!(
            is_up == (shown["links"] != 0),
            "round {round}: {kicked:?}, shown {shown}, and the agent was told {is_up}"
        );
    }
    let metrics = relay.metrics().await?;
    let counted = metrics.labelled("relay_tunnels_withdrawn_total", "kicked");
    ensure!(
        counted == withdrawn && withdrawn > 0,
        "{withdrawn}: {metrics}"
    );
    Ok(())
}

async fn ask(agent: &mut WireAgent, request: u32, name: &str) -> Result<()> {
    agent.mux.register(&Register {
        request,
        ..registration(Some(name))
    });
    agent.flush().await
}
