//! An agent that yields to another run of itself, and comes back when that one is gone.
//!
//! A relay gives a name to the run that asked last, so a service and a run by hand would take it from
//! each other for ever if both asked again. The service waits instead, and asks no relay: a run with the
//! same key keeps its status socket in the same folder, which tells when it has ended.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::slot::stopped;
use crate::config::Config;
use crate::error::Error;
use crate::event::AgentEvent;
use crate::identity::Identity;
use crate::status;

/// How often the other runs are looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// How long a run that has no status socket here is left alone, at least.
const UNSEEN_WAIT: Duration = Duration::from_secs(60);

/// Twice superseded within this time by a run that is not seen here, the agent ends: it has a twin on
/// another machine, and they must not take the name from each other for ever.
const UNSEEN_AGAIN: Duration = Duration::from_secs(3600);

/// As [`run_with_reconnect`](super::run_with_reconnect), but does not end when a newer run of this agent
/// takes over: it waits until no other run of this folder publishes one of its tunnels, and then
/// publishes them again.
///
/// # Errors
/// As `run_with_reconnect`; [`Error::Superseded`] only if the other run cannot be seen here and takes
/// over a second time.
pub async fn run_standing_by(
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let (stop, mut stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        shutdown.await;
        stop.send_replace(true);
        // The channel stays open as long as its receivers.
        stop.closed().await;
    });
    let mut unseen_at: Option<Instant> = None;
    loop {
        let mut asked = stopping.clone();
        let asked = async move { stopped(&mut asked).await };
        let superseded = match super::run(config.clone(), false, asked).await {
            Err(error @ Error::Superseded { .. }) => error,
            ended => return ended,
        };
        config.on_event.tell(&AgentEvent::StandingBy);
        let is_seen = tokio::select! {
            is_seen = others_ended(&config) => is_seen?,
            () = stopped(&mut stopping) => {
                config.on_event.tell(&AgentEvent::Stopped);
                return Ok(());
            }
        };
        if !is_seen {
            if unseen_at.is_some_and(|at| at.elapsed() < UNSEEN_AGAIN) {
                return Err(superseded);
            }
            unseen_at = Some(Instant::now());
            let wait = UNSEEN_WAIT.mul_f64(1.0 + fastrand::f64() / 2.0);
            tokio::select! {
                () = sleep(wait) => {}
                () = stopped(&mut stopping) => {
                    config.on_event.tell(&AgentEvent::Stopped);
                    return Ok(());
                }
            }
        }
    }
}

/// Waits until no other run publishes one of the tunnels; whether there was one to be seen.
async fn others_ended(config: &Config) -> Result<bool, Error> {
    let mut is_seen = false;
    while is_published(config).await? {
        is_seen = true;
        sleep(LOOK_INTERVAL).await;
    }
    Ok(is_seen)
}

/// Whether another run of this folder publishes one of the tunnels by the same relay.
async fn is_published(config: &Config) -> Result<bool, Error> {
    let state_dir = config.state_dir()?;
    let identity = Identity::load(&state_dir, config.machine.as_deref())?;
    let targets = config.targets.iter();
    let tunnels: Vec<_> = targets
        .map(|target| target.tunnel(&identity).to_string())
        .collect();
    let relay = config.relay.to_string();
    // No answer does not prove that no other run is there.
    let Ok(agents) = status::list_quietly(&state_dir).await else {
        return Ok(true);
    };
    Ok(agents.iter().any(|agent| {
        let mut theirs = agent.tunnels.iter();
        agent.relay == relay && theirs.any(|it| tunnels.contains(&it.name))
    }))
}
