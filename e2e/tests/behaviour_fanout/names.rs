//! Many names on one link. `tieline serve` publishes one name per link, but the protocol allows more, so this
//! agent drives the protocol directly.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use tieline_e2e::behaviour::{ChildRelay, WireAgent, WireKey, registration, within};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tieline_wire::Event;
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{CONNECTING, alone, child, flags, growth, limit, note, size};

/// Concurrent registrations: half of the relay's limit per link.
const ASKED_MAX: usize = 512;

fn name(number: usize) -> String {
    format!("seat-{number:05}")
}

async fn register_all(agent: &mut WireAgent, count: usize) -> Result<()> {
    let (mut asked, mut granted) = (0, 0);
    while granted < count {
        while asked < count && asked - granted < ASKED_MAX {
            let mut register = registration(Some(&name(asked)));
            register.request = u32::try_from(asked)?;
            agent.mux.register(&register);
            asked += 1;
        }
        agent.flush().await?;
        match agent.event().await?.context("the link was closed")? {
            Event::RegisterAck(ack) => {
                let it = ack.outcome?;
                ensure!(it.tunnel.as_str() == name(ack.request as usize));
                granted += 1;
            }
            Event::GoAway(away) => bail!("the relay sent {away:?}"),
            _ => {}
        }
    }
    Ok(())
}

/// Answers every session with the tunnel name that its caller requested.
async fn say_names(mut agent: WireAgent) -> Result<()> {
    loop {
        match agent.event().await?.context("the link was closed")? {
            Event::Open { session, open } => {
                agent.mux.opened(session);
                let name = Bytes::copy_from_slice(open.tunnel.as_str().as_bytes());
                agent.mux.send(session, name, false)?;
                agent.mux.finish(session);
            }
            Event::Reset { reason, .. } => bail!("a session was reset: {reason}"),
            _ => {}
        }
    }
}

on_each_driver!(thousands_of_names_on_one_link_lead_to_it_and_leave_with_it);

async fn thousands_of_names_on_one_link_lead_to_it_and_leave_with_it(
    driver: DriverChoice,
) -> Result<()> {
    let _alone = alone().await;
    let size = size()?;
    let relay = Arc::new(ChildRelay::start(child(), &flags(driver))?);
    let mut agent = WireAgent::dial(relay.agent_address(), &WireKey::new()?, 1).await?;
    let (before, started) = (relay.process.resident_bytes()?, Instant::now());
    register_all(&mut agent, size).await?;
    note(&format!(
        "{size} names on one link registered in {:.0?}, {:.1} KiB each in the relay",
        started.elapsed(),
        growth(&relay.process, before, size)?,
    ));
    let serving = tokio::spawn(say_names(agent));

    let rows = relay.tunnels().await?;
    ensure!(rows.len() == size && rows.is_sorted_by(|a, b| a.tunnel_id < b.tunnel_id));
    ensure!(
        rows.iter()
            .all(|row| row.session_count == 0 && row.links == 1)
    );

    let (mut callers, places) = (JoinSet::new(), Arc::new(Semaphore::new(CONNECTING)));
    for number in 0..size {
        let (relay, places) = (Arc::clone(&relay), Arc::clone(&places));
        callers.spawn(async move {
            let _place = places.acquire().await?;
            let mut answer = String::new();
            relay
                .raw(&name(number))
                .await?
                .read_to_string(&mut answer)
                .await?;
            ensure!(answer == name(number), "{answer} for {number}");
            Ok(())
        });
    }
    while let Some(ended) = within(limit(size), "the answers", callers.join_next()).await? {
        ended??;
    }
    // A session is counted for its own name only.
    let _caller = relay.raw(&name(1)).await?;
    let metrics = relay
        .until("a session", |it| it.get("relay_sessions") == 1)
        .await?;
    ensure!(metrics.get("relay_session_resets_total") == 0, "{metrics}");
    let rows = relay.tunnels().await?;
    let busy: Vec<_> = rows.iter().filter(|row| row.session_count > 0).collect();
    ensure!(busy.len() == 1 && busy[0].tunnel_id == name(1), "{busy:?}");

    let ended = Instant::now();
    serving.abort();
    relay
        .until("no tunnel", |it| it.get("relay_tunnels") == 0)
        .await?;
    note(&format!(
        "{size} names offline {:.0?} after their link ended",
        ended.elapsed()
    ));
    ensure!(relay.tunnels().await?.is_empty());
    Ok(())
}
