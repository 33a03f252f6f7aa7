//! Frontends: which shard serves a caller's connection, and how the connection is joined to its session.

use std::mem;
use std::rc::Rc;
use std::sync::Arc;

use tieline_wire::{CallerRefusal, Mode, NoSession, SessionEnd, TunnelId};
use tracing::debug;

use super::Shard;
use super::arrived::Arrived;
use super::callers::{Caller, FrontendCount};
use super::gateway::ShardGateway;
use super::mail::message::{Message, OpenVerdict, RawFrontend};
use super::place::SessionPlace;
use super::quic::serve_crossed;
use super::upgrades;
use crate::auth::Identity;
use crate::directory::{Among, Query, Resolved};
use crate::io::{Detached, PollStream, Stream};
use crate::listen::proxied::Source;
use crate::listen::{http, tcp};
use crate::metrics::{FrontendKind, HandoffKind};
use crate::registry::{AgentTag, TunnelInfo};
use crate::session::{Session, SessionCaller};
use crate::splice::splice;

impl Shard {
    /// Accepts a raw frontend: reads its preamble, authenticates its caller and routes it to a session.
    pub(super) fn raw_arrived(self: &Rc<Self>, stream: Stream, source: Source) {
        self.kit.metrics.frontend_accepted(FrontendKind::Tcp);
        let (shard, arrived) = (Rc::clone(self), self.kit.peers.callers.arrived());
        self.kit.tasks.spawn(async move {
            let refused = |peer, reason| shard.callers.raw_refused(peer, None, None, reason);
            let Some(source) = shard.callers.source(&stream, source).await else {
                return refused(source.address(), CallerRefusal::Preamble);
            };
            let peer = source.address();
            let Ok(mut pass) = shard.callers.arrive(peer.ip()) else {
                return refused(peer, CallerRefusal::Limited);
            };
            let deadline = shard.kit.peers.config.preamble_timeout;
            let preamble = tcp::preamble(&stream);
            match shard.kit.in_time(deadline, stream.is_tls(), preamble).await {
                Some(Some(preamble)) => {
                    if let Ok(caller) = shard.callers.raw_caller(&preamble, peer, &mut pass) {
                        let raw = RawFrontend {
                            tunnel: preamble.tunnel,
                            kind: FrontendKind::Tcp,
                            peer,
                            pass,
                            arrived,
                            tried: Vec::new(),
                            crossing: None,
                        };
                        shard.route_raw(stream, raw, None, caller).await;
                    }
                }
                Some(None) | None => {
                    debug!(%peer, "no valid preamble, or not in time");
                    refused(peer, CallerRefusal::Preamble);
                }
            }
        });
    }

    /// Takes a raw frontend that another shard routed here.
    pub(super) fn raw_moved_here(
        self: &Rc<Self>,
        stream: Detached,
        identity: Option<Arc<Identity>>,
        raw: Box<RawFrontend>,
    ) {
        let shard = Rc::clone(self);
        // The route may have changed meanwhile: this shard's own copy decides.
        self.kit.tasks.spawn(async move {
            match shard.callers.caller_from(identity) {
                Ok(caller) => {
                    let near = Some(shard.kit.index);
                    shard.route_raw(stream.attach(), *raw, near, caller).await;
                }
                Err(reason) => {
                    let tunnel = Some(&raw.tunnel);
                    shard
                        .callers
                        .raw_refused(raw.peer, tunnel, None, reason.into());
                    turn_away(stream.attach(), raw.crossing, reason.into()).await;
                }
            }
        });
    }

    /// Joins a raw frontend to a session of its tunnel on this shard, or hands the frontend off to the session's shard.
    /// Agents with a link on the shard `near` are preferred.
    pub(super) async fn route_raw(
        self: &Rc<Self>,
        stream: Stream,
        mut raw: RawFrontend,
        near: Option<usize>,
        caller: Caller,
    ) {
        match self.place_raw(&mut raw, near, &caller).await {
            SessionPlace::Here(session) => {
                let here = self.callers.count(raw.arrived);
                self.serve_raw(stream, (session, raw.crossing), caller, here);
            }
            SessionPlace::Shard(to) => {
                let (tunnel, peer) = (raw.tunnel.clone(), raw.peer);
                let message = Message::Frontend {
                    raw: Box::new(raw),
                    stream: stream.detach(),
                    identity: caller.identity().cloned(),
                };
                let Err(back) = self.kit.mail.try_hand_off(to, message).await else {
                    self.kit.metrics.handed_off(HandoffKind::Frontend);
                    return;
                };
                let reason = CallerRefusal::Overload;
                self.callers
                    .raw_refused(peer, Some(&tunnel), Some(&caller), reason);
                if let Message::Frontend { stream, raw, .. } = back {
                    turn_away(stream.attach(), raw.crossing, reason).await;
                }
            }
            SessionPlace::NoTarget(reason) => {
                let tunnel = &raw.tunnel;
                debug!(%tunnel, reason = reason.word(), "frontend refused");
                self.callers
                    .raw_refused(raw.peer, Some(tunnel), Some(&caller), reason.into());
                turn_away(stream, raw.crossing, reason.into()).await;
            }
        }
    }

    /// Places a raw frontend. On this shard, opens its session and waits for the target's connection; if the target
    /// refuses it, tries the tunnel's next agent.
    pub(super) async fn place_raw(
        self: &Rc<Self>,
        raw: &mut RawFrontend,
        near: Option<usize>,
        caller: &Caller,
    ) -> SessionPlace {
        let tunnel = &raw.tunnel;
        // An HTTP target with a base path is reached over HTTP only.
        let fit = |info: &TunnelInfo| caller.may_reach(tunnel, info) && info.is_open_to_raw();
        let began = self.kit.clock.now();
        let mut refused = (!raw.tried.is_empty()).then_some(NoSession::TargetRefused);
        loop {
            let chosen = self.chosen_raw(tunnel, near, &raw.tried, &fit);
            if let (Err(_), Some(reason)) = (&chosen, refused) {
                return SessionPlace::NoTarget(reason);
            }
            let caller = || SessionCaller {
                identity: caller.identity().cloned(),
                address: Some(raw.peer.ip().to_canonical()),
                kind: raw.kind,
                mode: match raw.kind {
                    FrontendKind::WebSocket => Mode::Messages,
                    FrontendKind::Tcp | FrontendKind::Http | FrontendKind::Quic => Mode::Bytes,
                },
                pass: mem::take(&mut raw.pass),
                audit: self.callers.noted(raw.peer, tunnel),
                ..SessionCaller::default()
            };
            let placed = match chosen {
                Ok((agent, _)) => self.place(tunnel, agent, fit, caller),
                Err(reason) => SessionPlace::NoTarget(reason),
            };
            match (placed, chosen) {
                (SessionPlace::NoTarget(reason), _)
                    if refused.is_none() && self.is_changed_for(tunnel, reason, began).await => {}
                // Payload is sent only once the target's connection stands: until then another agent may take the
                // session.
                (SessionPlace::Here(session), Ok((agent, false))) => {
                    let end = session.until_opened().await.err();
                    let end = end.filter(|_| session.delivery().is_not_sent());
                    let Some(reason) = end.and_then(SessionEnd::no_target) else {
                        return SessionPlace::Here(session);
                    };
                    raw.pass = session.take_pass();
                    raw.tried.push(agent);
                    refused = Some(reason);
                }
                (placed, _) => return placed,
            }
        }
    }

    /// The agent for a raw caller, and whether the tunnel has no other agent and none was tried.
    fn chosen_raw(
        &self,
        tunnel: &TunnelId,
        near: Option<usize>,
        tried: &[AgentTag],
        fit: &impl Fn(&TunnelInfo) -> bool,
    ) -> Result<(AgentTag, bool), NoSession> {
        let fit = |_: &TunnelId, info: &TunnelInfo| fit(info);
        let is_tried = |_: &TunnelId, agent: AgentTag| tried.contains(&agent);
        let query = Query {
            tried: &is_tried,
            near,
            ..Query::new(Among::Tunnel(tunnel), &fit)
        };
        match self.directory.routes().resolve(&query) {
            Resolved::To(choice) => Ok((choice.agent, choice.is_only() && tried.is_empty())),
            Resolved::Unknown | Resolved::Gone => Err(NoSession::UnknownTunnel),
            Resolved::Offline(_) | Resolved::Exhausted if self.agents.is_paused(tunnel) => {
                Err(NoSession::TunnelPaused)
            }
            Resolved::Offline(_) | Resolved::Exhausted => Err(NoSession::TunnelOffline),
        }
    }

    /// Joins a raw frontend and its session, in a new task: the present task's size includes the routing, and the
    /// session may last for days. `crossing` as in [`RawFrontend`].
    fn serve_raw(
        self: &Rc<Self>,
        stream: Stream,
        (session, crossing): (Session, Option<OpenVerdict>),
        caller: Caller,
        here: FrontendCount,
    ) {
        let (block, tasks) = (Rc::clone(&self.callers.read_block), &self.kit.tasks);
        if let Some(verdict) = crossing {
            let (stream, told) = (Rc::new(stream), Arc::clone(verdict.verdict()));
            let spliced = splice(Rc::clone(&stream), session, block, move || {
                told.is_cancelled()
            });
            return tasks.spawn(async move {
                serve_crossed(verdict, stream, spliced, caller).await;
                drop(here);
            });
        }
        if stream.plain().is_some() {
            session.want_lane();
        }
        let stream = Rc::new(stream);
        let spliced = splice(Rc::clone(&stream), session, block, || false);
        if stream.is_websocket() {
            return tasks.spawn(async move {
                upgrades::serve_caller(spliced, stream, caller).await;
                drop(here);
            });
        }
        drop(stream);
        tasks.spawn(caller.while_welcome(spliced, here));
    }

    /// Accepts an HTTP frontend: its first request hints at the shard to serve it.
    pub(super) fn http_arrived(self: &Rc<Self>, stream: Stream, source: Source) {
        self.kit.metrics.frontend_accepted(FrontendKind::Http);
        let (shard, arrived) = (Rc::clone(self), self.kit.peers.callers.arrived());
        self.kit.tasks.spawn(async move {
            let Some(source) = shard.callers.source(&stream, source).await else {
                return shard.kit.metrics.frontend_refused(CallerRefusal::Preamble);
            };
            let deadline = shard.kit.peers.config.preamble_timeout;
            let hint = shard
                .kit
                .in_time(deadline, stream.is_tls(), shard.hinted_shard(&stream))
                .await;
            let Some(hint) = hint else {
                debug!(peer = %source.address(), "no request in time");
                // The caller has sent no request, so an orderly close loses nothing.
                stream.finish().await;
                shard.kit.metrics.frontend_refused(CallerRefusal::Preamble);
                return;
            };
            if let Some(to) = hint {
                let message = Message::Http {
                    stream: stream.detach(),
                    source,
                    arrived,
                };
                if shard.kit.mail.hand_off(to, message).await {
                    shard.kit.metrics.handed_off(HandoffKind::Frontend);
                } else {
                    shard.kit.metrics.frontend_refused(CallerRefusal::Overload);
                }
                return;
            }
            shard.serve_http(stream, source, arrived).await;
        });
    }

    /// Takes an HTTP frontend that another shard placed here.
    pub(super) fn http_moved_here(
        self: &Rc<Self>,
        stream: Detached,
        source: Source,
        arrived: Arrived,
    ) {
        let shard = Rc::clone(self);
        self.kit
            .tasks
            .spawn(async move { shard.serve_http(stream.attach(), source, arrived).await });
    }

    async fn serve_http(self: &Rc<Self>, stream: Stream, source: Source, arrived: Arrived) {
        let peer = source.address();
        let here = self.callers.count(arrived);
        let gateway = ShardGateway::new(Rc::clone(self), peer.ip());
        let from = http::Peer {
            source,
            https: stream.is_tls(),
        };
        let io = PollStream::new(stream);
        let settings = Rc::clone(&self.callers.http_settings);
        let (io, ended, upgraded) = http::serve(io, gateway, from, settings).await;
        if let Some(upgraded) = upgraded {
            debug!(%peer, "HTTP frontend left HTTP");
            return self.upgraded(io.into_inner(), peer, upgraded, here);
        }
        debug!(%peer, ended = ended.word(), "HTTP frontend ended");
        io.end(ended.is_reset()).await;
    }
}

/// Tells a raw frontend that is turned away why, as far as it can hear that: over WebSocket, and over QUIC on another shard,
/// which `crossing` is told for.
async fn turn_away(stream: Stream, crossing: Option<OpenVerdict>, reason: CallerRefusal) {
    match crossing {
        Some(verdict) => verdict.refuse(reason),
        None => upgrades::turn_away(stream, reason).await,
    }
}
