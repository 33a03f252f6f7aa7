//! Opens connections to the relay, and keeps them for later requests.
//!
//! All callers of the proxy share the connections, because they are one user with one token. A
//! request after a pause then needs no TLS handshake.

use std::time::Duration;

use tieline_hop::{Keeper, Usable};
use tokio::time::Instant;

use super::connection::Connection;
use super::problem::Problem;
use crate::outbound::RelayOrigin;
use crate::outbound::dial::{Dial, Stream};
use crate::outbound::failure::Failure as DialFailure;
use tieline_agent::address::deadline_in;
use tieline_agent::transport::DIAL_TIMEOUT;

/// Largest number of idle connections kept.
const IDLE_CONNECTIONS_MAX: usize = 32;

/// Longest idle time before reuse of a connection: half of the relay's own idle timeout.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Longest idle time before reuse for a request that must not be repeated: the relay, or a server in
/// front of it, may have closed the connection.
const IDLE_UNREPEATABLE_MAX: Duration = Duration::from_secs(20);

/// A connection while an answer arrives on it.
pub(super) type Lease = tieline_hop::Lease<Pool>;

/// Opens connections to the relay and keeps idle ones.
pub(super) struct Pool {
    pub(super) relay: RelayOrigin,
    pub(super) dial: Dial,
    idle: tieline_hop::Pool<Connection>,
}

impl Pool {
    pub(super) const fn new(relay: RelayOrigin, dial: Dial) -> Self {
        Self {
            relay,
            dial,
            idle: tieline_hop::Pool::new(IDLE_CONNECTIONS_MAX),
        }
    }

    /// Takes the most recently used idle connection that is usable for another request.
    pub(super) fn take(&self, is_repeatable: bool) -> Option<Connection> {
        let limit = if is_repeatable {
            IDLE_MAX
        } else {
            IDLE_UNREPEATABLE_MAX
        };
        let now = Instant::now();
        self.idle.take(|kept| {
            let kept = &kept.client;
            if kept.is_closed() || !kept.is_fresh(now, IDLE_MAX) {
                return Usable::Never;
            }
            match kept.is_ready() && kept.is_fresh(now, limit) {
                true => Usable::Now,
                false => Usable::Later,
            }
        })
    }

    /// Dials the relay and starts HTTP/1.1 on the connection.
    pub(super) async fn open(&self) -> Result<Connection, Problem> {
        let deadline = deadline_in(DIAL_TIMEOUT);
        Connection::start(self.dial(deadline).await?).await
    }

    async fn dial(&self, deadline: Instant) -> Result<Box<dyn Stream>, Problem> {
        let relay = &self.relay;
        self.dial
            .connect(deadline)
            .await
            .map_err(|failure| match failure {
                DialFailure::Untrusted(why) => {
                    Problem::relay_tls(format!("cannot trust {relay}: {why}"))
                }
                DialFailure::Login { why, again } => {
                    let message = format!("cannot reach the relay at {relay}: {why}");
                    Problem::proxy_login(message, again)
                }
                failure => Problem::relay_unreachable(format!(
                    "cannot reach the relay at {relay}: {failure}"
                )),
            })
    }
}

impl Keeper for Pool {
    type Connection = Connection;

    fn keep(&self, mut connection: Connection) {
        connection.begin_idle(Instant::now());
        self.idle.put(connection);
    }
}
