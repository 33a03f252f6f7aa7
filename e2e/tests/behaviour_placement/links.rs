//! One agent with several links (`--links N`) and one tunnel.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use tieline_agent::{AgentEvent, State, list_agents};
use tieline_e2e::behaviour::{
    Metrics, Target, TestAgent, TestRelay, TunnelRow, WireAgent, WireKey, echo_round_trip,
    is_reset, read_to_close, registration, soon,
};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tieline_wire::Event;
use tokio::net::TcpStream;

use super::proxy::Proxy;

const SHARDS: usize = 2;
const FRONTENDS: usize = 64;

on_each_driver!(
    links_of_one_agent_live_on_different_shards,
    sessions_use_all_links_and_cross_no_shard,
    a_link_that_dies_takes_only_its_own_sessions_and_is_dialled_again,
    every_link_moves_to_a_relay_that_comes_back,
    a_link_that_changes_its_shard_loses_nothing_of_what_it_said,
    a_relay_that_stops_tells_every_link_and_lets_its_sessions_end,
);

fn relay(driver: DriverChoice) -> Result<TestRelay> {
    TestRelay::with().shards(SHARDS).driver(driver).start()
}

/// Row of the only tunnel, once `links` links serve it.
async fn row_with_links(relay: &TestRelay, links: usize) -> Result<TunnelRow> {
    relay
        .until("the links", |it| it.get("relay_links") == links as i64)
        .await?;
    soon("the links in /tunnels", async {
        loop {
            let mut rows = relay.tunnels().await?;
            ensure!(rows.len() <= 1, "{rows:?}");
            if rows.first().is_some_and(|row| row.links == links) {
                return rows.pop().context("a row");
            }
            tokio::task::yield_now().await;
        }
    })
    .await?
}

fn crossed(metrics: &Metrics) -> i64 {
    metrics.get("relay_crossings_total")
}

async fn links_of_one_agent_live_on_different_shards(driver: DriverChoice) -> Result<()> {
    let relay = relay(driver)?;
    let target = Target::echo().await?;
    let mut agents = Vec::new();
    for number in 0..8 {
        // Agents with one link in between, so that the shards are unequally loaded.
        let single = format!("single-{number}");
        agents.push(TestAgent::of(&target).named(&single).start(&relay).await?);
        let name = format!("spread-{number}");
        agents.push(
            TestAgent::of(&target)
                .named(&name)
                .links(2)
                .start(&relay)
                .await?,
        );
    }
    let metrics = relay
        .until("all links", |it| it.get("relay_links") == 8 * 3)
        .await?;
    ensure!(metrics.get("relay_tunnels") == 8 * 2, "{metrics}");
    // A link whose registration is still in flight must not be counted as refused.
    ensure!(metrics.get("relay_link_refused_total") == 0, "{metrics}");
    soon("every link's registration", async {
        loop {
            let rows = relay.tunnels().await?;
            let rows: BTreeMap<_, _> = rows
                .into_iter()
                .map(|it| (it.tunnel_id.clone(), it))
                .collect();
            let spread = |it: &TunnelRow| it.links == 2 && it.shards == [0, 1] && it.shard == 0;
            if (0..8).all(|number| rows[&format!("spread-{number}")].links == 2) {
                ensure!(
                    rows.values().all(|it| it.links == 1 || spread(it)),
                    "{rows:?}"
                );
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    })
    .await?
}

async fn open(relay: &TestRelay, tunnel: &str, count: usize) -> Result<Vec<TcpStream>> {
    let mut callers = Vec::new();
    for _ in 0..count {
        let mut caller = relay.raw(tunnel).await?;
        echo_round_trip(&mut caller, b"hello").await?;
        callers.push(caller);
    }
    Ok(callers)
}

async fn sessions_use_all_links_and_cross_no_shard(driver: DriverChoice) -> Result<()> {
    let relay = relay(driver)?;
    let target = Target::echo().await?;
    let home = tempfile::tempdir()?;
    let state_dir = home.path().to_owned();
    let agent = TestAgent::of(&target)
        .links(2)
        .state_dir(home.path())
        .config(move |mut config| {
            config.status_socket = true;
            config.with_state_dir(state_dir)
        })
        .start(&relay)
        .await?;
    row_with_links(&relay, 2).await?;
    let mut callers = open(&relay, agent.tunnel(), FRONTENDS).await?;
    for caller in &mut callers {
        echo_round_trip(caller, &[7; 10_000]).await?;
    }
    let row = row_with_links(&relay, 2).await?;
    ensure!(
        (row.session_count, &row.shards[..]) == (FRONTENDS, &[0, 1][..]),
        "{row:?}"
    );
    let metrics = relay.metrics().await?;
    ensure!(crossed(&metrics) == 0, "{metrics}");

    let mut status = list_agents(home.path()).await?;
    let status = status.pop().context("no status")?;
    ensure!(
        (status.state, status.sessions) == (State::Registered, FRONTENDS),
        "{status:?}"
    );
    ensure!(
        status.links.len() == 2 && status.links.iter().all(|link| link.sessions > 0),
        "{status:?}"
    );
    ensure!(status.to_string().contains("2 of 2 links up"), "{status}");
    Ok(())
}

async fn a_link_that_dies_takes_only_its_own_sessions_and_is_dialled_again(
    driver: DriverChoice,
) -> Result<()> {
    let relay = relay(driver)?;
    let target = Target::echo().await?;
    let network = Proxy::to(relay.agent_address()).await?;
    let mut agent = TestAgent::of(&target)
        .links(2)
        .start_at(&network.url())
        .await?;
    row_with_links(&relay, 2).await?;
    let generation = agent.generation();
    let callers = open(&relay, agent.tunnel(), FRONTENDS).await?;

    network.cut(0)?;
    agent
        .saw(|event| matches!(event, AgentEvent::Disconnected { .. }).then_some(()))
        .await?;
    // The registration of the second link may be processed only now.
    soon("the lost link's registration", async {
        while row_with_links(&relay, 2).await?.session_count == FRONTENDS {}
        anyhow::Ok(())
    })
    .await??;
    let row = row_with_links(&relay, 2).await?;
    ensure!(row.generation == generation.to_string(), "{row:?}");
    ensure!(row.shards == [0, 1], "{row:?}");
    let (mut alive, mut reset) = (0, 0);
    for mut caller in callers {
        if echo_round_trip(&mut caller, b"still here").await.is_ok() {
            alive += 1;
        } else {
            let (_, end) = soon("the session's end", read_to_close(&mut caller)).await?;
            ensure!(end.is_ok() || is_reset(&end), "{end:?}");
            reset += 1;
        }
    }
    ensure!(
        alive > 0 && reset > 0,
        "{alive} sessions live, {reset} were reset"
    );
    let metrics = relay.metrics().await?;
    ensure!(
        metrics.get("relay_session_resets_total") == reset,
        "{metrics}"
    );
    ensure!(metrics.get("relay_links_total") == 3, "{metrics}");
    open(&relay, agent.tunnel(), FRONTENDS).await?;
    Ok(())
}

async fn every_link_moves_to_a_relay_that_comes_back(driver: DriverChoice) -> Result<()> {
    let relay = relay(driver)?;
    let target = Target::echo().await?;
    let agent = TestAgent::of(&target).links(3).start(&relay).await?;
    row_with_links(&relay, 3).await?;
    let relay = relay.restart()?;
    let row = row_with_links(&relay, 3).await?;
    ensure!(row.shards == [0, 1], "{row:?}");
    open(&relay, agent.tunnel(), 8).await?;

    // An agent that stops in order unregisters the tunnel on every link.
    let tunnel = agent.tunnel().to_owned();
    let outcome = agent.stop().await?;
    ensure!(outcome.is_ok(), "{outcome:?}");
    relay
        .until("no link and no tunnel", |it| {
            it.get("relay_links") == 0 && it.get("relay_tunnels") == 0
        })
        .await?;
    let mut caller = relay.raw(&tunnel).await?;
    let (_, end) = soon("the refusal", read_to_close(&mut caller)).await?;
    ensure!(end.is_ok() || is_reset(&end), "{end:?}");
    Ok(())
}

/// Agents of which about half have their first link on the wrong shard.
const ARRIVALS: u128 = 8;

/// Registrations sent together with the hello, before the relay knows the link's shard.
const REGISTRATIONS: u32 = 50;

async fn a_link_that_changes_its_shard_loses_nothing_of_what_it_said(
    driver: DriverChoice,
) -> Result<()> {
    let relay = relay(driver)?;
    let key = WireKey::new()?;
    let mut agents = Vec::new();
    for instance in 0..ARRIVALS {
        for link in 0..2 {
            let (mut agent, hello) = WireAgent::greeted(relay.agent_address()).await?;
            let name = relay.agent_address().to_string();
            let hello = key.hello_of_link(&hello, &name, instance, (link, 2));
            agent.mux.hello(&hello);
            for request in 0..REGISTRATIONS {
                let mut register = registration(Some(&format!("seat-{instance}-{request}")));
                register.request = request;
                agent.mux.register(&register);
            }
            agent.flush().await?;
            let mut answered = Vec::new();
            while answered.len() < REGISTRATIONS as usize {
                match agent.event().await?.context("closed")? {
                    Event::RegisterAck(ack) => {
                        ack.outcome?;
                        answered.push(ack.request);
                    }
                    Event::RelayHello(_) => bail!("a second hello"),
                    _ => {}
                }
            }
            answered.sort_unstable();
            ensure!(answered == Vec::from_iter(0..REGISTRATIONS), "{answered:?}");
            agents.push(agent);
        }
    }
    let rows = relay.tunnels().await?;
    ensure!(rows.len() as u128 == ARRIVALS * u128::from(REGISTRATIONS));
    ensure!(
        rows.iter()
            .all(|row| row.links == 2 && row.shards == [0, 1]),
        "{rows:?}"
    );
    let metrics = relay.metrics().await?;
    ensure!(
        metrics.get("relay_links_total") as u128 == 2 * ARRIVALS,
        "{metrics}"
    );
    ensure!(metrics.get("relay_link_refused_total") == 0, "{metrics}");
    Ok(())
}

async fn a_relay_that_stops_tells_every_link_and_lets_its_sessions_end(
    driver: DriverChoice,
) -> Result<()> {
    let relay = relay(driver)?;
    let target = Target::echo().await?;
    let mut agent = TestAgent::of(&target).links(2).start(&relay).await?;
    row_with_links(&relay, 2).await?;
    let mut callers = open(&relay, agent.tunnel(), FRONTENDS).await?;
    let stopping = tokio::task::spawn_blocking(move || relay.stop());
    let mut told = BTreeSet::new();
    while told.len() < 2 {
        let link = agent.saw(|event| match event {
            AgentEvent::GoingAway { link, .. } => Some(*link),
            _ => None,
        });
        told.insert(link.await?);
    }
    // The sessions are on both links, and each of them still works.
    for caller in &mut callers {
        echo_round_trip(caller, b"still here").await?;
    }
    ensure!(!stopping.is_finished());
    drop(callers);
    soon("the relay's end", stopping).await??;
    Ok(())
}
