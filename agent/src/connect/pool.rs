//! Connections to the relay: each driven by a task of its own, and kept for the next request.
//!
//! They are shared by all callers of the proxy, who are one user with one token, so that a call
//! after a pause costs no TLS handshake.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::HTTP_BUFFER_BYTES_MAX;
use super::body::RequestBody;
use super::origin::RelayOrigin;
use super::problem::Problem;
use super::tls::{self, Tls};
use crate::address::deadline_in;
use crate::dial::DIAL_TIMEOUT;

/// Idle connections that are kept.
const IDLE_CONNECTIONS_MAX: usize = 32;

/// Longest time that an idle connection is used again: half of what a relay keeps one.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// The same for a request that must not be repeated if the relay, or what stands in front of it,
/// turns out to have closed the connection.
const IDLE_UNREPEATABLE_MAX: Duration = Duration::from_secs(20);

/// Taken off what the other side says about its patience, for the way there.
const IDLE_MARGIN: Duration = Duration::from_secs(1);

/// What is known about one connection and the request on it.
#[derive(Debug, Default)]
pub(super) struct Track {
    /// Reads that brought bytes or the end, since the request began.
    reads: AtomicU64,
    request_done: AtomicBool,
    request_failed: AtomicBool,
}

impl Track {
    pub(super) fn request_done(&self) {
        self.request_done.store(true, Relaxed);
    }

    pub(super) fn request_failed(&self) {
        self.request_failed.store(true, Relaxed);
    }
}

/// Why a request got no answer.
pub(super) enum Failure {
    /// It was never sent; here it is back.
    Unsent(Box<Request<RequestBody>>),
    /// The connection ended without a byte of an answer.
    Silent(Problem),
    /// There was an answer, but none that can be passed on; or the caller's body was at fault.
    Broken(Problem),
}

/// A connection to the relay. Dropping it closes it, whatever is under way.
pub(super) struct Connection {
    sender: SendRequest<RequestBody>,
    /// Dropped with this, which the task that drives the connection notices.
    _end: oneshot::Sender<()>,
    track: Arc<Track>,
    idle_since: Instant,
    kept_alive_for: Option<Duration>,
}

impl Connection {
    /// Sends a request, whose body goes on while the answer comes.
    pub(super) async fn send(
        &mut self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Failure> {
        let track = &self.track;
        track.reads.store(0, Relaxed);
        track.request_done.store(false, Relaxed);
        track.request_failed.store(false, Relaxed);
        request.body_mut().attach(Arc::clone(track));
        match self.sender.try_send_request(request).await {
            Ok(answer) => {
                self.kept_alive_for = super::headers::kept_alive_for(answer.headers());
                Ok(answer)
            }
            Err(error) => Err(self.failure(error)),
        }
    }

    fn failure(&self, mut error: TrySendError<Request<RequestBody>>) -> Failure {
        if let Some(request) = error.take_message() {
            return Failure::Unsent(Box::new(request));
        }
        let error = error.into_error();
        if self.track.request_failed.load(Relaxed) {
            let why = "the request's body is malformed or broke off";
            return Failure::Broken(Problem::bad_request(why));
        }
        // The connection's end is itself a read.
        let ends = u64::from(error.is_incomplete_message());
        let problem = if error.is_parse() {
            Problem::relay_invalid("it is not HTTP/1.1")
        } else {
            Problem::relay_closed()
        };
        if self.track.reads.load(Relaxed) > ends {
            Failure::Broken(problem)
        } else {
            Failure::Silent(problem)
        }
    }

    fn is_fit(&self, now: Instant, is_repeatable: bool) -> bool {
        let patience = self
            .kept_alive_for
            .map_or(IDLE_MAX, |t| t.saturating_sub(IDLE_MARGIN));
        let limit = if is_repeatable {
            IDLE_MAX
        } else {
            IDLE_UNREPEATABLE_MAX
        };
        !self.sender.is_closed() && now.duration_since(self.idle_since) < patience.min(limit)
    }
}

/// Drives a connection until it ends, or until its holder is gone.
async fn drive(
    driver: impl Future<Output = Result<(), hyper::Error>>,
    held: oneshot::Receiver<()>,
) {
    let (mut driver, mut held) = (pin!(driver), pin!(held));
    poll_fn(|cx| match held.as_mut().poll(cx) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => driver.as_mut().poll(cx).map(|_| ()),
    })
    .await;
}

/// Makes connections to the relay and keeps those that are idle.
pub(super) struct Pool {
    relay: RelayOrigin,
    tls: Option<Tls>,
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    pub(super) const fn new(relay: RelayOrigin, tls: Option<Tls>) -> Self {
        Self {
            relay,
            tls,
            idle: Mutex::new(Vec::new()),
        }
    }

    pub(super) const fn relay(&self) -> &RelayOrigin {
        &self.relay
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the connection used last that is fit for another request.
    pub(super) fn take(&self, is_repeatable: bool) -> Option<Connection> {
        let now = Instant::now();
        let mut idle = self.idle();
        idle.retain(|connection| connection.is_fit(now, true));
        let place = idle.iter().rposition(|connection| {
            connection.sender.is_ready() && connection.is_fit(now, is_repeatable)
        })?;
        Some(idle.remove(place))
    }

    fn put(&self, mut connection: Connection) {
        let mut idle = self.idle();
        connection.idle_since = Instant::now();
        if idle.len() >= IDLE_CONNECTIONS_MAX {
            idle.remove(0);
        }
        idle.push(connection);
    }

    /// Dials the relay and begins to speak HTTP.
    pub(super) async fn open(&self) -> Result<Connection, Problem> {
        let deadline = deadline_in(DIAL_TIMEOUT);
        let stream = self.dial(deadline).await?;
        let track = Arc::new(Track::default());
        let stream = RelayStream {
            stream: TokioIo::new(stream),
            track: Arc::clone(&track),
            is_write_dead: false,
        };
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(HTTP_BUFFER_BYTES_MAX)
            .handshake(stream)
            .await
            .map_err(|_| Problem::relay_closed())?;
        let (end, held) = oneshot::channel();
        tokio::spawn(drive(driver, held));
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
            Ok(Err(error)) => Err(match tls::explain(&error) {
                Some(why) => Problem::relay_tls(format!("no trusted way to {relay}: {why}")),
                None => unreachable(&error),
            }),
            Err(_) => Err(unreachable(&"the TLS handshake took too long")),
        }
    }
}

/// A connection while an answer comes over it. Dropping it closes the connection.
pub(super) struct Lease {
    pool: Arc<Pool>,
    connection: Connection,
}

impl Lease {
    pub(super) const fn new(pool: Arc<Pool>, connection: Connection) -> Self {
        Self { pool, connection }
    }

    /// The answer is complete. If the request is, too, the connection can serve another one.
    pub(super) fn finish(self) {
        let Self { pool, connection } = self;
        if connection.track.request_done.load(Relaxed) && !connection.sender.is_closed() {
            pool.put(connection);
        }
    }
}

/// Plain or over TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The relay as hyper's client sees it.
struct RelayStream {
    stream: TokioIo<Box<dyn Stream>>,
    track: Arc<Track>,
    /// The relay takes no more; what it has answered is still to be read.
    is_write_dead: bool,
}

impl Read for RelayStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if matches!(polled, Poll::Ready(Ok(()))) {
            self.track.reads.fetch_add(1, Relaxed);
        }
        polled
    }
}

impl RelayStream {
    /// Keeps a failed write from hyper, which would give up at once: a relay that answers early
    /// and closes (say, 413) makes our writes fail before its answer is read. Reading brings the
    /// answer, or the end of the connection.
    fn wrote<T>(&mut self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match polled {
            Poll::Ready(Err(_)) => {
                self.is_write_dead = true;
                Poll::Pending
            }
            other => other,
        }
    }
}

impl Write for RelayStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_write_dead {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_write_dead {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.wrote(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_write_dead {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_write_dead {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(polled)
    }
}
