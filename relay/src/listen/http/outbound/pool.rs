//! Connections to targets: each is one session, driven by its own task, and kept for further requests
//! of the same frontend connection only.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use tieline_hop::headers::kept_alive_for;
use tieline_hop::{Delivery, Fault, Lend, ReportingStream, drive, reusable_for};
use tieline_wire::{SessionEnd, TunnelId};
use tokio::sync::oneshot;

use super::line::{Line, Track};
use super::reasons::{is_away, is_of_target, of_agent};
use super::request::RequestBody;
use crate::listen::http::frontend::held::Held;
use crate::listen::http::gateway::Gateway;
use crate::listen::http::gateway::settings::HTTP_BUFFER_BYTES_MAX;
use crate::listen::http::policy::callers::{AdmittedCaller, Digest};
use crate::listen::http::problem::Problem;
use crate::listen::http::target::Target;
use crate::registry::AgentTag;

/// Idle connections per HTTP/1.1 frontend connection: one per tunnel, for few tunnels.
const IDLE_CONNECTIONS_MAX: usize = 4;

/// Idle connections per HTTP/2 frontend connection, whose requests run at the same time.
const IDLE_CONNECTIONS_SEVERAL_MAX: usize = 16;

/// Longest idle time after which a connection is used for a repeatable request.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Longest idle time after which a connection is used for a request that must not be repeated: below the
/// 5 s after which uvicorn and Node.js close idle connections by default, with room for the link's
/// round trip.
const IDLE_UNREPEATABLE_MAX: Duration = Duration::from_secs(3);

/// Why a request got no answer.
pub(crate) type Failure = tieline_hop::Failure<RequestBody, Problem>;

/// A connection to a target. Dropping it resets the session, even during a request.
pub(crate) struct Connection<G: Gateway> {
    line: Line<G::Stream>,
    sender: SendRequest<RequestBody>,
    /// A send lets the driving task end the connection in order; a drop lets the task drop the connection.
    end: oneshot::Sender<()>,
    track: Rc<Track>,
    target: Rc<Target>,
    /// Kind of application in the callers' URL; the connection ends when the target is no longer of that kind.
    dcc: Option<Arc<str>>,
    /// Whether the agent stopped serving the tunnel: the connection is not kept after the current request.
    is_last: Rc<Cell<bool>>,
    /// Token digest of the caller; connections are not shared between callers, since targets may tell them apart by it.
    whose: Option<Digest>,
    idle_since: Option<Instant>,
    kept_alive_for: Option<Duration>,
}

impl<G: Gateway> Connection<G> {
    /// Opens a session and starts hyper's client on it.
    pub(crate) async fn open(
        gateway: &G,
        admitted: &AdmittedCaller<G>,
        (target, dcc): (&Rc<Target>, Option<&Arc<str>>),
        timeout: Duration,
        pool: &Pool<G>,
    ) -> Result<Self, SessionEnd> {
        let stream = {
            let mut opening = pin!(gateway.open(&admitted.caller, target, dcc));
            let mut timeout = pin!(gateway.sleep(timeout));
            poll_fn(|cx| match opening.as_mut().poll(cx) {
                Poll::Pending => timeout
                    .as_mut()
                    .poll(cx)
                    .map(|()| Err(SessionEnd::TargetTimeout)),
                opened => opened,
            })
            .await?
        };
        let track = Rc::new(Track::default());
        let noting = Rc::clone(&track);
        let line = Line::new(stream, &track, &pool.held);
        let stream = ReportingStream::new(line.clone(), move |noted| noting.note(noted));
        let (sender, driver) = http1::Builder::new()
            // hyper joins the lines of a folded field, as a proxy should (RFC 9112, section 5.2).
            .allow_obsolete_multiline_headers_in_responses(true)
            .max_header_size(HTTP_BUFFER_BYTES_MAX)
            .max_buf_size(HTTP_BUFFER_BYTES_MAX)
            .handshake(stream)
            .await
            .map_err(|_| SessionEnd::Internal)?;
        let (end, ended) = oneshot::channel();
        let is_last = Rc::new(Cell::new(false));
        let away = pool.retire(Rc::clone(&is_last), gateway.away(target));
        gateway.spawn(beside(drive(driver, ended), away));
        let (idle_since, kept_alive_for) = (None, None);
        Ok(Self {
            line,
            sender,
            end,
            track,
            target: Rc::clone(target),
            dcc: dcc.cloned(),
            is_last,
            whose: admitted.key(),
            idle_since,
            kept_alive_for,
        })
    }

    /// Sends a request and waits for the answer's head; the body may still be sent afterwards.
    pub(crate) async fn send(
        &mut self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Failure> {
        let track = &self.track;
        track.begin(!request.body().is_end_stream());
        request.body_mut().progress_mut().track = Some(Rc::clone(track));
        match self.sender.try_send_request(request).await {
            Ok(response) => {
                self.kept_alive_for = kept_alive_for(response.headers());
                Ok(response)
            }
            Err(error) => Err(self.failure(error)),
        }
    }

    fn failure(&self, error: TrySendError<Request<RequestBody>>) -> Failure {
        let track = &self.track;
        let tunnel = self.target.tunnel.as_str();
        Failure::of(
            error,
            track.is_request_failed(),
            track.reads(),
            |fault| match (fault, track.reason()) {
                (Fault::Request(refusal), _) => refusal.into(),
                (_, Some(reason)) => Problem::session(reason, tunnel, track.delivery()),
                (Fault::Malformed(rule), None) => Problem::target_invalid(rule),
                (Fault::Closed, None) => Problem::target_closed(Delivery::Sent),
            },
        )
    }

    /// Why a request over a new session got no answer, if another agent may safely be asked: the agent is
    /// away or leaving, or its target took no connection. Otherwise `Err` with the answer for the
    /// caller.
    pub(crate) fn end_reason(&self, failure: &Failure) -> Result<SessionEnd, Problem> {
        let reason = self.track.reason();
        match failure {
            Failure::Unsent(_) => reason.ok_or_else(|| Problem::target_closed(Delivery::NotSent)),
            Failure::Silent(problem) => {
                let is_not_sent = self.is_not_sent();
                let is_worth_it = |it: &SessionEnd| is_away(*it) || (is_not_sent && is_of_target(*it));
                let reason = reason.map(of_agent).filter(is_worth_it);
                reason.ok_or_else(|| problem.clone())
            }
            Failure::Broken(problem) => Err(problem.clone()),
        }
    }

    /// Whether the target certainly received no byte of the request.
    pub(crate) fn is_not_sent(&self) -> bool {
        self.track.delivery() == Delivery::NotSent
    }

    /// Waits for the agent's report on a lost link; true if no byte of the request had reached the agent.
    /// The connection is unusable afterwards.
    pub(crate) async fn is_unreached(&self, gateway: &G) -> bool {
        // With any other reason the agent or the relay ended the session, and there is no report.
        let is_lost = self.track.reason() == Some(SessionEnd::LinkLost);
        match self.line.take().filter(|_| is_lost) {
            Some(stream) => {
                let reached = gateway.reached(stream).await;
                reached.is_some_and(|bytes| self.track.is_behind(bytes))
            }
            None => false,
        }
    }

    fn is_to(&self, tunnel: &TunnelId, agent: AgentTag) -> bool {
        self.target.tunnel == *tunnel && self.target.agent == agent
    }

    fn is_fit(&self, target: &Target, now: Instant, is_repeatable: bool) -> bool {
        let limit = if is_repeatable {
            IDLE_MAX
        } else {
            IDLE_UNREPEATABLE_MAX
        };
        let idle = self
            .idle_since
            .map_or(Duration::ZERO, |t| now.saturating_duration_since(t));
        let is_current = self.target.generation == target.generation && !self.is_last.get();
        is_current && self.sender.is_ready() && idle < reusable_for(self.kept_alive_for, limit)
    }

    /// Closes an idle connection in order.
    fn release(self) {
        if self.sender.is_ready() {
            // The receiver is gone if the target has closed the connection already.
            let _ = self.end.send(());
        }
    }
}

type Idle<G> = RefCell<Vec<Connection<G>>>;

/// Idle connections of one frontend connection, least recently used first.
pub(crate) struct Pool<G: Gateway> {
    gateway: G,
    idle: Rc<Idle<G>>,
    idle_max: usize,
    /// Memory that the frontend connection holds.
    pub(crate) held: Rc<Held>,
}

impl<G: Gateway> Pool<G> {
    /// `several` is true for HTTP/2, where requests run at the same time.
    pub(crate) fn new(gateway: G, several: bool) -> Self {
        Self {
            held: Rc::new(Held::new(gateway.budget(), several)),
            gateway,
            idle: Rc::default(),
            idle_max: if several {
                IDLE_CONNECTIONS_SEVERAL_MAX
            } else {
                IDLE_CONNECTIONS_MAX
            },
        }
    }

    /// Whether an idle connection to that agent is kept for that caller.
    pub(crate) fn keeps(&self, tunnel: &TunnelId, agent: AgentTag, whose: Option<Digest>) -> bool {
        let idle = self.idle.borrow();
        let mut kept = idle.iter();
        kept.any(|kept| kept.is_to(tunnel, agent) && kept.whose == whose)
    }

    /// Takes a kept connection to `target` that is fit for another request.
    pub(crate) fn take(
        &self,
        whose: Option<Digest>,
        (target, dcc): (&Target, Option<&Arc<str>>),
        now: Instant,
        is_repeatable: bool,
    ) -> Option<Connection<G>> {
        let mut idle = self.idle.borrow_mut();
        let is_it = |kept: &Connection<G>| {
            let is_same = kept.whose == whose && kept.dcc.as_ref() == dcc;
            is_same && kept.is_to(&target.tunnel, target.agent)
        };
        // Most recently used first: it is the least likely to have timed out.
        while let Some(place) = idle.iter().rposition(is_it) {
            let connection = idle.remove(place);
            if connection.is_fit(target, now, is_repeatable) {
                return Some(connection);
            }
            connection.release();
        }
        None
    }

    /// Once the agent is `away`, closes the connection if it is idle, or marks it for closing: an agent that
    /// drains waits for running requests, not for idle connections.
    fn retire<A>(&self, is_last: Rc<Cell<bool>>, away: A) -> impl Future<Output = ()> + use<G, A>
    where
        A: Future<Output = ()>,
    {
        let idle: Weak<Idle<G>> = Rc::downgrade(&self.idle);
        async move {
            away.await;
            is_last.set(true);
            let Some(idle) = idle.upgrade() else {
                return;
            };
            let mut idle = idle.borrow_mut();
            let place = idle.iter().position(|it| Rc::ptr_eq(&it.is_last, &is_last));
            if let Some(place) = place {
                idle.remove(place).release();
            }
        }
    }

    fn put(&self, mut connection: Connection<G>, now: Instant) {
        if connection.is_last.get() {
            return connection.release();
        }
        let mut idle = self.idle.borrow_mut();
        connection.idle_since = Some(now);
        if idle.len() >= self.idle_max {
            idle.remove(0).release();
        }
        idle.push(connection);
    }
}

impl<G: Gateway> Drop for Pool<G> {
    fn drop(&mut self) {
        for connection in self.idle.take() {
            connection.release();
        }
    }
}

/// Polls `other` along with `work`, until `work` ends.
async fn beside(work: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    let (mut work, mut other) = (pin!(work), pin!(other));
    let mut is_over = false;
    poll_fn(|cx| {
        is_over = is_over || other.as_mut().poll(cx).is_ready();
        work.as_mut().poll(cx)
    })
    .await;
}

/// A connection during an answer. Dropping it resets the session.
pub(crate) struct Lease<G: Gateway> {
    pool: Rc<Pool<G>>,
    connection: Connection<G>,
    /// Keeps the caller registered in [`Callers`](crate::listen::http::policy::callers::Callers), so that a revocation ends the answer.
    _presented: Rc<AdmittedCaller<G>>,
}

impl<G: Gateway> Lease<G> {
    pub(crate) fn new(
        pool: Rc<Pool<G>>,
        connection: Connection<G>,
        admitted: Rc<AdmittedCaller<G>>,
    ) -> Self {
        Self {
            pool,
            connection,
            _presented: admitted,
        }
    }
}

impl<G: Gateway> Lend for Lease<G> {
    /// Keeps the connection if the request is complete, too.
    fn finish(self) {
        if self.connection.track.is_request_done() && !self.connection.sender.is_closed() {
            self.pool.put(self.connection, self.pool.gateway.now());
        }
    }
}
