//! The ways in: sockets are accepted here, and say where they want to go.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::io::{Listener, Socket, lacks_descriptors, sleep, turn};

pub(crate) mod agent;
pub(crate) mod http;
pub(crate) mod proxied;
pub(crate) mod tcp;

/// How long an accept loop rests after an error that will not pass by itself at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often an accept loop that refuses again and again says so.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is served.
    Taken,
    /// There are too few descriptors left: it is refused at once, and told where that is possible.
    Refused,
}

/// The descriptors that the connections of one listener leave to others: those of the admin port, to
/// agents, and to what connections need besides their own.
///
/// The kernel gives out the lowest number that is free (open(2)), so the number of a new descriptor says
/// at least how many are in use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// From this descriptor on nothing is taken.
    full_from: u64,
}

/// Part of all descriptors that is kept, and bounds of it.
const KEPT_PART: u64 = 8;
const KEPT_MIN: u64 = 8;
const KEPT_MAX: u64 = 128;

impl Room {
    /// For callers of a relay that may have `limit` open files: agents come before them.
    pub(crate) fn for_callers(limit: Option<u64>) -> Self {
        Self::without(limit, 4)
    }

    /// For callers that are told that there is no room, a moment each: they leave half of what agents have
    /// before them.
    pub(crate) fn for_refusals(limit: Option<u64>) -> Self {
        Self::without(limit, 3)
    }

    /// For agents: without them there is nothing to serve.
    pub(crate) fn for_agents(limit: Option<u64>) -> Self {
        Self::without(limit, 2)
    }

    /// The first descriptor that neither callers nor agents keep, of `limit`.
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

    /// Whether there is room for `socket`, which has its descriptor already.
    pub(crate) fn takes(self, socket: &Socket) -> bool {
        let number = socket.as_fd().as_raw_fd();
        u64::try_from(number).is_ok_and(|number| number < self.full_from)
    }
}

/// Accepts connections until the listener is shut, and hands each to `arrived`, which must not block; one
/// for which there is not even a descriptor comes without its socket.
pub(crate) async fn accept(
    listener: Rc<Listener>,
    room: Room,
    mut arrived: impl FnMut(Option<Socket>, SocketAddr, Arrival),
) {
    let mut said = Said::default();
    loop {
        let error = match listener.accept().await {
            Ok((socket, peer)) if room.takes(&socket) => {
                arrived(Some(socket), peer, Arrival::Taken);
                continue;
            }
            Ok((socket, peer)) => {
                arrived(Some(socket), peer, Arrival::Refused);
                said.refused(None);
                // Callers that are served come first.
                turn().await;
                continue;
            }
            Err(error) => error,
        };
        match error.kind() {
            // The caller went away before it was accepted (accept(2), Error handling).
            io::ErrorKind::ConnectionAborted => {}
            io::ErrorKind::InvalidInput => return,
            _ => {
                let refuse = |peer| arrived(None, peer, Arrival::Refused);
                let is_refused = lacks_descriptors(&error) && listener.refuse_next(refuse);
                said.refused(Some(&error));
                if is_refused {
                    turn().await;
                } else {
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// What the log was told of connections that were not taken.
#[derive(Debug, Default)]
struct Said {
    at: Option<Instant>,
    refused: u64,
}

impl Said {
    fn refused(&mut self, error: Option<&io::Error>) {
        self.refused += 1;
        if self.at.is_some_and(|at| at.elapsed() < WARN_INTERVAL) {
            return;
        }
        self.at = Some(Instant::now());
        let refused = std::mem::take(&mut self.refused);
        match error {
            Some(error) => warn!(%error, refused, "cannot accept connections"),
            None => warn!(
                refused,
                "cannot accept connections: the limit of open files is all but reached, see \
                 `ulimit -n` or `LimitNOFILE=` of systemd"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
