//! Links over QUIC on a path that changes or dies.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use tieline_agent::AgentEvent;
use tieline_e2e::behaviour::{
    DatagramPath, Digest, Target, TestAgent, TestCertificate, TestRelay, at_some_pace,
    echo_round_trip, is_reset, noise, read_to_close, soon,
};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::relay;

on_each_driver!(
    a_changed_port_and_a_changed_address_cost_no_session,
    a_quiet_link_is_found_at_its_new_port,
    a_path_that_dies_is_stale_and_an_agent_comes_back_over_it,
);

/// Stale timeouts.
const PACES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Another address of the loopback interface.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// Checks that the agent has its first link.
async fn is_first_link(relay: &TestRelay) -> Result<()> {
    let metrics = relay.metrics().await?;
    ensure!(metrics.get("relay_links_total") == 1, "{metrics}");
    ensure!(metrics.get("relay_link_evictions_total") == 0, "{metrics}");
    ensure!(metrics.get("relay_session_resets_total") == 0, "{metrics}");
    Ok(())
}

async fn a_changed_port_and_a_changed_address_cost_no_session(driver: DriverChoice) -> Result<()> {
    const LEN: usize = 8 * 1024 * 1024;
    let certificate = TestCertificate::new("relay.test")?;
    let relay = relay(driver, &certificate)?;
    let path = DatagramPath::start(relay.quic_address())?;
    let echo = Target::echo().await?;
    let agent = TestAgent::of(&echo).trusting(&certificate);
    let agent = agent.start_at(&path.url()).await?;
    let mut witness = relay.raw(agent.tunnel()).await?;
    let (mut reads, mut writes) = relay.raw(agent.tunnel()).await?.into_split();
    let sending = tokio::spawn(async move {
        writes.write_all(&noise(1, LEN)).await?;
        writes.shutdown().await
    });
    let mut heard = Vec::new();
    for from in [HERE, ELSEWHERE, HERE] {
        let mut quarter = vec![0; LEN / 4];
        soon("a quarter", reads.read_exact(&mut quarter)).await??;
        heard.extend_from_slice(&quarter);
        // In the middle of the transfer, with bytes on their way in both directions.
        path.moves_to(from);
        soon("an echo", echo_round_trip(&mut witness, b"still there?")).await??;
    }
    soon("the rest", reads.read_to_end(&mut heard)).await??;
    sending.await??;
    assert_eq!(Digest::of(&heard), Digest::of_noise(1, LEN));
    assert_eq!(path.ways(), 4, "the relay has seen the agent at each");
    is_first_link(&relay).await
}

async fn a_quiet_link_is_found_at_its_new_port(driver: DriverChoice) -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    // Heartbeats are what an agent without sessions sends.
    let relay = TestRelay::with().driver(driver).shards(2);
    let relay = relay.stale_timeout(Duration::from_secs(4));
    let relay = relay.quic(&certificate).start()?;
    let path = DatagramPath::start(relay.quic_address())?;
    let echo = Target::echo().await?;
    let agent = TestAgent::of(&echo).trusting(&certificate);
    let agent = agent.start_at(&path.url()).await?;
    for from in [HERE, ELSEWHERE] {
        path.moves_to(from);
        // The relay sends the caller's session to the old port, until the agent has sent something.
        let mut caller = relay.raw(agent.tunnel()).await?;
        soon("an echo", echo_round_trip(&mut caller, b"anyone there?")).await??;
    }
    assert_eq!(path.ways(), 3);
    is_first_link(&relay).await
}

async fn a_path_that_dies_is_stale_and_an_agent_comes_back_over_it(
    driver: DriverChoice,
) -> Result<()> {
    at_some_pace(&PACES, async |stale| dies(driver, stale).await).await
}

async fn dies(driver: DriverChoice, stale: Duration) -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = TestRelay::with().driver(driver).shards(2);
    let relay = relay.stale_timeout(stale).quic(&certificate).start()?;
    let path = DatagramPath::start(relay.quic_address())?;
    let echo = Target::echo().await?;
    let agent = TestAgent::of(&echo).trusting(&certificate);
    let mut agent = agent.start_at(&path.url()).await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    echo_round_trip(&mut caller, b"hello").await?;
    // Heartbeats keep the link far beyond its timeout, and without bytes of sessions.
    tokio::time::sleep(stale * 3).await;
    is_first_link(&relay).await?;

    path.dies(true);
    let (_, end) = soon("the session's end", read_to_close(&mut caller)).await?;
    ensure!(is_reset(&end), "{end:?}");
    let metrics = relay
        .until("the link is given up", |metrics| {
            metrics.get("relay_links") == 0
        })
        .await?;
    let stale = metrics.labelled("relay_link_evictions_total", "stale");
    ensure!(stale == 1, "{metrics}");
    agent
        .saw(|event| matches!(event, AgentEvent::Disconnected { .. }).then_some(()))
        .await?;

    path.dies(false);
    agent.registered().await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    soon("an echo", echo_round_trip(&mut caller, b"hello again")).await??;
    Ok(())
}
