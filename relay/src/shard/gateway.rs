//! Implements [`Gateway`] for the HTTP front: routes, sessions, tasks and time from a shard.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::StatusCode;
use hyper::rt::{Read, ReadBufCursor, Write};
use tieline_wire::{SessionEnd, SharedBudget, TunnelId};
use tokio::sync::oneshot;

use super::Shard;
use super::callers::Caller;
use super::mail::message::{CrossingReply, CrossingRequest, Message, Verdict};
use super::place::SessionPlace;
use crate::audit::Call;
use crate::auth::{OwnTokens, TokenRefusal};
use crate::clock::now_seconds;
use crate::directory::{Among, OwnerGroup, Query, Resolved, TunnelSelector};
use crate::io::{PollStream, Stream, pair, sleep, timeout, turn};
use crate::limits::{Limited, RatePass};
use crate::listen::http::{
    Gateway, Listed, Listing, MarkKey, NoTarget, Target, TargetQuery, hide_tokens,
};
use crate::metrics::FrontendKind;
use crate::registry::{AgentTag, TunnelInfo};
use crate::session::{SessionCaller, SessionEnded, SessionStream};

/// Minimum length of a page of tunnels, except for the last page: some 50 KiB of JSON.
const LISTED_ENOUGH: usize = 250;

/// A shard's [`Gateway`] for one frontend connection, with the caller's address.
#[derive(Clone)]
pub(super) struct ShardGateway(Rc<Shard>, IpAddr);

impl ShardGateway {
    /// Gateway for a frontend connection from `address`.
    pub(super) fn new(shard: Rc<Shard>, address: IpAddr) -> Self {
        Self(shard, address.to_canonical())
    }
}

impl Gateway for ShardGateway {
    type Stream = GatewayStream;
    type Caller = Caller;

    fn authenticate(&self, token: Option<&str>) -> Result<Caller, TokenRefusal> {
        self.0.callers.caller(token)
    }

    fn own_tokens(&self) -> Option<OwnTokens> {
        OwnTokens::of(&self.0.kit.auth.borrow(), now_seconds())
    }

    fn is_current(&self, caller: &Caller) -> bool {
        caller.is_current(now_seconds())
    }

    fn poll_revoked(&self, cx: &mut Context<'_>, caller: &Caller) -> Poll<()> {
        caller.poll_revoked(cx).map(|_| ())
    }

    fn subject<'a>(&self, caller: &'a Caller) -> Option<&'a str> {
        caller.identity().map(|it| it.sub())
    }

    fn mark_key(&self) -> &Rc<MarkKey> {
        &self.0.callers.mark_key
    }

    async fn find(
        &self,
        caller: &Caller,
        wanted: &TargetQuery,
        stale: Option<&Target>,
        kept: impl Fn(&TunnelId, AgentTag) -> bool,
    ) -> Result<Rc<Target>, NoTarget> {
        let shard = &self.0;
        let began = shard.kit.clock.now();
        let may_know = &|tunnel: &TunnelId, info: &TunnelInfo| caller.may_reach(tunnel, info);
        let identity = caller.identity().map(|it| &**it);
        let owners = match &wanted.selector {
            TunnelSelector::Kind(_) if wanted.binding.is_none() => OwnerGroup::of_caller(identity),
            _ => Vec::new(),
        };
        let is_open = |tunnel: &TunnelId, info: &TunnelInfo| {
            may_know(tunnel, info) && !shard.agents.is_paused(tunnel)
        };
        let serves = |info: &TunnelInfo| wanted.is_exposed_by(info);
        let query = Query {
            binding: wanted.binding.as_ref(),
            stale: stale.map(Target::stale),
            serves: Some(&serves),
            kept: &kept,
            ..Query::new(Among::of(&wanted.selector, &owners), &is_open)
        };
        let offline = NoTarget::Refused(SessionEnd::TunnelOffline);
        let too_late = match wanted.binding {
            Some(_) => NoTarget::AgentGone,
            None => offline,
        };
        let selector = match &wanted.binding {
            Some(binding) => TunnelSelector::Tunnel(binding.tunnel.clone()),
            None => wanted.selector.clone(),
        };
        loop {
            let (since, is_known) = match shard.directory.routes().resolve(&query) {
                Resolved::To(choice) => {
                    let unusable = NoTarget::Refused(SessionEnd::TargetUnreachable);
                    return choice.target.map(Rc::clone).ok_or(unusable);
                }
                // The link of the `stale` target is lost, and the route update that says so is on its way.
                Resolved::Exhausted => (began, true),
                Resolved::Offline(since) => (shard.grace_from(since, began), true),
                // Right after the relay's start the agents have yet to reconnect.
                Resolved::Gone if shard.is_fresh() => (began, false),
                Resolved::Gone => return Err(NoTarget::AgentGone),
                Resolved::Unknown => {
                    // The caller's query leaves paused tunnels out.
                    let anything = Query { may_know, ..query };
                    let routes = shard.directory.routes();
                    if !matches!(routes.resolve(&anything), Resolved::Unknown) {
                        return Err(NoTarget::Refused(SessionEnd::TunnelPaused));
                    }
                    if !shard.is_fresh() {
                        return Err(NoTarget::Refused(SessionEnd::UnknownTunnel));
                    }
                    (began, false)
                }
            };
            if !shard.is_changed(&selector, since, is_known).await {
                return Err(match shard.kit.draining.get() {
                    true => NoTarget::Stopping,
                    false => too_late,
                });
            }
        }
    }

    async fn list(&self, caller: &Caller, after: &str) -> Listing {
        let mut listing = Listing {
            tunnels: Vec::new(),
            next: Some(after.to_owned()),
        };
        let fit = |tunnel: &TunnelId, info: &TunnelInfo| caller.may_reach(tunnel, info);
        while let Some(after) = listing.next.take() {
            let (some, next) = self.0.directory.routes().list(&after, fit, Listed::new);
            listing.tunnels.extend(some);
            listing.next = next;
            if listing.tunnels.len() >= LISTED_ENOUGH {
                break;
            }
            turn().await;
        }
        listing
    }

    fn is_kind(&self, caller: &Caller, tunnel: &TunnelId, dcc: &str) -> bool {
        let routes = self.0.directory.routes();
        routes.is_kind(tunnel, dcc, |info| caller.may_reach(tunnel, info))
    }

    fn other(
        &self,
        caller: &Caller,
        wanted: &TargetQuery,
        tried: &[Rc<Target>],
    ) -> Option<Rc<Target>> {
        let shard = &self.0;
        let identity = caller.identity().map(|it| &**it);
        let owners = OwnerGroup::of_caller(identity);
        let fit = |tunnel: &TunnelId, info: &TunnelInfo| {
            caller.may_reach(tunnel, info) && !shard.agents.is_paused(tunnel)
        };
        let serves = |info: &TunnelInfo| wanted.is_exposed_by(info);
        let is_tried = |tunnel: &TunnelId, agent: AgentTag| {
            let mut tried = tried.iter();
            tried.any(|it| it.agent == agent && it.tunnel == *tunnel)
        };
        let query = Query {
            binding: wanted.binding.as_ref(),
            tried: &is_tried,
            serves: Some(&serves),
            ..Query::new(Among::of(&wanted.selector, &owners), &fit)
        };
        match shard.directory.routes().resolve(&query) {
            Resolved::To(choice) => choice.target.map(Rc::clone),
            _ => None,
        }
    }

    async fn open(
        &self,
        caller: &Caller,
        target: &Target,
        dcc: Option<&Arc<str>>,
    ) -> Result<GatewayStream, SessionEnd> {
        let shard = &self.0;
        let tunnel = &target.tunnel;
        // Look up again: since the target was found, the name may have gone to another owner.
        let fit = |info: &TunnelInfo| caller.may_reach(tunnel, info);
        let placed = shard.place(tunnel, target.agent, fit, || SessionCaller {
            identity: caller.identity().cloned(),
            address: Some(self.1),
            kind: FrontendKind::Http,
            dcc: dcc.cloned(),
            ..SessionCaller::default()
        });
        let to = match placed {
            SessionPlace::Here(session) => {
                return Ok(GatewayStream::Local(SessionStream::new(session)));
            }
            SessionPlace::NoTarget(reason) => return Err(reason.into()),
            SessionPlace::Shard(to) => to,
        };
        shard.kit.metrics.crossings.inc();
        let (ours, theirs) = pair().map_err(|_| SessionEnd::Overload)?;
        let verdict = Arc::new(Verdict::default());
        let (reached, told) = oneshot::channel();
        let crossing = Message::Crossing {
            fd: theirs,
            request: CrossingRequest {
                tunnel: tunnel.clone(),
                agent: target.agent,
                identity: caller.identity().cloned(),
                address: Some(self.1),
                dcc: dcc.cloned(),
            },
            back: CrossingReply {
                verdict: Arc::clone(&verdict),
                reached,
            },
        };
        if !shard.kit.mail.hand_off(to, crossing).await {
            return Err(SessionEnd::Overload);
        }
        let stream = PollStream::new(Stream::new(ours));
        Ok(GatewayStream::Crossing(Crossing {
            stream,
            verdict,
            told: Some(told),
            shut_down: false,
        }))
    }

    async fn reached(&self, stream: GatewayStream) -> Option<u64> {
        let shard = &self.0;
        let told = match stream {
            GatewayStream::Local(stream) => stream.report_of_agent(),
            GatewayStream::Crossing(mut crossing) => crossing.told.take(),
        };
        let told = told.filter(|_| !shard.kit.draining.get())?;
        let grace = shard.kit.peers.config.callers.offline_grace;
        timeout(grace, told).await.ok()?.ok()
    }

    fn away(&self, target: &Target) -> impl Future<Output = ()> + 'static {
        let mut routes = self.0.directory.routes_mut();
        let unserved = routes.until_unserved(&target.tunnel, target.agent, target.generation);
        async move {
            let _ = unserved.await;
        }
    }

    fn budget(&self) -> Option<Arc<SharedBudget>> {
        Some(Arc::clone(&self.0.kit.metrics.budget))
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.kit.tasks.spawn(task);
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        sleep(duration)
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn is_draining(&self) -> bool {
        self.0.kit.draining.get()
    }

    fn answered(&self, status: StatusCode, problem: Option<&'static str>) {
        self.0.kit.metrics.http_answered(status.as_u16());
        if let Some(problem) = problem {
            tracing::debug!(status = status.as_u16(), problem, "HTTP request refused");
        }
    }

    fn arrive(&self, address: IpAddr) -> Result<RatePass, Limited> {
        self.0.callers.arrive(address)
    }

    fn identify(&self, pass: &mut RatePass, caller: &Caller) -> Result<(), Limited> {
        self.0.callers.identify(pass, caller)
    }

    fn is_audited(&self) -> bool {
        self.0.kit.peers.audit.is_on()
    }

    fn note(
        &self,
        call: Call,
        caller: Option<&Caller>,
        status: Option<StatusCode>,
        problem: Option<&'static str>,
    ) {
        let identity = caller.and_then(Caller::identity).map(|it| &**it);
        let audit = &self.0.kit.peers.audit;
        let is_refused = match status {
            // The target may have processed a request that ended with one of these.
            Some(StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT) => false,
            Some(_) => problem.is_some(),
            // The caller gave up. A known tunnel means that the caller had been admitted.
            None => call.tunnel.is_none(),
        };
        let status = status.map(|status| status.as_u16());
        let entry = || {
            let mut call = call;
            if let Some(own) = self.own_tokens() {
                hide_tokens(own, &mut call);
            }
            call.answered(identity, status, problem)
        };
        if is_refused {
            audit.note_refused(entry);
        } else {
            audit.note(entry);
        }
    }
}

/// One session of an HTTP frontend.
pub(super) enum GatewayStream {
    /// Session on a link of this shard.
    Local(SessionStream),
    /// Session on a link of another shard, which splices the other end of a socket pair.
    Crossing(Crossing),
}

/// The frontend's end of a session on another shard's link.
pub(super) struct Crossing {
    stream: PollStream,
    verdict: Arc<Verdict>,
    /// Receives the number of bytes that had reached the agent when the link was lost, if the agent can tell.
    told: Option<oneshot::Receiver<u64>>,
    shut_down: bool,
}

impl Drop for Crossing {
    fn drop(&mut self) {
        if !self.shut_down {
            self.verdict.cancel();
        }
    }
}

impl Read for GatewayStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let crossing = match self.get_mut() {
            Self::Local(stream) => return Pin::new(stream).poll_read(cx, buffer),
            Self::Crossing(crossing) => crossing,
        };
        let outcome = ready!(crossing.stream.poll_read_some(cx, &mut buffer));
        match (outcome, crossing.verdict.reset_reason()) {
            // A reset looks like an end of the socket pair; the other shard records its reason before that.
            (Ok(0) | Err(_), Some(reason)) => {
                let is_not_sent = crossing.verdict.is_not_sent();
                let ended = SessionEnded {
                    reason,
                    is_not_sent,
                };
                Poll::Ready(Err(ended.into()))
            }
            (outcome, _) => Poll::Ready(outcome.map(|_| ())),
        }
    }
}

impl Write for GatewayStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Local(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Crossing(crossing) => Pin::new(&mut crossing.stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Local(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Crossing(crossing) => {
                crossing.shut_down = true;
                Pin::new(&mut crossing.stream).poll_shutdown(cx)
            }
        }
    }
}
