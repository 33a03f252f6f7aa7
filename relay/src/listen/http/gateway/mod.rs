//! What the HTTP front needs from its shard: sessions, routes, callers, tasks and time.
//!
//! The shard implements [`Gateway`] (`shard/gateway`), and the tests of the front a scripted one. The other files hold
//! what crosses this border: `settings` and `listing` come in, `ended` and `upgraded` go out, and `marks` makes the
//! marks by which a request returns to its agent.

pub(super) mod ended;
pub(super) mod listing;
pub(super) mod marks;
pub(super) mod settings;
pub(super) mod upgraded;

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::StatusCode;
use hyper::rt::{Read, Write};
use tieline_wire::{SessionEnd, SharedBudget, TunnelId};

use self::listing::Listing;
use self::marks::MarkKey;
use crate::audit::Call;
use crate::auth::{OwnTokens, TokenRefusal};
use crate::limits::{Limited, RatePass};
use crate::listen::http::target::Target;
use crate::listen::http::target_query::{NoTarget, TargetQuery};
use crate::registry::AgentTag;

/// What the HTTP front needs from its shard.
pub(crate) trait Gateway: Clone + 'static {
    /// One session, which is one target connection.
    ///
    /// A read after the target's finish brings no bytes. A read after a reset fails, with
    /// [`SessionEnded`](crate::session::SessionEnded) as the cause where the reason is known. Bytes that arrived before
    /// the end are read first. Dropping the stream resets the session, unless the stream was shut down: then the
    /// session ends in order.
    type Stream: Read + Write + Unpin + 'static;

    /// An admitted caller.
    type Caller: Clone + 'static;

    /// The caller with `token`, or an anonymous caller where the relay takes no tokens.
    ///
    /// # Errors
    /// [`TokenRefusal`] says why the token was refused.
    fn authenticate(&self, token: Option<&str>) -> Result<Self::Caller, TokenRefusal>;

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

    /// Key of the marks that bind MCP session ids and paths to one agent.
    fn mark_key(&self) -> &Rc<MarkKey>;

    /// Finds a target without opening a session. A tunnel whose agent left a moment ago is waited for;
    /// with `stale`, so is a route newer than that target's. Among equally busy agents, one with a
    /// `kept` connection is preferred.
    ///
    /// # Errors
    /// [`SessionEnd::UnknownTunnel`] if the caller may not know of the tunnel, [`SessionEnd::TunnelOffline`] if
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
    ) -> impl Future<Output = Result<Self::Stream, SessionEnd>>;

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

    /// The outcome of `work`, or `None` once `duration` has passed.
    async fn within<T>(
        &self,
        duration: Duration,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        let mut timeout = pin!(self.sleep(duration));
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending => timeout.as_mut().poll(cx).map(|()| None),
        })
        .await
    }

    /// Current time on the clock of [`Gateway::sleep`].
    fn now(&self) -> Instant;

    /// True once the relay drains: a connection ends after its current answer, or after being idle for
    /// [`DRAIN_GRACE`](settings::DRAIN_GRACE). The start of the drain wakes the connection's task.
    fn is_draining(&self) -> bool;

    /// Counts an answer; `problem` is the error code if the relay itself answered.
    fn answered(&self, status: StatusCode, problem: Option<&'static str>);

    /// Applies the rate limit of `address` to a new request.
    ///
    /// # Errors
    /// The address has reached a limit.
    fn arrive(&self, _address: IpAddr) -> Result<RatePass, Limited> {
        Ok(RatePass::default())
    }

    /// Applies the rate limit of `caller` to a request that [`Gateway::arrive`] has admitted.
    ///
    /// # Errors
    /// The caller has reached a limit.
    fn identify(&self, _pass: &mut RatePass, _caller: &Self::Caller) -> Result<(), Limited> {
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
