//! A refused hello: the agent learns the reason, even if its registrations follow the hello at once.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tieline_agent::{AgentEvent, Error};
use tieline_e2e::behaviour::{Target, TestAgent, TestRelay, WireAgent, WireKey, registration};
use tieline_e2e::on_each_driver;
use tieline_relay::{Auth, DriverChoice};
use tieline_wire::frame::{self, Kind};
use tieline_wire::{AgentHello, Event, LinkEnd, SessionId};

use crate::operators::{asked, told};

on_each_driver!(
    behind_a_refused_hello_nothing_is_answered,
    an_agent_that_dialled_another_name_ends_with_that_reason,
    an_agent_whose_key_is_revoked_ends_with_that_reason,
    an_agent_that_may_have_no_further_link_waits_before_it_dials_again,
);

/// Runs of an agent with two links. Each run may need to move to the other shard: 1 in 2^64 tests has none that does.
const RUNS_MAX: u128 = 64;

fn relay(driver: DriverChoice) -> Result<TestRelay> {
    TestRelay::with()
        .shards(2)
        .driver(driver)
        .config(|config| config.domain = Some("relay.example".to_owned()))
        .start()
}

/// Reason with which the relay ends a link on which a hello, two registrations and a protocol violation arrive at
/// once. An answer to a registration is an error.
async fn ended(
    relay: &TestRelay,
    key: &WireKey,
    (instance, links): (u128, u16),
    change: impl Fn(&mut AgentHello),
) -> Result<LinkEnd> {
    let (mut link, greeting) = WireAgent::greeted(relay.agent_address()).await?;
    let name = relay.agent_address().to_string();
    let mut hello = key.hello_of_link(&greeting, &name, instance, (0, links));
    change(&mut hello);
    link.mux.hello(&hello);
    for name in [None, Some("maya")] {
        link.mux.register(&registration(name));
    }
    // The write fails if the relay has already closed the link.
    let _closed = link
        .write(&frame::encode(Kind::Data, SessionId(1), 0, false))
        .await;
    let mut reason = None;
    while let Some(event) = link.event().await? {
        match event {
            Event::GoAway(away) => reason = reason.or(Some(away.reason)),
            Event::RegisterAck(ack) => bail!("a registration was answered: {ack:?}"),
            _ => {}
        }
    }
    reason.context("the relay closed the link without GOAWAY")
}

async fn behind_a_refused_hello_nothing_is_answered(driver: DriverChoice) -> Result<()> {
    let relay = relay(driver)?;
    let revoked = WireKey::new()?;
    let digits = data_encoding::HEXLOWER.encode(revoked.public().as_bytes());
    let body = format!(r#"{{"key":"{digits}"}}"#);
    let (status, answer) = told(&relay, "POST", "/revoke", &body).await?;
    ensure!(status == 200, "{answer}");
    // Of the runs with two links, about half move to the other shard between hello and registration.
    let mut runs = 0..RUNS_MAX;
    let metrics = loop {
        let instance = runs.next().context("no link ever moved")?;
        for links in [1, 2] {
            let reason = ended(&relay, &revoked, (instance, links), |_| {}).await?;
            ensure!(reason == LinkEnd::Revoked, "{instance} {links}: {reason:?}");
        }
        let metrics = relay.metrics().await?;
        if metrics.labelled("relay_handoffs_total", "link") > 0 {
            break metrics;
        }
    };
    let refused = metrics.get("relay_registration_refused_total");
    ensure!(refused == 0, "{metrics}");
    let good = WireKey::new()?;
    for run in [(1, 1), (1, 2), (2, 2)] {
        let elsewhere = async |name: &str| -> Result<LinkEnd> {
            let (mut link, greeting) = WireAgent::greeted(relay.agent_address()).await?;
            let hello = good.hello_of_link(&greeting, name, run.0, (0, run.1));
            link.mux.hello(&hello);
            link.mux.register(&registration(None));
            link.flush().await?;
            link.reason().await
        };
        let reason = elsewhere("evil.example:9001").await?;
        ensure!(reason == LinkEnd::RelayName, "{run:?}: {reason:?}");
        let broken = |hello: &mut AgentHello| hello.signature[0] ^= 1;
        let reason = ended(&relay, &good, run, broken).await?;
        ensure!(reason == LinkEnd::BadSignature, "{run:?}: {reason:?}");
        let unheard = |hello: &mut AgentHello| hello.version = 99;
        let reason = ended(&relay, &good, run, unheard).await?;
        ensure!(reason == LinkEnd::Version, "{run:?}: {reason:?}");
    }
    Ok(())
}

/// Waits for an agent's end, which must be final and have this `reason`.
async fn ends_for_good(agent: TestAgent, reason: LinkEnd) -> Result<()> {
    let Err(error) = agent.ended().await? else {
        bail!("the agent ended in order");
    };
    let is_it = matches!(&error, Error::LinkRefused { reason: why, .. } if *why == reason);
    ensure!(is_it && error.exit_code() == 3, "{error:?}");
    Ok(())
}

/// A non-loopback address of this machine, if there is one.
fn own_address() -> Result<Option<IpAddr>> {
    // Connecting a datagram socket sends nothing; TEST-NET-1 (RFC 5737) selects the default route.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    if socket.connect("192.0.2.1:9").is_err() {
        return Ok(None);
    }
    let address = socket.local_addr()?.ip();
    Ok(Some(address).filter(|it| !it.is_loopback() && !it.is_unspecified()))
}

async fn an_agent_that_dialled_another_name_ends_with_that_reason(
    driver: DriverChoice,
) -> Result<()> {
    // The test needs an address of this machine that is not a loopback address.
    let Some(address) = own_address()? else {
        return Ok(());
    };
    let relay = TestRelay::with()
        .shards(2)
        .driver(driver)
        .config(|config| {
            config.domain = Some("relay.example".to_owned());
            config.auth = Auth::Open { anywhere: true };
            config.agent_listen = vec![SocketAddr::new(address, 0).into()];
        })
        .start()?;
    let target = Target::echo().await?;
    let elsewhere = relay.agent_url();
    for links in [1, 2] {
        let agent = TestAgent::of(&target).links(links).spawn_at(&elsewhere)?;
        ends_for_good(agent, LinkEnd::RelayName).await?;
    }
    Ok(())
}

async fn an_agent_whose_key_is_revoked_ends_with_that_reason(driver: DriverChoice) -> Result<()> {
    let relay = relay(driver)?;
    let (target, home) = (Target::echo().await?, TempDir::new()?);
    let agent = || {
        let agent = TestAgent::of(&target).named("maya");
        agent.state_dir(home.path())
    };
    let known = agent().start(&relay).await?;
    let (_, shown) = asked(&relay, "GET", "/tunnels/maya").await?;
    let key = shown["bound"]["agent"].as_str().context("no key")?;
    let body = format!(r#"{{"key":"{key}"}}"#);
    let (status, answer) = told(&relay, "POST", "/revoke", &body).await?;
    ensure!(status == 200, "{answer}");
    ends_for_good(known, LinkEnd::Revoked).await?;
    for links in [1, 2] {
        let again = agent().links(links).spawn(&relay)?;
        ends_for_good(again, LinkEnd::Revoked).await?;
    }
    Ok(())
}

async fn an_agent_that_may_have_no_further_link_waits_before_it_dials_again(
    driver: DriverChoice,
) -> Result<()> {
    let relay = TestRelay::with()
        .driver(driver)
        .config(|config| config.limits.address_new_links = 1)
        .start()?;
    let target = Target::echo().await?;
    let (stranger, _) = WireAgent::greeted(relay.agent_address()).await?;
    let mut agent = TestAgent::of(&target).named("maya").spawn(&relay)?;
    let retry_ms = agent
        .saw(|event| match event {
            AgentEvent::Disconnected {
                reason: "limited",
                retry_ms,
                ..
            } => Some(*retry_ms),
            _ => None,
        })
        .await?;
    ensure!(retry_ms >= 200, "{retry_ms}");
    drop(stranger);
    agent.registered().await?;
    Ok(())
}
