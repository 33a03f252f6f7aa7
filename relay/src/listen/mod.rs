//! Listeners: accept loops, and the readers that find out where a new connection wants to go.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::io::{Listener, Stream, lacks_descriptors, sleep, turn};

pub(crate) mod agent;
pub(crate) mod http;
pub(crate) mod proxied;
pub(crate) mod tcp;

/// Pause of an accept loop after an error that will not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Shortest time between two warnings about refused connections.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// What happens to an accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The connection is served.
    Taken,
    /// Too few file descriptors are free: the connection is refused, with an answer if possible.
    Refused,
}

/// Limit on the file descriptors that one listener's connections may use. The rest is reserved for the
/// admin port, for agents, and for descriptors that a connection needs besides its own.
///
/// The kernel assigns the lowest free number (open(2)), so the number of a new descriptor is a lower
/// bound of the number in use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// First descriptor number that is refused.
    full_from: u64,
}

/// Reserved descriptors: the limit divided by `KEPT_PART`, at least `KEPT_MIN`, at most `KEPT_MAX`.
const KEPT_PART: u64 = 8;
const KEPT_MIN: u64 = 8;
const KEPT_MAX: u64 = 128;

impl Room {
    /// For callers of a relay with `limit` open files: agents and the admin port have precedence.
    pub(crate) fn for_callers(limit: Option<u64>) -> Self {
        Self::without(limit, 4)
    }

    /// For callers that only get a short "no room" answer: they may use half of the descriptors reserved
    /// for agents.
    pub(crate) fn for_refusals(limit: Option<u64>) -> Self {
        Self::without(limit, 3)
    }

    /// For agents: they have precedence over callers, since without agents nothing can be served.
    pub(crate) fn for_agents(limit: Option<u64>) -> Self {
        Self::without(limit, 2)
    }

    /// First descriptor number of `limit` that neither callers nor agents may use.
    pub(crate) fn beyond_agents(limit: Option<u64>) -> u64 {
        Self::for_agents(limit).full_from
    }

    fn without(limit: Option<u64>, halves: u64) -> Self {
        let limit = limit.unwrap_or(u64::MAX);
        let kept = (limit / KEPT_PART).clamp(KEPT_MIN, KEPT_MAX);
        Self {
            full_from: limit.saturating_sub(halves * kept / 2),
        }
    }

    /// Whether the descriptor of `stream`, which is already open, is below the limit.
    pub(crate) fn takes(self, stream: &Stream) -> bool {
        let number = stream.as_fd().as_raw_fd();
        u64::try_from(number).is_ok_and(|number| number < self.full_from)
    }
}

/// Accepts connections until the listener is shut down, and hands each to `arrived`, which must not block.
/// `arrived` gets no stream if there was no descriptor for the connection.
pub(crate) async fn accept(
    listener: Rc<Listener>,
    room: Room,
    mut arrived: impl FnMut(Option<Stream>, SocketAddr, Arrival),
) {
    let mut refused = Refusals::default();
    loop {
        let error = match listener.accept().await {
            Ok((stream, peer)) if room.takes(&stream) => {
                arrived(Some(stream), peer, Arrival::Taken);
                continue;
            }
            Ok((stream, peer)) => {
                arrived(Some(stream), peer, Arrival::Refused);
                warn_not_accepted(&mut refused, None);
                // Connections that are being served run before the next refusal.
                turn().await;
                continue;
            }
            Err(error) => error,
        };
        match error.kind() {
            // The caller closed the connection before it was accepted (accept(2), Error handling).
            io::ErrorKind::ConnectionAborted => {}
            io::ErrorKind::InvalidInput => return,
            _ => {
                let refuse = |peer| arrived(None, peer, Arrival::Refused);
                let is_refused = lacks_descriptors(&error) && listener.refuse_next(refuse);
                warn_not_accepted(&mut refused, Some(&error));
                if is_refused {
                    turn().await;
                } else {
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Connections that were refused for one reason, with the rate limit of the warning about them.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    warned_at: Option<Instant>,
    /// Refused connections since the last warning.
    count: u64,
}

impl Refusals {
    /// Counts a connection that is refused at `now`; returns the number of those since the last warning if the next
    /// warning is due.
    pub(crate) fn count(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        let is_recent = |at| now.saturating_duration_since(at) < WARN_INTERVAL;
        if self.warned_at.is_some_and(is_recent) {
            return None;
        }
        self.warned_at = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

/// Counts a connection that was not accepted, and warns if a warning is due.
fn warn_not_accepted(refusals: &mut Refusals, error: Option<&io::Error>) {
    let Some(refused) = refusals.count(Instant::now()) else {
        return;
    };
    match error {
        Some(error) => warn!(%error, refused, "cannot accept connections"),
        None => warn!(
            refused,
            "cannot accept connections: the limit of open files is all but reached, see \
             `ulimit -n` or `LimitNOFILE=` of systemd"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_tells_of_the_connections_since_the_last_one() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        assert_eq!(refusals.count(start), Some(1));
        for _ in 0..3 {
            assert_eq!(refusals.count(start), None);
        }
        let later = start + WARN_INTERVAL;
        assert_eq!(refusals.count(later), Some(4));
        assert_eq!(refusals.count(later), None);
    }

    #[test]
    fn callers_leave_descriptors_to_agents_and_both_to_the_admin_port() {
        for (limit, callers, refusals, agents) in [
            (64, 48, 52, 56),
            (256, 192, 208, 224),
            (1024, 768, 832, 896),
            (1 << 20, (1 << 20) - 256, (1 << 20) - 192, (1 << 20) - 128),
            (10, 0, 0, 2),
        ] {
            assert_eq!(Room::for_callers(Some(limit)).full_from, callers);
            assert_eq!(Room::for_refusals(Some(limit)).full_from, refusals);
            assert_eq!(Room::for_agents(Some(limit)).full_from, agents);
        }
        assert!(Room::for_callers(None).full_from > 1 << 60);
    }
}
