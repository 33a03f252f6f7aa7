//! An agent that yields to a newer run of itself, and resumes when that run has ended.
//!
//! A relay gives a name to the run that asked last, so a service and a manual run would take it from each other for
//! ever if both asked again. The service waits instead, and asks no relay: a run with the same key keeps its status
//! socket in the same folder, and the socket shows when that run has ended.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::endings::stopped;
use crate::config::Config;
use crate::error::Error;
use crate::event::AgentEvent;
use crate::identity::Identity;
use crate::status;

/// Interval between two looks for other runs.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Shortest wait if the run that took over has no status socket in this folder.
const UNSEEN_WAIT: Duration = Duration::from_secs(60);

/// If a run without a status socket here takes over twice within this time, the agent ends: a copy of the agent runs
/// on another machine, and the two must not take the name from each other for ever.
const UNSEEN_AGAIN: Duration = Duration::from_secs(3600);

/// Like [`run_with_reconnect`](super::run_with_reconnect), but does not end when a newer run of this agent takes
/// over: waits until no other run in this folder publishes one of its tunnels, and then publishes them again.
///
/// # Errors
/// Those of `run_with_reconnect`; [`Error::Superseded`] only if the other run cannot be seen here and takes over
/// a second time.
pub async fn run_standing_by(
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let (stop, mut stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        shutdown.await;
        stop.send_replace(true);
        // Keeps the channel open as long as it has receivers.
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
        let waiting = async {
            if others_ended(&config).await? {
                return Ok(());
            }
            if unseen_at.is_some_and(|at| at.elapsed() < UNSEEN_AGAIN) {
                return Err(superseded);
            }
            unseen_at = Some(Instant::now());
            sleep(UNSEEN_WAIT.mul_f64(1.0 + fastrand::f64() / 2.0)).await;
            Ok(())
        };
        tokio::select! {
            waited = waiting => waited?,
            () = stopped(&mut stopping) => {
                config.on_event.tell(&AgentEvent::Stopped);
                return Ok(());
            }
        }
    }
}

/// Waits until no other run publishes one of the tunnels; true if such a run was seen.
async fn others_ended(config: &Config) -> Result<bool, Error> {
    let mut is_seen = false;
    while is_published(config).await? {
        is_seen = true;
        sleep(LOOK_INTERVAL).await;
    }
    Ok(is_seen)
}

/// True if another run in this folder publishes one of the tunnels at the same relay.
async fn is_published(config: &Config) -> Result<bool, Error> {
    let state_dir = config.state_dir()?;
    let identity = Identity::load(&state_dir, config.machine.as_deref())?;
    let targets = config.targets.iter();
    let tunnels: Vec<_> = targets
        .map(|target| target.tunnel(&identity).to_string())
        .collect();
    let relay = config.relay.to_string();
    // A failed look does not prove that there is no other run.
    let Ok(agents) = status::list_quietly(&state_dir).await else {
        return Ok(true);
    };
    Ok(agents.iter().any(|agent| {
        let mut theirs = agent.tunnels.iter();
        agent.relay == relay && theirs.any(|it| tunnels.contains(&it.name))
    }))
}
