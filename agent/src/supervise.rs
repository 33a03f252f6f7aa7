//! Keeps an agent's links up: dials, tells what happens, dials again, and knows when to stop.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tieline_wire::{GoAway, Granted, Reason, Side};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::config::Config;
use crate::error::{Error, IdentityError};
use crate::event::AgentEvent;
use crate::identity::Identity;
use crate::link::{self, Link, NEWS_MAX, News, Start};
use crate::reconnect::{Backoff, Next};
use crate::status::{self, Board};

/// How long the relay may take to answer a registration.
///
/// Ten times the 2 s after which a relay withdraws a claim by itself.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest wait before a relay that asked us to move is dialled again, so that its agents do not
/// all arrive together.
const MOVE_WAIT_MAX: Duration = Duration::from_secs(1);

/// Longest time that sessions go on over a link that the relay wants to end.
const MOVE_DRAIN_MAX: Duration = Duration::from_secs(3600);

/// Runs one link until it ends, and does not dial again.
///
/// # Errors
/// Why the link ended, unless by `shutdown` or because the relay asked us to move; see
/// [`Error::exit_code`].
pub async fn run_once(
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    run(config.with_links(1), true, shutdown).await
}

/// Publishes the target until `shutdown` is ready, and dials again whenever a link ends.
///
/// After `shutdown`, running sessions have [`Config::drain_timeout`] to finish. Dropping the
/// future ends everything at once.
///
/// # Errors
/// Only what trying again cannot help: wrong settings, or a final refusal by the relay.
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

/// What all links of an agent share.
#[derive(Debug)]
struct Agent {
    config: Config,
    identity: Arc<Identity>,
    board: Arc<Board>,
}

async fn run(
    config: Config,
    once: bool,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    config.check()?;
    let state_dir = config.state_dir()?;
    let machine = config.machine.clone();
    let dir = state_dir.clone();
    let identity = tokio::task::spawn_blocking(move || Identity::load(&dir, machine.as_deref()))
        .await
        .map_err(|_| IdentityError::Random)??;
    let board = Arc::new(Board::new(&config));
    let mut services = JoinSet::new();
    if config.status_socket {
        match status::Server::bind(&state_dir, identity.instance()) {
            Ok(server) => drop(services.spawn(server.serve(Arc::clone(&board)))),
            // The tunnel matters more than its display.
            Err(error) => tracing::warn!(%error, "`tieline status` will not see this agent"),
        }
    }
    let agent = Arc::new(Agent {
        config,
        identity: Arc::new(identity),
        board,
    });
    let result = run_slots(&agent, once, shutdown).await;
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
        let slot = Slot {
            agent: Arc::clone(agent),
            index,
            stop: stopping.clone(),
            backoff: Backoff::default(),
            random: fastrand::Rng::new(),
            draining: JoinSet::new(),
        };
        slots.spawn(slot.run(once));
    }
    let mut shutdown = pin!(shutdown);
    let mut result = Ok(());
    loop {
        tokio::select! {
            () = &mut shutdown, if !*stopping.borrow() => {
                agent.board.stopping();
                stop.send_replace(true);
            }
            ended = slots.join_next() => match ended {
                None => return result,
                Some(ended) => {
                    // One link's final refusal is every link's.
                    stop.send_replace(true);
                    let ended = ended.unwrap_or_else(|_| Err(Error::link_lost("a task stopped")));
                    result = result.and(ended);
                }
            }
        }
    }
}

/// One of an agent's links, over all its reconnects.
struct Slot {
    agent: Arc<Agent>,
    index: u16,
    stop: watch::Receiver<bool>,
    backoff: Backoff,
    random: fastrand::Rng,
    /// Links that the relay asked us to leave, while their sessions run.
    draining: JoinSet<()>,
}

/// How a link left its slot.
enum Left {
    /// We were asked to stop.
    Stopped,
    /// It drains; a new one must be dialled after this wait.
    Moved(Duration),
}

impl Slot {
    async fn run(mut self, once: bool) -> Result<(), Error> {
        loop {
            self.tell(AgentEvent::Connecting {
                link: self.index,
                relay: self.agent.config.relay.to_string(),
            });
            self.agent.board.connecting(self.index);
            let wait = match self.run_link().await {
                Ok(Left::Stopped) => {
                    self.drained().await;
                    return Ok(());
                }
                Ok(Left::Moved(_)) if once => {
                    self.drained().await;
                    return Ok(());
                }
                Ok(Left::Moved(wait)) => wait,
                Err(error) if once => return Err(error),
                Err(error) => match self.backoff.after(&error, &mut self.random) {
                    Next::GiveUp => return Err(error),
                    Next::RetryIn(wait) => {
                        self.agent.board.backing_off(self.index);
                        self.tell(AgentEvent::Disconnected {
                            link: self.index,
                            reason: error.word(),
                            message: error.to_string(),
                            retry_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                        });
                        wait
                    }
                },
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = stopped(&mut self.stop) => {
                    self.drained().await;
                    return Ok(());
                }
            }
        }
    }

    /// Dials and runs one link.
    async fn run_link(&mut self) -> Result<Left, Error> {
        let agent = Arc::clone(&self.agent);
        let config = &agent.config;
        let register = config.registration()?;
        let stream = tokio::select! {
            stream = config.relay.dial() => stream?,
            () = stopped(&mut self.stop) => return Ok(Left::Stopped),
        };
        let link = Arc::new(Link::new());
        let (news, mut heard) = mpsc::channel(NEWS_MAX);
        let start = Start {
            identity: Arc::clone(&agent.identity),
            relay_name: config.relay.name(),
            link_index: self.index,
            links: config.links,
            register,
            target: config.target.clone(),
            news,
        };
        agent.board.linked(self.index, &link);
        // In a set of its own, so that dropping the slot drops the link.
        let mut task = JoinSet::new();
        task.spawn(link::run(Arc::clone(&link), stream, start));
        let register_by = Instant::now() + REGISTER_TIMEOUT;
        let (mut registered, mut stopping) = (false, false);
        loop {
            tokio::select! {
                // News first: a link's end must not overtake the reason for it.
                biased;
                Some(news) = heard.recv() => match news {
                    News::Registered(granted) if !registered => {
                        registered = true;
                        self.registered(granted);
                    }
                    News::Registered(_) => {}
                    News::GoingAway(away) if away.reason.is_final() || stopping => {
                        // The link's own end then says why.
                        link.close(self.drain_deadline(&away), None);
                    }
                    News::GoingAway(away) => return Ok(self.move_away(away, link, task)),
                },
                ended = task.join_next() => {
                    return match ended {
                        Some(Ok(Ok(()))) => Ok(Left::Stopped),
                        Some(Ok(Err(_))) if stopping => Ok(Left::Stopped),
                        Some(Ok(Err(error))) => Err(error),
                        Some(Err(_)) | None => Err(Error::link_lost("the link's task stopped")),
                    };
                }
                () = stopped(&mut self.stop), if !stopping => {
                    stopping = true;
                    let deadline = Instant::now() + config.drain_timeout;
                    link.close(deadline, Some(Reason::ShuttingDown));
                }
                () = sleep_until(register_by), if !registered && !stopping => {
                    return Err(Error::Link {
                        reason: Reason::ClaimTimeout,
                        side: Side::Peer,
                        detail: "no answer to the registration".to_owned(),
                    });
                }
            }
        }
    }

    fn registered(&mut self, granted: Granted) {
        self.backoff.registered();
        self.agent.board.registered(self.index, &granted);
        self.tell(AgentEvent::Registered {
            link: self.index,
            tunnel: granted.tunnel.to_string(),
            url: granted.urls.first().cloned().unwrap_or_default(),
            generation: granted.generation.0,
            urls: granted.urls,
        });
    }

    /// Make before break: the old link's sessions go on while a new link is dialled.
    fn move_away(
        &mut self,
        away: GoAway,
        link: Arc<Link>,
        task: JoinSet<Result<(), Error>>,
    ) -> Left {
        let deadline_ms = u64::from(away.deadline_ms);
        let left = Duration::from_millis(deadline_ms).min(MOVE_DRAIN_MAX);
        self.tell(AgentEvent::GoingAway {
            link: self.index,
            reason: away.reason.word(),
            message: away.message,
        });
        link.close(Instant::now() + left, None);
        while self.draining.try_join_next().is_some() {}
        let (drain_timeout, stop) = (self.agent.config.drain_timeout, self.stop.clone());
        self.draining.spawn(drain(link, task, drain_timeout, stop));
        Left::Moved((left / 4).min(MOVE_WAIT_MAX).mul_f64(self.random.f64()))
    }

    fn drain_deadline(&self, away: &GoAway) -> Instant {
        let left = Duration::from_millis(u64::from(away.deadline_ms));
        Instant::now() + left.min(self.agent.config.drain_timeout)
    }

    /// Waits for the links that the relay asked us to leave; each has a deadline of its own.
    async fn drained(&mut self) {
        while self.draining.join_next().await.is_some() {}
    }

    fn tell(&self, event: AgentEvent) {
        self.agent.config.on_event.tell(&event);
    }
}

/// Sees a link to its end; a stop shortens the time that it has left.
async fn drain(
    link: Arc<Link>,
    mut task: JoinSet<Result<(), Error>>,
    drain_timeout: Duration,
    mut stop: watch::Receiver<bool>,
) {
    tokio::select! {
        _ = task.join_next() => return,
        () = stopped(&mut stop) => link.close(Instant::now() + drain_timeout, None),
    }
    task.join_next().await;
}

/// Ready once the agent is to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // The one who could ask is gone, and with it this task.
        std::future::pending::<()>().await;
    }
}
