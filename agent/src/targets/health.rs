//! Whether a target takes connections: recorded at each session, and probed for a status. A session that cannot
//! reach the target begins an outage, which is reported once; the target is then probed until it is back.
//!
//! A program is never started for a probe: its server takes every connection, and knows whether the program has failed.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::program::teller;
use super::{CONNECT_TIMEOUT, StdioOptions, Target, TargetFailure};
use crate::error::ConfigError;
use crate::event::{AgentEvent, EventHook};
use crate::socket::CloseMode;
use crate::stdio::{Guard, StdioServer, StdioStatus};

/// Time limit for a probe to connect; the reader of a status waits for it.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// Shortest time between two probes of a target, however often its status is read.
const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause between two probes of a target that is away; pauses begin at [`PROBE_PAUSE`] and double.
const RETURN_PAUSE_MAX: Duration = Duration::from_secs(8);

/// Result of the last connection to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HealthState {
    /// The target accepted the connection.
    Up,
    /// The connection was refused: no server listens at the address.
    Refused,
    /// There is no route to the host, or no such host.
    Unreachable,
    /// The target did not answer in time.
    Timeout,
    /// The target is a program, and has ended again and again right after its start; it is not started for a while.
    Failed,
}

impl HealthState {
    /// The state in one stable word, for JSON.
    const fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Failed => "failed",
        }
    }

    const fn of(failure: TargetFailure) -> Self {
        match failure {
            TargetFailure::Refused | TargetFailure::Reset => Self::Refused,
            TargetFailure::Timeout => Self::Timeout,
            TargetFailure::Unreachable => Self::Unreachable,
        }
    }
}

/// Whether a target takes connections, and for how long this has been so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Result of the last connection.
    pub state: HealthState,
    /// Seconds since the first connection with this result.
    pub since_s: u64,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            HealthState::Up => "target up",
            HealthState::Refused => "target refuses connections",
            HealthState::Unreachable => "target cannot be reached",
            HealthState::Timeout => "target does not answer",
            HealthState::Failed => "target fails at each start",
        })
    }
}

/// A target and its health.
#[derive(Clone, Debug)]
pub(crate) struct WatchedTarget {
    target: Target,
    /// Runs the program of a `stdio:` target.
    server: Option<StdioServer>,
    noted: Arc<Mutex<HealthRecord>>,
    hook: EventHook,
}

#[derive(Debug, Default)]
struct HealthRecord {
    health: Option<(HealthState, Instant)>,
    probed_at: Option<Instant>,
    /// When a session first found the target away, which was then reported.
    away_since: Option<Instant>,
}

impl WatchedTarget {
    /// A target, and the server over its program if it is one, which starts no process before a caller needs it.
    /// `guard` ends the processes if the agent is killed. `hook` is told when sessions no longer reach the target, when
    /// it is back, and what happens to the processes.
    ///
    /// # Errors
    /// [`ConfigError`] if `options` has too many variables.
    pub(crate) fn of(
        target: &Target,
        options: &StdioOptions,
        guard: Option<&Arc<Guard>>,
        hook: &EventHook,
    ) -> Result<Self, ConfigError> {
        let server = match target.command() {
            None => None,
            Some(command) => Some(StdioServer::new(
                options.applied(command)?,
                options.settings(),
                guard.cloned(),
                teller(target.to_string(), hook.clone()),
            )),
        };
        Ok(Self {
            target: target.clone(),
            server,
            noted: Arc::default(),
            hook: hook.clone(),
        })
    }

    /// A target whose events no hook is told.
    #[cfg(test)]
    pub(crate) fn new(target: Target) -> Self {
        let (options, hook) = (StdioOptions::default(), EventHook::default());
        Self::of(&target, &options, None, &hook).expect("the default options are few")
    }

    /// Connects a session to the target. Closing the connection resets it, unless it was finished.
    pub(crate) async fn connect(&self) -> Result<TcpStream, (TargetFailure, io::Error)> {
        if let Some(server) = &self.server {
            let connected = server.connect(CloseMode::Resets).await;
            return connected.map_err(|error| {
                let target = &self.target;
                tracing::warn!(%target, %error, "no connection within this machine to a program");
                (TargetFailure::of(&error), error)
            });
        }
        let connecting = self
            .target
            .connect_within(CONNECT_TIMEOUT, CloseMode::Resets);
        let connected = connecting.await;
        self.note(&connected);
        if let Err((failure, error)) = &connected {
            self.is_away(*failure, error);
        }
        connected
    }

    /// Reports an outage at its first session that did not reach the target.
    fn is_away(&self, failure: TargetFailure, error: &io::Error) {
        let is_new = self.noted().away_since.is_none();
        if !is_new {
            return;
        }
        self.noted().away_since = Some(Instant::now());
        let state = HealthState::of(failure);
        let what = match state {
            HealthState::Refused => "refused the connection".to_owned(),
            HealthState::Timeout => "does not take the connection".to_owned(),
            _ => format!("cannot be reached ({error})"),
        };
        let callers = match (self.target.is_http(), state) {
            (false, _) => "callers are disconnected",
            (true, HealthState::Timeout) => "callers get 504",
            (true, _) => "callers get 502",
        };
        self.hook.tell(&AgentEvent::TargetAway {
            target: self.target.to_string(),
            state: state.word(),
            message: format!("{what}; {callers} until it is back"),
        });
        tokio::spawn(await_return(
            self.target.clone(),
            Arc::downgrade(&self.noted),
            self.hook.clone(),
        ));
    }

    /// Ends all processes of the target's program in order, and waits for their ends; takes no callers from then on.
    pub(crate) async fn stop(&self) {
        if let Some(server) = &self.server {
            server.stop().await;
        }
    }

    /// What the processes of the target's program do; `None` for a target at an address.
    pub(crate) fn stdio(&self) -> Option<StdioStatus> {
        self.server.as_ref().map(StdioServer::status)
    }

    /// The last lines that the processes of the target's program wrote to standard error, the oldest first.
    pub(crate) fn logs(&self) -> Vec<String> {
        self.server
            .as_ref()
            .map(StdioServer::logs)
            .unwrap_or_default()
    }

    /// Probes whether the target takes a connection, unless it was probed a moment ago.
    pub(crate) async fn probe(&self) {
        if self.server.is_some() {
            return;
        }
        {
            let mut noted = self.noted();
            let now = Instant::now();
            if noted.probed_at.is_some_and(|at| now < at + PROBE_PAUSE) {
                return;
            }
            noted.probed_at = Some(now);
        }
        self.try_once().await;
    }

    async fn try_once(&self) {
        // Reset, because an orderly end would look like a caller that sent an empty request.
        let connecting = self.target.connect_within(PROBE_TIMEOUT, CloseMode::Resets);
        self.note(&connecting.await);
    }

    /// The known health; `None` before the first connection, and for a program that has not failed.
    pub(crate) fn health(&self) -> Option<Health> {
        if let Some(server) = &self.server {
            let failed_for_s = server.status().failed_for_s;
            return failed_for_s.map(|since_s| Health {
                state: HealthState::Failed,
                since_s,
            });
        }
        let (state, since) = self.noted().health?;
        Some(Health {
            state,
            since_s: since.elapsed().as_secs(),
        })
    }

    fn note(&self, connected: &Result<TcpStream, (TargetFailure, io::Error)>) {
        let state = match connected {
            Ok(_) => HealthState::Up,
            Err((failure, _)) => HealthState::of(*failure),
        };
        let mut noted = self.noted();
        if noted.health.is_none_or(|(before, _)| before != state) {
            noted.health = Some((state, Instant::now()));
        }
        let was_away = noted.away_since.take_if(|_| state == HealthState::Up);
        drop(noted);
        if let Some(since) = was_away {
            self.hook.tell(&AgentEvent::TargetBack {
                target: self.target.to_string(),
                away_s: since.elapsed().as_secs(),
            });
        }
    }

    fn noted(&self) -> MutexGuard<'_, HealthRecord> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for WatchedTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.fmt(f)
    }
}

/// Probes a target that is away until it is back, or until no session or status needs it.
async fn await_return(target: Target, noted: Weak<Mutex<HealthRecord>>, hook: EventHook) {
    let mut pause = PROBE_PAUSE;
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(RETURN_PAUSE_MAX);
        let Some(noted) = noted.upgrade() else {
            return;
        };
        let watched = WatchedTarget {
            target: target.clone(),
            server: None,
            noted,
            hook: hook.clone(),
        };
        watched.try_once().await;
        if watched.noted().away_since.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    fn watched(address: &str) -> WatchedTarget {
        WatchedTarget::new(Target::parse(address).unwrap())
    }

    fn state(target: &WatchedTarget) -> Option<HealthState> {
        target.health().map(|health| health.state)
    }

    #[tokio::test]
    async fn a_session_tells_as_much_as_a_probe() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let target = watched(&address);
        assert_eq!(state(&target), None);
        target.probe().await;
        assert_eq!(state(&target), Some(HealthState::Up));
        drop(listener);
        assert!(target.connect().await.is_err());
        assert_eq!(state(&target), Some(HealthState::Refused));
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_told_once_and_so_is_its_end_without_a_caller() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (send, mut told) = mpsc::channel(8);
        let hook = EventHook::new(move |event| send.try_send(event.clone()).unwrap());
        let target = Target::parse(&format!("http://{address}/mcp")).unwrap();
        let target = WatchedTarget::of(&target, &StdioOptions::default(), None, &hook).unwrap();
        target.connect().await.unwrap();
        drop(listener);
        for _ in 0..3 {
            assert!(target.connect().await.is_err());
        }
        let Some(AgentEvent::TargetAway { state, message, .. }) = told.recv().await else {
            panic!("no TargetAway event")
        };
        let words = "refused the connection; callers get 502 until it is back";
        assert_eq!((state, message.as_str()), ("refused", words));
        let _back = TcpListener::bind(address).await.unwrap();
        let event = told.recv().await;
        assert!(
            matches!(event, Some(AgentEvent::TargetBack { .. })),
            "{event:?}"
        );
        target.connect().await.unwrap();
        assert!(told.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_target_is_asked_once_a_second_however_often_its_status_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = watched(&listener.local_addr().unwrap().to_string());
        for _ in 0..100 {
            target.probe().await;
        }
        listener.accept().await.unwrap();
        let none = timeout(Duration::ZERO, listener.accept()).await;
        assert!(none.is_err());
        target.noted().probed_at = Instant::now().checked_sub(PROBE_PAUSE);
        target.probe().await;
        listener.accept().await.unwrap();
    }

    #[tokio::test]
    async fn a_program_is_not_started_to_learn_its_health() {
        let target = watched("stdio:/nonexistent/server");
        target.probe().await;
        let status = target.stdio().unwrap();
        assert_eq!((status.running, status.starts), (0, 0));
        assert_eq!(target.health(), None);
        assert!(target.logs().is_empty());
        target.stop().await;
        assert_eq!(watched("127.0.0.1:1").stdio(), None);
    }

    #[tokio::test]
    async fn the_time_counts_from_the_first_connection_that_ended_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = watched(&listener.local_addr().unwrap().to_string());
        target.connect().await.unwrap();
        let before = Instant::now().checked_sub(Duration::from_secs(7));
        target.noted().health = before.map(|at| (HealthState::Up, at));
        target.connect().await.unwrap();
        assert_eq!(target.health().unwrap().since_s, 7);
        drop(listener);
        assert!(target.connect().await.is_err());
        assert_eq!(target.health().unwrap().since_s, 0);
    }
}
