//! Connections to targets: each is one session, driven by its own task, and kept for further requests
//! of the same frontend connection only.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use tieline_hop::{Delivery, Fault, Keeper, PooledConnection, Usable};
use tieline_wire::{SessionEnd, TunnelId};

use super::reasons::{is_away, is_of_target, of_agent};
use super::request::{Progress, RequestBody};
use super::target_stream::TargetStream;
use crate::listen::http::frontend::memory::ConnectionMemory;
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
    line: TargetStream<G::Stream>,
    client: tieline_hop::Connection<Progress, Instant>,
    target: Rc<Target>,
    /// Kind of application in the callers' URL; the connection ends when the target is no longer of that kind.
    dcc: Option<Arc<str>>,
    /// Whether the agent stopped serving the tunnel: the connection is not kept after the current request.
    is_last: Rc<Cell<bool>>,
    /// Token digest of the caller; connections are not shared between callers, since targets may tell them apart by it.
    whose: Option<Digest>,
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
        let stream = gateway
            .within(timeout, pin!(gateway.open(&admitted.caller, target, dcc)))
            .await
            .unwrap_or(Err(SessionEnd::TargetTimeout))?;
        let line = TargetStream::new(stream, &pool.held);
        let noting = line.clone();
        let failed = move |error: &io::Error| noting.failed(error);
        let started =
            tieline_hop::Connection::start(line.clone(), HTTP_BUFFER_BYTES_MAX, failed).await;
        let (client, driving) = started.map_err(|_| SessionEnd::Internal)?;
        let is_last = Rc::new(Cell::new(false));
        let away = pool.retire(Rc::clone(&is_last), gateway.away(target));
        gateway.spawn(beside(driving, away));
        Ok(Self {
            line,
            client,
            target: Rc::clone(target),
            dcc: dcc.cloned(),
            is_last,
            whose: admitted.key,
        })
    }

    /// Sends a request and waits for the answer's head; the body may still be sent afterwards.
    pub(crate) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, Failure>> {
        let Self {
            line,
            client,
            target,
            ..
        } = self;
        line.begin();
        let problem = |fault| match (fault, line.reason()) {
            (Fault::Request(refusal), _) => refusal.into(),
            (_, Some(reason)) => Problem::session(reason, target.tunnel.as_str(), line.delivery()),
            (Fault::Malformed(rule), None) => Problem::target_invalid(rule),
            (Fault::Closed, None) => Problem::target_closed(Delivery::Sent),
        };
        client.send(request, problem)
    }

    /// Takes the session back from hyper after an answer that switches protocols, with the bytes that followed the
    /// answer's head.
    pub(crate) async fn switched(self) -> Option<(G::Stream, Bytes)> {
        let ahead = self.client.switched().await;
        Some((self.line.take()?, ahead))
    }

    /// Why a request over a new session got no answer, if another agent may safely be asked: the agent is
    /// away or leaving, or its target took no connection. Otherwise `Err` with the answer for the
    /// caller.
    pub(crate) fn end_reason(&self, failure: &Failure) -> Result<SessionEnd, Problem> {
        let reason = self.line.reason();
        match failure {
            Failure::Unsent(_) => reason.ok_or_else(|| Problem::target_closed(Delivery::NotSent)),
            Failure::Silent(problem) => {
                let is_not_sent = self.is_not_sent();
                let is_worth_it =
                    |it: &SessionEnd| is_away(*it) || (is_not_sent && is_of_target(*it));
                let reason = reason.map(of_agent).filter(is_worth_it);
                reason.ok_or_else(|| problem.clone())
            }
            Failure::Broken(problem) => Err(problem.clone()),
        }
    }

    /// Whether the target certainly received no byte of the request.
    pub(crate) fn is_not_sent(&self) -> bool {
        self.line.delivery() == Delivery::NotSent
    }

    /// Waits for the agent's report on a lost link; true if no byte of the request had reached the agent.
    /// The connection is unusable afterwards.
    pub(crate) async fn is_unreached(&self, gateway: &G) -> bool {
        // With any other reason the agent or the relay ended the session, and there is no report.
        let is_lost = self.line.reason() == Some(SessionEnd::LinkLost);
        match self.line.take().filter(|_| is_lost) {
            Some(stream) => {
                let reached = gateway.reached(stream).await;
                reached.is_some_and(|bytes| self.line.is_behind(bytes))
            }
            None => false,
        }
    }

    fn is_to(&self, tunnel: &TunnelId, agent: AgentTag) -> bool {
        self.target.tunnel == *tunnel && self.target.agent == agent
    }

    fn is_usable(&self, target: &Target, now: Instant, is_repeatable: bool) -> bool {
        let limit = if is_repeatable {
            IDLE_MAX
        } else {
            IDLE_UNREPEATABLE_MAX
        };
        let is_current = self.target.generation == target.generation && !self.is_last.get();
        is_current && self.client.is_ready() && self.client.is_fresh(now, limit)
    }
}

impl<G: Gateway> PooledConnection for Connection<G> {
    fn is_reusable(&self) -> bool {
        self.client.is_reusable()
    }

    fn release(self) {
        self.client.release();
    }
}

/// Connections that are kept for further requests of one frontend connection.
pub(crate) struct Pool<G: Gateway> {
    gateway: G,
    idle: Rc<tieline_hop::Pool<Connection<G>>>,
    /// Memory that the frontend connection holds.
    pub(crate) held: Rc<ConnectionMemory>,
}

impl<G: Gateway> Pool<G> {
    /// `several` is true for HTTP/2, where requests run at the same time.
    pub(crate) fn new(gateway: G, several: bool) -> Self {
        let idle_max = if several {
            IDLE_CONNECTIONS_SEVERAL_MAX
        } else {
            IDLE_CONNECTIONS_MAX
        };
        Self {
            held: Rc::new(ConnectionMemory::new(gateway.budget(), several)),
            gateway,
            idle: Rc::new(tieline_hop::Pool::new(idle_max)),
        }
    }

    /// Whether an idle connection to that agent is kept for that caller.
    pub(crate) fn keeps(&self, tunnel: &TunnelId, agent: AgentTag, whose: Option<Digest>) -> bool {
        let is_it = |kept: &Connection<G>| kept.is_to(tunnel, agent) && kept.whose == whose;
        self.idle.has(is_it)
    }

    /// Takes a kept connection to `target` that is usable for another request.
    pub(crate) fn take(
        &self,
        whose: Option<Digest>,
        (target, dcc): (&Target, Option<&Arc<str>>),
        is_repeatable: bool,
    ) -> Option<Connection<G>> {
        let now = self.gateway.now();
        self.idle.take(|kept| {
            let is_same = kept.whose == whose && kept.dcc.as_ref() == dcc;
            if !is_same || !kept.is_to(&target.tunnel, target.agent) {
                return Usable::Later;
            }
            match kept.is_usable(target, now, is_repeatable) {
                true => Usable::Now,
                false => Usable::Never,
            }
        })
    }

    /// Once the agent is `away`, closes the connection if it is idle, or marks it for closing: an agent that
    /// drains waits for running requests, not for idle connections.
    fn retire<A>(&self, is_last: Rc<Cell<bool>>, away: A) -> impl Future<Output = ()> + use<G, A>
    where
        A: Future<Output = ()>,
    {
        let idle = Rc::downgrade(&self.idle);
        async move {
            away.await;
            is_last.set(true);
            if let Some(idle) = idle.upgrade() {
                idle.take(|it| match Rc::ptr_eq(&it.is_last, &is_last) {
                    true => Usable::Never,
                    false => Usable::Later,
                });
            }
        }
    }
}

impl<G: Gateway> Keeper for Pool<G> {
    type Connection = Connection<G>;

    fn keep(&self, mut connection: Connection<G>) {
        if connection.is_last.get() {
            return connection.release();
        }
        connection.client.begin_idle(self.gateway.now());
        self.idle.put(connection);
    }
}

/// A connection during an answer. It keeps the caller registered in
/// [`Callers`](crate::listen::http::policy::callers::Callers), so that a revocation ends the answer.
pub(crate) type Lease<G> = tieline_hop::Lease<Pool<G>, Rc<AdmittedCaller<G>>>;

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
