//! Whether a target takes connections: noted at each session, and asked anew for a status.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tieline_wire::Reason;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{CONNECT_TIMEOUT, Target};
use crate::socket::Unfinished;

/// How long a target may take to accept a connection that only looks whether it is there; the one
/// who asked for a status waits so long.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// A target is not asked again within this time, however often its status is.
const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// What came of the last connection to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HealthState {
    /// It was accepted.
    Up,
    /// Nobody listens there.
    Refused,
    /// There is no way to the host, or no such host.
    Unreachable,
    /// No answer in time.
    Timeout,
}

impl HealthState {
    const fn of(reason: Reason) -> Self {
        match reason {
            Reason::TargetRefused | Reason::TargetReset => Self::Refused,
            Reason::TargetTimeout => Self::Timeout,
            _ => Self::Unreachable,
        }
    }
}

/// Whether a target takes connections, and for how long it has been so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What came of the last connection.
    pub state: HealthState,
    /// Seconds since the first connection that ended so.
    pub since_s: u64,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            HealthState::Up => "target up",
            HealthState::Refused => "target refuses connections",
            HealthState::Unreachable => "target cannot be reached",
            HealthState::Timeout => "target does not answer",
        })
    }
}

/// A target, and what is known of its health.
#[derive(Clone, Debug)]
pub(crate) struct WatchedTarget {
    target: Target,
    noted: Arc<Mutex<Noted>>,
}

#[derive(Debug, Default)]
struct Noted {
    health: Option<(HealthState, Instant)>,
    probed_at: Option<Instant>,
}

impl WatchedTarget {
    pub(crate) fn new(target: Target) -> Self {
        Self {
            target,
            noted: Arc::default(),
        }
    }

    /// Connects a session to the target. The connection is reset unless it is finished.
    pub(crate) async fn connect(&self) -> Result<TcpStream, (Reason, io::Error)> {
        let connecting = self
            .target
            .connect_within(CONNECT_TIMEOUT, Unfinished::Resets);
        let connected = connecting.await;
        self.note(&connected);
        connected
    }

    /// Tries whether the target takes a connection, unless that was tried just now.
    pub(crate) async fn probe(&self) {
        {
            let mut noted = self.noted();
            let now = Instant::now();
            if noted.probed_at.is_some_and(|at| now < at + PROBE_PAUSE) {
                return;
            }
            noted.probed_at = Some(now);
        }
        // An orderly end would look like a caller that has sent all of nothing.
        let connecting = self
            .target
            .connect_within(PROBE_TIMEOUT, Unfinished::Resets);
        self.note(&connecting.await);
    }

    /// What is known; nothing before the first connection.
    pub(crate) fn health(&self) -> Option<Health> {
        let (state, since) = self.noted().health?;
        Some(Health {
            state,
            since_s: since.elapsed().as_secs(),
        })
    }

    fn note(&self, connected: &Result<TcpStream, (Reason, io::Error)>) {
        let state = match connected {
            Ok(_) => HealthState::Up,
            Err((reason, _)) => HealthState::of(*reason),
        };
        let mut noted = self.noted();
        if noted.health.is_none_or(|(before, _)| before != state) {
            noted.health = Some((state, Instant::now()));
        }
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for WatchedTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
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
