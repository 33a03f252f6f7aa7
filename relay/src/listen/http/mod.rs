//! The HTTP front, HTTP/1.1 and HTTP/2: hyper's server towards a caller, hyper's client over sessions.
//!
//! Owns how a request becomes an answer of the target or of the relay. Sessions, routes, tasks and time
//! come from a [`Gateway`], so nothing here depends on a runtime. All futures of one frontend
//! connection run in one thread.

mod again;
mod audit_record;
mod body;
mod caller;
mod callers;
mod claims;
mod connection;
mod cookies;
mod credentials;
mod deadline;
mod destination;
mod endpoint;
mod events;
mod exposure;
mod forward;
mod forwarded;
mod held;
mod line;
mod listing;
mod login;
mod origin;
mod ours;
mod pool;
mod problem;
mod reference;
mod resets;
mod rest;
mod rewrite;
mod route;
mod seal;
mod source;
mod sse;
mod state;
mod target;
mod target_query;
mod unread;
mod workers;

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use hyper::rt::{Read, Write};
use ipnet::IpNet;
use tieline_wire::{Reason, SharedBudget, TunnelId};

use crate::audit::Call;
use crate::auth::{OwnTokens, TokenRefusal};
use crate::config::PublicUrl;
use crate::limits::{Limited, Pass};
use crate::registry::AgentTag;
use crate::session::SessionEnded;
pub(crate) use again::is_of_target;
use caller::Caller;
use connection::ConnectionContext;
pub(crate) use credentials::hide_tokens;
use deadline::linger;
use forward::Front;
pub(crate) use listing::{Listed, Listing};
pub(crate) use origin::Origins;
pub(crate) use route::{hint, hinted_token, is_ours_anywhere};
pub(crate) use seal::Sealer;
use state::State;
pub(crate) use target::Target;
pub(crate) use target_query::{AgentBinding, NoTarget, TargetQuery, TunnelSelector};

/// Buffer limit of one connection in one direction, and therefore the longest head.
const HTTP_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Idle timeout while the relay drains, so that a request that is already on its way to the relay is
/// still answered.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_millis(250);

/// [`DRAIN_GRACE`] of an HTTP/2 connection: its answer to GOAWAY takes a round trip.
const DRAIN_GRACE_HTTP2: Duration = Duration::from_secs(1);

/// What the HTTP front needs from its shard.
pub(crate) trait Gateway: Clone + 'static {
    /// One session, which is one target connection.
    ///
    /// A read after the target's finish brings no bytes. A read after a reset fails, with
    /// [`SessionEnded`] as the cause where the reason is known. Bytes that arrived before the end are
    /// read first. Dropping the stream resets the session, unless the stream was shut down: then the
    /// session ends in order.
    type Stream: Read + Write + Unpin + 'static;

    /// An admitted caller.
    type Caller: 'static;

    /// Admits the caller with `token`, or an anonymous caller where the relay takes no tokens.
    ///
    /// # Errors
    /// [`TokenRefusal`] says why the token was refused.
    fn admit(&self, token: Option<&str>) -> Result<Self::Caller, TokenRefusal>;

    /// Recognizes the relay's own credentials, so that they are kept from targets; `None` if it cannot recognize any.
    fn own_tokens(&self) -> Option<OwnTokens> {
        None
    }

    /// True while the caller's token is still valid and not revoked.
    fn is_current(&self, caller: &Self::Caller) -> bool;

    /// Ready once the caller's access is revoked.
    fn poll_revoked(&self, cx: &mut Context<'_>, caller: &Self::Caller) -> Poll<()>;

    /// The caller's token subject; `None` for an anonymous caller.
    fn subject<'a>(&self, caller: &'a Self::Caller) -> Option<&'a str>;

    /// Makes and checks the marks that bind MCP session ids and paths to one agent.
    fn sealer(&self) -> &Rc<Sealer>;

    /// Finds a target without opening a session. A tunnel whose agent left a moment ago is waited for;
    /// with `stale`, so is a route newer than that target's. Among equally busy agents, one with a
    /// `kept` connection is preferred.
    ///
    /// # Errors
    /// [`Reason::UnknownTunnel`] if the caller may not know of the tunnel, [`Reason::TunnelOffline`] if
    /// no agent served the tunnel in time, [`NoTarget::AgentGone`] if the request is pinned to an agent
    /// that did not come back in time.
    fn find(
        &self,
        caller: &Self::Caller,
        wanted: &TargetQuery,
        stale: Option<&Target>,
        kept: impl Fn(&TunnelId, AgentTag) -> bool,
    ) -> impl Future<Output = Result<Rc<Target>, NoTarget>>;

    /// One page of the tunnels that the caller may reach, beginning after the name `after`.
    fn list(&self, caller: &Self::Caller, after: &str) -> impl Future<Output = Listing>;

    /// True if the caller may reach a tunnel of this name and kind, even one whose agent is offline.
    fn is_kind(&self, caller: &Self::Caller, tunnel: &TunnelId, dcc: &str) -> bool;

    /// A target for `wanted` that is not in `tried`, if one is known now.
    fn other(
        &self,
        _caller: &Self::Caller,
        _wanted: &TargetQuery,
        _tried: &[Rc<Target>],
    ) -> Option<Rc<Target>> {
        None
    }

    /// Opens a session to the agent of `target`. `dcc` is the kind of application in the URL, if there
    /// is one. It may resolve before the target has accepted: a refusal then arrives as the session's
    /// reset. Dropping the future abandons the session.
    ///
    /// # Errors
    /// Those of [`Gateway::find`], or the reason that the agent reports for its target.
    fn open(
        &self,
        caller: &Self::Caller,
        target: &Target,
        dcc: Option<&Arc<str>>,
    ) -> impl Future<Output = Result<Self::Stream, Reason>>;

    /// Bytes of a lost link's session that had reached the agent, as the agent reports over a new link;
    /// `None` if the agent cannot tell or does not report in time.
    fn reached(&self, _stream: Self::Stream) -> impl Future<Output = Option<u64>> {
        std::future::ready(None)
    }

    /// Ready once the agent of `target` no longer serves the tunnel: connections to the target must not be
    /// kept for further requests.
    fn away(&self, _target: &Target) -> impl Future<Output = ()> + 'static {
        std::future::pending()
    }

    /// Memory budget of this shard's sessions, if it is limited.
    fn budget(&self) -> Option<Arc<SharedBudget>> {
        None
    }

    /// Runs a task on this thread.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);

    /// Resolves after `duration`.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static;

    /// Current time on the clock of [`Gateway::sleep`].
    fn now(&self) -> Instant;

    /// True once the relay drains: a connection ends after its current answer, or after being idle for
    /// [`DRAIN_GRACE`]. The start of the drain wakes the connection's task.
    fn is_draining(&self) -> bool;

    /// Counts an answer; `problem` is the error code if the relay itself answered.
    fn answered(&self, status: StatusCode, problem: Option<&'static str>);

    /// Applies the rate limit of `address` to a new request.
    ///
    /// # Errors
    /// The address has reached a limit.
    fn arrive(&self, _address: IpAddr) -> Result<Pass, Limited> {
        Ok(Pass::default())
    }

    /// Applies the rate limit of `caller` to a request that [`Gateway::arrive`] has admitted.
    ///
    /// # Errors
    /// The caller has reached a limit.
    fn identify(&self, _pass: &mut Pass, _caller: &Self::Caller) -> Result<(), Limited> {
        Ok(())
    }

    /// Whether each request is written to the audit log.
    fn is_audited(&self) -> bool {
        false
    }

    /// Writes a request to the audit log; `status` is `None` if the request got no answer.
    fn note(
        &self,
        _call: Call,
        _caller: Option<&Self::Caller>,
        _status: Option<StatusCode>,
        _problem: Option<&'static str>,
    ) {
    }
}

/// Remote end of a frontend connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// Whether the connection uses TLS: decides the scheme of URLs in answers.
    pub(crate) https: bool,
}

/// Settings of the HTTP front.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The relay's own domain; a tunnel's host name is a label below it.
    pub(crate) domain: Option<String>,
    /// Configured base of the relay's URLs in answers.
    pub(crate) public_url: Option<PublicUrl>,
    /// Authority of `public_url`, as a target may write it.
    pub(crate) told: Option<Bytes>,
    /// Origins of web pages that may send requests.
    pub(crate) origins: Origins,
    /// Networks whose X-Forwarded-* headers are trusted.
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Whether the relay consumes `Authorization`; otherwise the field goes to the target.
    pub(crate) takes_tokens: bool,
    /// Header field that carries the target's `Authorization` where the relay consumes that field.
    pub(crate) target_authorization: Option<HeaderName>,
    /// Silence after which an event stream gets a comment; zero turns comments off.
    pub(crate) sse_keepalive: Duration,
    /// Longest time for receiving a request's head.
    pub(crate) head_timeout: Duration,
    /// Longest time between two requests of a kept-alive connection.
    pub(crate) idle_timeout: Duration,
    /// Longest time in which a caller takes no byte of an answer that is ready for it, or sends no byte
    /// of a body that the target waits for. A quiet event stream does not count.
    pub(crate) stall_timeout: Duration,
    /// Longest time for opening a session.
    pub(crate) open_timeout: Duration,
    /// How long a body with `Expect: 100-continue` waits for the target's `100 Continue`.
    pub(crate) continue_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            domain: None,
            public_url: None,
            told: None,
            origins: Origins::default(),
            trusted_proxies: Vec::new(),
            takes_tokens: false,
            target_authorization: None,
            sse_keepalive: Duration::from_secs(15),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            stall_timeout: Duration::from_secs(300),
            open_timeout: Duration::from_secs(30),
            continue_timeout: Duration::from_secs(1),
        }
    }
}

/// Why a frontend connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The connection ended in order.
    Closed,
    /// The caller closed or reset the connection before an answer was complete.
    CallerGone,
    /// The caller did not send valid HTTP; it got an error answer if possible.
    Malformed,
    /// No complete request head arrived in time.
    HeadTimeout,
    /// No further request arrived in time.
    IdleTimeout,
    /// The caller neither took the answer nor sent the body in time.
    Stalled,
    /// The caller's access was revoked.
    Revoked,
    /// The target broke off its answer, and the framing shows the caller that the answer is incomplete.
    Aborted,
    /// The target broke off its answer, and only a reset shows the caller that the answer is incomplete.
    Truncated,
}

impl Ended {
    /// Stable name for counters and logs.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::CallerGone => "caller_gone",
            Self::Malformed => "malformed",
            Self::HeadTimeout => "head_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::Stalled => "stalled",
            Self::Revoked => "revoked",
            Self::Aborted => "aborted",
            Self::Truncated => "truncated",
        }
    }

    /// True if the connection must be reset: a close would look like the end of the answer, or would
    /// keep bytes in memory for a caller that does not take them.
    pub(crate) fn is_reset(self) -> bool {
        matches!(self, Self::Stalled | Self::Revoked | Self::Truncated)
    }
}

/// Serves one frontend connection until it ends, and returns it to be closed or reset.
///
/// Dropping the future drops every session of the connection.
pub(crate) async fn serve<IO, G>(
    io: IO,
    gateway: G,
    peer: Peer,
    settings: Rc<Settings>,
) -> (IO, Ended)
where
    IO: Read + Write + Unpin + 'static,
    G: Gateway,
{
    let state = Rc::new(State::new());
    let caller = Caller::new(io, Rc::clone(&state));
    let context = ConnectionContext {
        state: &state,
        gateway: &gateway,
        settings: &settings,
        address: peer.address.ip(),
    };
    let decided = context.until(|cx| caller.poll_http2(cx).map(Ok)).await;
    let ended = match decided {
        Ok(is_http2) => {
            let front = Front::new(gateway.clone(), Rc::clone(&settings), peer, is_http2);
            if is_http2 {
                connection::serve_http2(&caller, front, &context).await
            } else {
                connection::serve_http1(&caller, front, &context).await
            }
        }
        Err(ended) => ended,
    };
    let (mut io, last) = caller.into_inner();
    if !last.held.is_empty() {
        let ended = (ended, state.take_unread());
        unread::tell(&mut io, &gateway, peer.address.ip(), last, ended).await;
    }
    let unread = ended == Ended::Malformed || (ended == Ended::Closed && state.is_body_unread());
    if unread {
        linger(&mut io, &gateway).await;
    }
    (io, ended)
}

/// Adds `Connection: close`: an HTTP/1.1 connection ends after this answer.
fn close_after(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
}

#[cfg(test)]
mod tests;
