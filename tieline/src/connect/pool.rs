//! Connections to the relay: each driven by its own task, and kept for later requests.
//!
//! All callers of the proxy share the connections, because they are one user with one token. A
//! request after a pause then needs no TLS handshake.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tieline_hop::headers::kept_alive_for;
use tieline_hop::{Delivery, Fault, Lend, ReportingStream, drive, reusable_for};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout_at};

use super::HTTP_BUFFER_BYTES_MAX;
use super::problem::Problem;
use super::upload::{RequestBody, Track};
use crate::outbound::RelayOrigin;
use crate::outbound::tls::Tls;
use tieline_agent::address::deadline_in;
use tieline_agent::dial::DIAL_TIMEOUT;

/// Largest number of idle connections kept.
const IDLE_CONNECTIONS_MAX: usize = 32;

/// Longest idle time before reuse of a connection: half of the relay's own idle timeout.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Longest idle time before reuse for a request that must not be repeated: the relay, or a server in
/// front of it, may have closed the connection.
const IDLE_UNREPEATABLE_MAX: Duration = Duration::from_secs(20);

/// Why a request got no answer.
pub(super) type Failure = tieline_hop::Failure<RequestBody, Problem>;

/// A connection to the relay. Dropping it closes the connection, even during a request.
pub(super) struct Connection {
    sender: SendRequest<RequestBody>,
    /// Dropping the sender ends the task that drives the connection.
    _end: oneshot::Sender<()>,
    track: Rc<Track>,
    idle_since: Instant,
    kept_alive_for: Option<Duration>,
}

impl Connection {
    /// Sends a request and returns the answer; the request's body may still be under way.
    pub(super) async fn send(
        &mut self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Failure> {
        let track = &self.track;
        track.reads.set(0);
        track.set_request_done(request.body().is_end_stream());
        track.set_request_failed(false);
        request.body_mut().progress_mut().track = Some(Rc::clone(track));
        match self.sender.try_send_request(request).await {
            Ok(answer) => {
                self.kept_alive_for = kept_alive_for(answer.headers());
                Ok(answer)
            }
            Err(error) => Err(self.failure(error)),
        }
    }

    fn failure(&self, error: TrySendError<Request<RequestBody>>) -> Failure {
        let is_body_broken = self.track.request_failed.get();
        let reads = self.track.reads.get();
        Failure::of(error, is_body_broken, reads, |fault| match fault {
            Fault::Request(refusal) => refusal.into(),
            Fault::Malformed(rule) => Problem::relay_invalid(rule),
            Fault::Closed => Problem::relay_closed(Delivery::Sent),
        })
    }

    fn is_fit(&self, now: Instant, is_repeatable: bool) -> bool {
        let limit = if is_repeatable {
            IDLE_MAX
        } else {
            IDLE_UNREPEATABLE_MAX
        };
        let idle = now.duration_since(self.idle_since);
        !self.sender.is_closed() && idle < reusable_for(self.kept_alive_for, limit)
    }
}

/// Opens connections to the relay and keeps idle ones.
pub(super) struct Pool {
    relay: RelayOrigin,
    tls: Option<Tls>,
    idle: RefCell<Vec<Connection>>,
}

impl Pool {
    pub(super) const fn new(relay: RelayOrigin, tls: Option<Tls>) -> Self {
        Self {
            relay,
            tls,
            idle: RefCell::new(Vec::new()),
        }
    }

    pub(super) const fn relay(&self) -> &RelayOrigin {
        &self.relay
    }

    pub(super) const fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Takes the most recently used idle connection that is fit for another request.
    pub(super) fn take(&self, is_repeatable: bool) -> Option<Connection> {
        let now = Instant::now();
        let mut idle = self.idle.borrow_mut();
        idle.retain(|connection| connection.is_fit(now, true));
        let place = idle.iter().rposition(|connection| {
            connection.sender.is_ready() && connection.is_fit(now, is_repeatable)
        })?;
        Some(idle.remove(place))
    }

    fn put(&self, mut connection: Connection) {
        let mut idle = self.idle.borrow_mut();
        connection.idle_since = Instant::now();
        if idle.len() >= IDLE_CONNECTIONS_MAX {
            idle.remove(0);
        }
        idle.push(connection);
    }

    /// Dials the relay and starts HTTP/1.1 on the connection.
    pub(super) async fn open(&self) -> Result<Connection, Problem> {
        let deadline = deadline_in(DIAL_TIMEOUT);
        let stream = self.dial(deadline).await?;
        let track = Rc::new(Track::default());
        let noting = Rc::clone(&track);
        let stream = ReportingStream::new(TokioIo::new(stream), move |noted| {
            if noted.is_ok() {
                noting.reads.set(noting.reads.get() + 1);
            }
        });
        let (sender, driver) = http1::Builder::new()
            .max_header_size(HTTP_BUFFER_BYTES_MAX)
            .max_buf_size(HTTP_BUFFER_BYTES_MAX)
            .handshake(stream)
            .await
            .map_err(|_| Problem::relay_closed(Delivery::NotSent))?;
        let (end, held) = oneshot::channel();
        spawn_local(drive(driver, held));
        Ok(Connection {
            sender,
            _end: end,
            track,
            idle_since: Instant::now(),
            kept_alive_for: None,
        })
    }

    async fn dial(&self, deadline: Instant) -> Result<Box<dyn Stream>, Problem> {
        let relay = &self.relay;
        let unreachable = |cause: &dyn std::fmt::Display| {
            Problem::relay_unreachable(format!("cannot reach the relay at {relay}: {cause}"))
        };
        let connected = relay.address.connect(deadline).await;
        let stream = connected.map_err(|error| unreachable(&error))?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        match timeout_at(deadline, tls.connect(stream)).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(match tls.explain(&error) {
                Some(why) => Problem::relay_tls(format!("cannot trust {relay}: {why}")),
                None => unreachable(&error),
            }),
            Err(_) => Err(unreachable(&"the TLS handshake took too long")),
        }
    }
}

/// A connection while an answer arrives on it. Dropping the lease closes the connection.
pub(super) struct Lease {
    pool: Rc<Pool>,
    connection: Connection,
}

impl Lease {
    pub(super) const fn new(pool: Rc<Pool>, connection: Connection) -> Self {
        Self { pool, connection }
    }
}

impl Lend for Lease {
    /// Keeps the connection if the request is complete, too.
    fn finish(self) {
        let Self { pool, connection } = self;
        if connection.track.request_done.get() && !connection.sender.is_closed() {
            pool.put(connection);
        }
    }
}

/// A byte stream to the relay: plain TCP or TLS.
trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}
