//! The HTTP front, HTTP/1.1 and HTTP/2: hyper's server towards a caller, hyper's client over sessions.
//!
//! Owns how a request becomes a target's answer or the relay's own. What a session is, where a
//! tunnel's link lives and what the time is comes from a [`Gateway`], so nothing here depends on
//! a runtime. All futures of one frontend connection run in one thread.

mod again;
mod body;
mod caller;
mod callers;
mod chunks;
mod claims;
mod connection;
mod cookies;
mod credentials;
mod deadline;
mod destination;
mod direct;
mod endpoint;
mod events;
mod exposure;
mod forward;
mod forwarded;
mod held;
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
mod tap;
mod target;
mod trail;
mod unread;
mod wanted;
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
use connection::Turns;
pub(crate) use credentials::hide_tokens;
use deadline::linger;
use forward::Front;
pub(crate) use listing::{Listed, Listing};
pub(crate) use origin::Origins;
pub(crate) use route::{hint, hinted_token, is_ours_anywhere};
pub(crate) use seal::Sealer;
use state::State;
pub(crate) use target::Target;
pub(crate) use wanted::{Aim, Nowhere, Pin, Wanted};

/// Most that is buffered of one connection in one direction, and so the longest head.
const HTTP_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// How long a caller that is idle when the relay begins to drain may still ask: a request that is on
/// its way then is answered.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_millis(250);

/// The same for a caller of HTTP/2, whose answer to the goodbye takes a round trip.
const DRAIN_GRACE_HTTP2: Duration = Duration::from_secs(1);

/// What the HTTP front needs from its shard.
pub(crate) trait Gateway: Clone + 'static {
    /// One session, which is one target connection.
    ///
    /// A read after the target's finish brings no bytes, one after a reset fails, with
    /// [`SessionEnded`] as the cause where the reason is known. Bytes that arrived before are
    /// read first. Dropping it resets the session, unless it was shut down: then the session ends
    /// in order.
    type Stream: Read + Write + Unpin + 'static;

    /// Who asks, for as long as they are served.
    type Caller: 'static;

    /// Who it is that presents `token`, or anybody where callers need not say.
    ///
    /// # Errors
    /// [`TokenRefusal`] says why they are not let in.
    fn admit(&self, token: Option<&str>) -> Result<Self::Caller, TokenRefusal>;

    /// What tells the relay's own credentials from a target's, if the relay can tell them.
    fn own_tokens(&self) -> Option<OwnTokens> {
        None
    }

    /// True while somebody who was let in would be so again.
    fn is_current(&self, caller: &Self::Caller) -> bool;

    /// Ready once somebody who was let in may stay no longer.
    fn poll_revoked(&self, cx: &mut Context<'_>, caller: &Self::Caller) -> Poll<()>;

    /// The name of somebody who had to say it.
    fn subject<'a>(&self, caller: &'a Self::Caller) -> Option<&'a str>;

    /// Marks what leads back to one agent.
    fn sealer(&self) -> &Rc<Sealer>;

    /// Looks a tunnel up, without opening anything. One whose agent went away a moment ago is
    /// waited for, as is any newer route than the one to the target in `stale`. Of several agents,
    /// one for which a connection is `kept` is preferred to those with as much to do.
    ///
    /// # Errors
    /// [`Reason::UnknownTunnel`] if the caller must not know of it, [`Reason::TunnelOffline`] if
    /// no agent serves it, and none came in time; [`Nowhere::AgentGone`] if that was to be a
    /// certain one.
    fn find(
        &self,
        caller: &Self::Caller,
        wanted: &Wanted,
        stale: Option<&Target>,
        kept: impl Fn(&TunnelId, AgentTag) -> bool,
    ) -> impl Future<Output = Result<Rc<Target>, Nowhere>>;

    /// The tunnels behind `after` that the caller may reach, or some of them.
    fn list(&self, caller: &Self::Caller, after: &str) -> impl Future<Output = Listing>;

    /// True if there is a tunnel of this name and kind that the caller may reach, whether or not
    /// its agent is here.
    fn is_kind(&self, caller: &Self::Caller, tunnel: &TunnelId, dcc: &str) -> bool;

    /// Another target for what is `wanted` than those that were `tried`, if one is known now.
    fn other(
        &self,
        _caller: &Self::Caller,
        _wanted: &Wanted,
        _tried: &[Rc<Target>],
    ) -> Option<Rc<Target>> {
        None
    }

    /// Opens a session to the agent of `target`, for a caller who found it as one of the kind `dcc`, or by its
    /// name. It may resolve before the target has accepted: a refusal then comes as
    /// the session's reset. Dropping the future gives the session up.
    ///
    /// # Errors
    /// Why there is none: those of [`Gateway::find`], or what the agent reports of its target.
    fn open(
        &self,
        caller: &Self::Caller,
        target: &Target,
        dcc: Option<&Arc<str>>,
    ) -> impl Future<Output = Result<Self::Stream, Reason>>;

    /// How many bytes of a stream had reached the agent when the link was lost, once the agent says so
    /// over another link; `None` where it has not said so in time, or cannot.
    fn reached(&self, _stream: Self::Stream) -> impl Future<Output = Option<u64>> {
        std::future::ready(None)
    }

    /// Ready once the agent of `target` serves its tunnel no more, so that connections through it
    /// are not to be kept for further requests.
    fn away(&self, _target: &Target) -> impl Future<Output = ()> + 'static {
        std::future::pending()
    }

    /// What the sessions of this shard may hold, if that is limited.
    fn budget(&self) -> Option<Arc<SharedBudget>> {
        None
    }

    /// Runs a task on this thread.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);

    /// Ends after `duration`.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static;

    /// The time that [`Gateway::sleep`] goes by.
    fn now(&self) -> Instant;

    /// True once the relay takes nothing new: the connection ends after the answer it is at, or
    /// when it has been idle for [`DRAIN_GRACE`]. The change of it polls the connection.
    fn is_draining(&self) -> bool;

    /// Counts an answer; `problem` is the error's word if the relay answered by itself.
    fn answered(&self, status: StatusCode, problem: Option<&'static str>);

    /// Lets a request from `address` in.
    ///
    /// # Errors
    /// There are too many from there.
    fn arrive(&self, _address: IpAddr) -> Result<Pass, Limited> {
        Ok(Pass::default())
    }

    /// The same, now that it is known whose it is.
    ///
    /// # Errors
    /// There are too many of theirs.
    fn identify(&self, _pass: &mut Pass, _caller: &Self::Caller) -> Result<(), Limited> {
        Ok(())
    }

    /// Whether requests are noted one by one.
    fn is_audited(&self) -> bool {
        false
    }

    /// Notes one that is answered, or given up before that; `problem` as above.
    fn note(
        &self,
        _call: Call,
        _caller: Option<&Self::Caller>,
        _status: Option<StatusCode>,
        _problem: Option<&'static str>,
    ) {
    }
}

/// Where a frontend connection comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// Whether it came by TLS, for the URLs that it is told.
    pub(crate) https: bool,
}

/// How frontend connections are served.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The relay's own name; tunnels are called by a label in front of it.
    pub(crate) domain: Option<String>,
    /// How URLs begin that callers are told, if that is set.
    pub(crate) public_url: Option<PublicUrl>,
    /// Its authority, as a target may write it.
    pub(crate) told: Option<Bytes>,
    /// Pages from elsewhere that may ask.
    pub(crate) origins: Origins,
    /// Proxies that are believed who asks.
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Whether `Authorization` is for the relay; if not, it is for the target.
    pub(crate) takes_tokens: bool,
    /// Field that brings a target's `Authorization` where the relay takes that itself.
    pub(crate) target_authorization: Option<HeaderName>,
    /// After so long without a byte an event stream gets a comment; zero for never.
    pub(crate) sse_keepalive: Duration,
    /// Longest time for a request's head.
    pub(crate) head_timeout: Duration,
    /// Longest time between two requests of a kept-alive connection.
    pub(crate) idle_timeout: Duration,
    /// Longest time in which a caller takes nothing of an answer that is there for it, or sends
    /// nothing of a body that the target waits for. A quiet stream is not concerned.
    pub(crate) stall_timeout: Duration,
    /// Longest time for a session to open.
    pub(crate) open_timeout: Duration,
    /// How long a body with `Expect: 100-continue` waits for the target to ask for it.
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
    /// In order.
    Closed,
    /// The caller closed or reset it before an answer was complete.
    CallerGone,
    /// What the caller sent is no HTTP; it was told so if that was possible.
    Malformed,
    /// No complete head in time.
    HeadTimeout,
    /// No further request in time.
    IdleTimeout,
    /// The caller neither took nor sent what was due.
    Stalled,
    /// The caller's access was revoked.
    Revoked,
    /// The target broke off; the caller's framing shows that something is missing.
    Aborted,
    /// The target broke off, which only a reset can show the caller.
    Truncated,
}

impl Ended {
    /// One stable word, for counters and logs.
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

    /// True if the connection must be reset: closing it would look like an answer's end, or
    /// would keep bytes for a caller that does not take them.
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
    let turns = Turns {
        state: &state,
        gateway: &gateway,
        settings: &settings,
        address: peer.address.ip(),
    };
    let decided = turns.until(|cx| caller.poll_http2(cx).map(Ok)).await;
    let ended = match decided {
        Ok(is_http2) => {
            let front = Front::new(gateway.clone(), Rc::clone(&settings), peer, is_http2);
            if is_http2 {
                connection::serve_http2(&caller, front, &turns).await
            } else {
                connection::serve_http1(&caller, front, &turns).await
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

/// Says of an answer over HTTP/1.1 that its connection serves no further request.
fn close_after(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
}

#[cfg(test)]
mod tests;
