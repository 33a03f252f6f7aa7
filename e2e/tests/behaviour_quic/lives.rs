//! Agents with links over QUIC that come, go, are taken over, sent away and asked for proof.

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tempfile::TempDir;
use tieline_agent::{AgentEvent, Error};
use tieline_e2e::behaviour::studio::{SECRET, order, studio, token, write_token};
use tieline_e2e::behaviour::{
    AgentBuilder, Metrics, RelayBuilder, Target, TestAgent, TestAuthority, TestCertificate,
    TestRelay, echo_round_trip, is_reset, read_to_close, soon, tls,
};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::relay;

on_each_driver!(
    a_new_run_takes_over_and_sessions_of_the_old_one_are_reset,
    a_kicked_agent_comes_back,
    an_agent_that_stops_gives_its_tunnel_back,
    an_agent_with_several_links_is_served_on_each,
    agents_dial_again_after_a_restart_with_other_shards,
);

/// Sends some bytes to the agent's echo, and reads them back.
async fn is_served(relay: &TestRelay, agent: &TestAgent) -> Result<()> {
    let mut caller = relay.raw(agent.tunnel()).await?;
    soon("the echo", echo_round_trip(&mut caller, b"some")).await??;
    Ok(())
}

async fn a_new_run_takes_over_and_sessions_of_the_old_one_are_reset(
    driver: DriverChoice,
) -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = relay(driver, &certificate)?;
    let echo = Target::echo().await?;
    let home = TempDir::new()?;
    let run = || {
        let agent = TestAgent::of(&echo).state_dir(home.path());
        agent.trusting(&certificate).named("maya").links(2)
    };
    let mut old = run().start_at(&relay.quic_url()).await?;
    let mut caller = relay.raw("maya").await?;
    echo_round_trip(&mut caller, b"hello").await?;
    let new = run().start_at(&relay.quic_url()).await?;
    ensure!(new.generation() > old.generation());
    let (_, end) = soon("the old session's end", read_to_close(&mut caller)).await?;
    ensure!(is_reset(&end), "{end:?}");

    let is_told = |event: &AgentEvent| matches!(event, AgentEvent::Superseded { .. }).then_some(());
    old.saw(is_told).await?;
    let error = old.ended().await?.err().context("the old run ended well")?;
    ensure!(matches!(error, Error::Superseded { .. }), "{error}");
    let metrics = relay
        .until("the old links are gone", |metrics| {
            metrics.get("relay_links") == 2
        })
        .await?;
    let superseded = metrics.labelled("relay_link_evictions_total", "superseded");
    ensure!(superseded == 2, "{metrics}");
    is_served(&relay, &new).await
}

async fn a_kicked_agent_comes_back(driver: DriverChoice) -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = relay(driver, &certificate)?;
    let echo = Target::echo().await?;
    let agent = TestAgent::of(&echo).trusting(&certificate).named("maya");
    let mut agent = agent.start_at(&relay.quic_url()).await?;
    let mut session = relay.raw("maya").await?;
    echo_round_trip(&mut session, b"hello").await?;

    let (status, answer) = relay.order("/tunnels/maya/kick", &json!({})).await?;
    let wanted = json!({"links_ended": 1, "sessions_ended": 1});
    ensure!(status == 200 && answer == wanted, "{answer}");
    let (_, end) = soon("the session's end", read_to_close(&mut session)).await?;
    ensure!(is_reset(&end), "{end:?}");
    agent.registered().await?;
    is_served(&relay, &agent).await?;
    let metrics = relay.metrics().await?;
    ensure!(metrics.get("relay_link_evictions_total") == 0, "{metrics}");
    Ok(())
}

async fn an_agent_that_stops_gives_its_tunnel_back(driver: DriverChoice) -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = relay(driver, &certificate)?;
    let echo = Target::echo().await?;
    let agent = TestAgent::of(&echo).trusting(&certificate);
    let agent = agent.start_at(&relay.quic_url()).await?;
    is_served(&relay, &agent).await?;
    ensure!(agent.stop().await?.is_ok());
    let is_gone =
        |metrics: &Metrics| metrics.get("relay_tunnels") == 0 && metrics.get("relay_links") == 0;
    let metrics = relay.until("no tunnel is left", is_gone).await?;
    ensure!(metrics.get("relay_link_evictions_total") == 0, "{metrics}");
    Ok(())
}

async fn an_agent_with_several_links_is_served_on_each(driver: DriverChoice) -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = relay(driver, &certificate)?;
    let echo = Target::echo().await?;
    let agent = TestAgent::of(&echo).trusting(&certificate).links(4);
    let agent = agent.start_at(&relay.quic_url()).await?;
    relay
        .until("all links", |metrics| metrics.get("relay_links") == 4)
        .await?;
    for _ in 0..16 {
        is_served(&relay, &agent).await?;
    }
    let metrics = relay.metrics().await?;
    ensure!(metrics.get("relay_links_total") == 4, "{metrics}");
    Ok(())
}

async fn agents_dial_again_after_a_restart_with_other_shards(driver: DriverChoice) -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let state = TempDir::new()?;
    let path = state.path().to_owned();
    let relay = TestRelay::with().driver(driver).shards(2);
    // With its keys the new relay knows the connections of the old one, and tells agents that they are gone.
    let relay = relay.config(move |config| config.state_dir = Some(path));
    let mut relay = relay.quic(&certificate).start()?;
    let echo = Target::echo().await?;
    let agent = TestAgent::of(&echo).trusting(&certificate).links(2);
    let mut agent = agent.start_at(&relay.quic_url()).await?;
    // The second link's; the start waits for the first one's.
    agent.registered().await?;
    for shards in [3, 1] {
        relay = relay.restart_with(|config| config.shards = shards)?;
        for _ in 0..2 {
            agent.registered().await?;
        }
        is_served(&relay, &agent).await?;
    }
    Ok(())
}

/// A relay whose agents come over QUIC or TLS, as `change` wants them.
fn strict(
    certificate: &TestCertificate,
    change: impl FnOnce(&mut tieline_relay::Config),
) -> Result<TestRelay> {
    let relay: RelayBuilder = TestRelay::with().shards(2).quic(certificate);
    let relay = relay.config(|config| config.agent_listen = vec![tls::listen_address()]);
    relay.config(change).start()
}

#[tokio::test]
async fn an_agent_over_quic_is_bound_to_its_connection() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = strict(&certificate, |config| config.tls.require_binding = true)?;
    let echo = Target::echo().await?;
    let agent = TestAgent::of(&echo).trusting(&certificate).links(2);
    let agent = agent.start_at(&relay.quic_url()).await?;
    let rows = relay.tunnels().await?;
    let [row] = &rows[..] else {
        bail!("not one tunnel: {rows:?}");
    };
    assert_eq!((&*row.transport, row.channel_bound), ("quic", true));
    is_served(&relay, &agent).await
}

#[tokio::test]
async fn a_token_is_judged_over_quic_too() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let auth = studio()?;
    let relay = strict(&certificate, |config| config.auth = auth)?;
    let echo = Target::echo().await?;
    let home = TempDir::new()?;
    let file = home.path().join("token");
    let agent = || {
        let file = file.clone();
        let agent = TestAgent::of(&echo).trusting(&certificate);
        agent.config(move |config| config.with_token_file(file))
    };
    write_token(&file, &token(order(), &SECRET, 0)?)?;
    let served = agent().start_at(&relay.quic_url()).await?;
    is_served(&relay, &served).await?;

    write_token(&file, &token(order(), &[8; 32], 0)?)?;
    let refused = agent().spawn_at(&relay.quic_url())?;
    let error = refused
        .ended()
        .await?
        .err()
        .context("the token was taken")?;
    ensure!(error.exit_code() == 3, "{error:?}");
    Ok(())
}

/// A relay whose agents must show a certificate that `authority` signed.
fn asking(certificate: &TestCertificate, authority: &TestAuthority) -> Result<TestRelay> {
    let ca = authority.ca();
    strict(certificate, |config| config.tls.agent_ca = Some(ca))
}

/// Waits until the agent's link has failed, and the relay has counted `reason` for its handshake.
async fn is_turned_away(agent: AgentBuilder, relay: &TestRelay, reason: &str) -> Result<()> {
    let mut agent = agent.spawn_at(&relay.quic_url())?;
    agent
        .saw(|event| matches!(event, AgentEvent::Disconnected { .. }).then_some(()))
        .await?;
    let failed = |metrics: &Metrics| metrics.labelled("relay_tls_failures_total", reason) > 0;
    let metrics = relay.until(reason, failed).await?;
    ensure!(metrics.get("relay_links_total") == 0, "{metrics}");
    Ok(())
}

#[tokio::test]
async fn an_agent_shows_its_certificate_over_quic_and_callers_need_none() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let authority = TestAuthority::new("Studio agents")?;
    let relay = asking(&certificate, &authority)?;
    let echo = Target::echo().await?;
    let files = authority.sign("seat-12")?;
    let agent = TestAgent::of(&echo).trusting(&certificate);
    let agent = agent.config(move |config| config.with_client_certificate(files.cert, files.key));
    let agent = agent.start_at(&relay.quic_url()).await?;
    is_served(&relay, &agent).await?;

    let caller = relay.quic_caller(&certificate).await?;
    let mut stream = caller.raw(agent.tunnel()).await?;
    stream.write_all(b"some").await?;
    soon("the echo", stream.read_exact(&mut [0; 4])).await??;
    Ok(())
}

#[tokio::test]
async fn an_agent_without_the_authoritys_certificate_gets_no_link_over_quic() -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let authority = TestAuthority::new("Studio agents")?;
    let echo = Target::echo().await?;
    let agent = || TestAgent::of(&echo).trusting(&certificate);
    let relay = asking(&certificate, &authority)?;
    is_turned_away(agent(), &relay, "no_client_certificate").await?;
    let others = TestAuthority::new("Others")?;
    let files = others.sign("seat-12")?;
    let other = agent().config(move |config| config.with_client_certificate(files.cert, files.key));
    is_turned_away(other, &relay, "bad_client_certificate").await
}
