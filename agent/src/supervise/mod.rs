//! Keeps an agent's links up: starts one slot for each link, reports events, and decides when to stop.

mod chooser;
mod dialled;
mod endings;
mod outlook;
mod overtaking;
mod programs;
mod race;
mod registrations;
mod settling;
mod slot;
mod stand_by;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::watch;
use tokio::task::JoinSet;

use self::chooser::Chooser;
use self::programs::Programs;
use self::slot::Slot;
pub use self::stand_by::run_standing_by;
use crate::config::Config;
use crate::error::{Error, IdentityError};
use crate::event::AgentEvent;
use crate::identity::Identity;
use crate::network::NetworkWatch;
use crate::status::{self, Board};
use crate::targets::WatchedTarget;
use crate::token::{self, TokenWatch};
use crate::transport::Dialler;

/// Runs one link until it ends, and does not dial again.
///
/// # Errors
/// Why the link ended, unless `shutdown` ended it or the relay asked the agent to move; see
/// [`Error::exit_code`].
pub async fn run_once(
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    run(config.with_links(1), true, shutdown).await
}

/// Publishes the targets until `shutdown` is ready, and dials again whenever a link ends.
///
/// After `shutdown` the relay is told to send no more calls, and the calls in flight have
/// [`Config::drain_timeout`] to finish. Then the processes of `stdio:` targets end in order, which takes 12 s at most.
/// Dropping the future ends everything at once.
///
/// # Errors
/// Only errors that another attempt cannot cure: wrong settings, or a final refusal by the relay.
///
/// ```no_run
/// use tieline_agent::{Config, run_with_reconnect};
///
/// # async fn publish() -> Result<(), Box<dyn std::error::Error>> {
/// let config = Config::new("tcp://relay.studio:9001", "http://127.0.0.1:8765/mcp")?
///     .with_dcc("maya")
///     .with_event_hook(|event| println!("{event}"));
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// let agent = tokio::spawn(run_with_reconnect(config, async {
///     let _ = stopped.await;
/// }));
/// // ... the host application runs ...
/// let _ = stop.send(());
/// agent.await??;
/// # Ok(())
/// # }
/// ```
pub async fn run_with_reconnect(
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    run(config, false, shutdown).await
}

/// State that all links of an agent share.
#[derive(Debug)]
struct Agent {
    config: Config,
    dialler: Dialler,
    chooser: Chooser,
    identity: Arc<Identity>,
    board: Arc<Board>,
    /// The targets in the order of the settings; links and board identify a target by its index.
    targets: Arc<[WatchedTarget]>,
    /// For each target, whether this run ever had its tunnel.
    had: Box<[AtomicBool]>,
    token: TokenWatch,
    network: NetworkWatch,
}

async fn run(
    config: Config,
    once: bool,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let network = NetworkWatch::default();
    let mut watching = JoinSet::new();
    watching.spawn(network.clone().run());
    run_in(network, config, once, shutdown).await
}

/// Runs an agent whose machine's network `network` watches.
async fn run_in(
    network: NetworkWatch,
    config: Config,
    once: bool,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    config.check()?;
    let state_dir = config.state_dir()?;
    let (dir, settings) = (state_dir.clone(), config.clone());
    let loading = tokio::task::spawn_blocking(move || -> Result<_, Error> {
        let identity = Identity::load(&dir, settings.machine.as_deref())?;
        let dialler = settings.dialler()?;
        let dialler = match once {
            true => dialler.for_one_run(),
            false => dialler,
        };
        dialler.tell_of_small_buffers();
        let chooser = Chooser::load(&dir, dialler.relay());
        Ok((identity, dialler, chooser))
    });
    let (identity, dialler, chooser) = loading.await.map_err(|_| IdentityError::Random)??;
    config.check_tunnels(&identity)?;
    let targets = config.watched()?;
    let board = Arc::new(Board::new(&config, &identity, &targets));
    let mut services = JoinSet::new();
    if config.status_socket {
        match status::Server::bind(&state_dir, identity.instance()) {
            Ok(server) => drop(services.spawn(server.serve(Arc::clone(&board)))),
            // Not an error: the tunnel matters more than its display.
            Err(error) => tracing::warn!(%error, "`tieline status` will not show this agent"),
        }
    }
    let watch = TokenWatch::default();
    if let Some(path) = &config.token_file {
        // Before a link reads the file: every later version then counts as a change.
        let first = token::look(path).await;
        services.spawn(watch.clone().run(path.clone(), first));
    }
    let agent = Arc::new(Agent {
        config,
        dialler,
        chooser,
        identity: Arc::new(identity),
        board,
        had: targets.iter().map(|_| AtomicBool::new(false)).collect(),
        targets,
        token: watch,
        network,
    });
    let mut programs = Programs::of(&agent.targets);
    let result = run_slots(&agent, once, shutdown).await;
    // After the drain: until then, callers in flight need the processes.
    programs.stop().await;
    agent.config.on_event.tell(&match &result {
        Ok(()) => AgentEvent::Stopped,
        Err(error) => AgentEvent::ended_by(error),
    });
    result
}

async fn run_slots(
    agent: &Arc<Agent>,
    once: bool,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let (stop, stopping) = watch::channel(false);
    let mut slots = JoinSet::new();
    for index in 0..agent.config.links {
        let slot = Slot::new(Arc::clone(agent), index, stopping.clone());
        slots.spawn(slot.run(once));
    }
    let mut shutdown = pin!(shutdown);
    let mut result = Ok(());
    loop {
        tokio::select! {
            () = &mut shutdown, if !*stopping.borrow() => {
                let sessions = agent.board.stopping();
                stop.send_replace(true);
                if sessions > 0 {
                    let drain_ms = agent.config.drain_timeout.as_millis();
                    agent.config.on_event.tell(&AgentEvent::Stopping {
                        sessions,
                        drain_ms: u64::try_from(drain_ms).unwrap_or(u64::MAX),
                    });
                }
            }
            ended = slots.join_next() => match ended {
                None => return result,
                Some(ended) => {
                    // The end of one link for good ends all links.
                    stop.send_replace(true);
                    let ended = ended.unwrap_or_else(|_| Err(Error::link_lost("a link's task stopped")));
                    result = result.and(ended);
                }
            }
        }
    }
}
