//! Messages about a name: its home shard decides, every shard applies the route, the link's shard answers the agent.

use std::rc::Rc;
use std::sync::Arc;

use tieline_wire::{Generation, Granted, Reason, Refusal, RegisterAck, TunnelId, Withdrawal};
use tokio::sync::oneshot;
use tracing::{debug, info};

use super::Shard;
use super::admission::refusal;
use super::kit::Kit;
use super::mail::message::Message;
use crate::auth::may_reach;
use crate::directory::{Claim, Decision, Forgotten, ReleaseKind, Released, RouteUpdate, home};
use crate::metrics::{FrontendKind, LimitKind};
use crate::registry::{AgentTag, Grant, LinkRef};
use crate::session::SessionCaller;

/// Notes that one shard keeps while the disk takes none: some 100 MiB.
const UNSAVED_MAX: usize = 256 * 1024;

impl Shard {
    /// Sends a claim to the name's home shard.
    pub(super) fn claim(self: &Rc<Self>, claim: Claim) {
        let home = home(&claim.tunnel, self.kit.mail.shards());
        self.kit.mail.post(home, Message::Claim(Box::new(claim)));
    }

    /// Tells a name's home shard that a link no longer serves the name.
    pub(super) fn release(self: &Rc<Self>, tunnel: TunnelId, link: LinkRef, kind: ReleaseKind) {
        let home = home(&tunnel, self.kit.mail.shards());
        let release = Message::Release { tunnel, link, kind };
        self.kit.mail.post(home, release);
    }

    /// Home shard: decides on a claim.
    pub(super) fn decide(self: &Rc<Self>, claim: Claim) {
        let Claim {
            link,
            request,
            tunnel,
            ..
        } = claim.clone();
        let decision = self.names.borrow_mut().claim(claim, self.kit.clock.now());
        self.keep_notes();
        match decision {
            Decision::Refused(refusal) => {
                if refusal.reason == Reason::Limited {
                    self.kit.metrics.limited(LimitKind::Tunnels);
                }
                let refused = Message::ClaimRefused {
                    link,
                    request,
                    tunnel,
                    refusal,
                };
                self.kit.mail.post(link.shard, refused);
            }
            Decision::Claimed { update, fence } => {
                for old in fence {
                    let fence = Message::Fence {
                        link: old,
                        reason: Reason::Superseded,
                    };
                    self.kit.mail.post(old.shard, fence);
                }
                self.broadcast(update);
            }
        }
    }

    /// Home shard: a link ended, or gave the name back.
    pub(super) fn name_released(
        self: &Rc<Self>,
        tunnel: &TunnelId,
        link: LinkRef,
        kind: ReleaseKind,
    ) {
        let mut names = self.names.borrow_mut();
        let released = names.release(tunnel, link, kind, self.kit.clock.now());
        drop(names);
        self.count_tunnels();
        self.keep_notes();
        self.tell_released(tunnel, link, released, Reason::Cancelled);
    }

    /// Home shard: tells every shard that a link no longer serves a name, and answers each open claim of the link, so
    /// that the link's shard can count them down.
    fn tell_released(
        self: &Rc<Self>,
        tunnel: &TunnelId,
        link: LinkRef,
        released: Released,
        reason: Reason,
    ) {
        for request in released.requests {
            let message = format!("{tunnel}: {reason}");
            let refused = Message::ClaimRefused {
                link,
                request,
                tunnel: tunnel.clone(),
                refusal: Refusal { reason, message },
            };
            self.kit.mail.post(link.shard, refused);
        }
        if let Some(update) = released.update {
            self.broadcast(update);
        }
    }

    fn broadcast(self: &Rc<Self>, update: RouteUpdate) {
        let update = Arc::new(update);
        for shard in 0..self.kit.mail.shards() {
            self.kit
                .mail
                .post(shard, Message::Route(Arc::clone(&update)));
        }
    }

    /// Every shard: applies a home shard's decision.
    pub(super) fn route_decided(self: &Rc<Self>, update: &Arc<RouteUpdate>) {
        let RouteUpdate {
            tunnel, revision, ..
        } = &**update;
        let applied = Message::RouteApplied {
            tunnel: tunnel.clone(),
            revision: *revision,
            shard: self.kit.index,
        };
        let home = home(tunnel, self.kit.mail.shards());
        self.kit.metrics.route_updates.inc();
        let now = self.kit.clock.now();
        let has_other_callers = self.routes.borrow_mut().apply(Arc::clone(update), now);
        if has_other_callers {
            self.cut_who_lost_access(update);
        }
        self.kit.mail.post(home, applied);
    }

    /// Every shard: resets the sessions of callers that may no longer reach an agent of the name, or not in the way
    /// they came. The callers open no new session, since every shard applies the same route.
    fn cut_who_lost_access(&self, update: &RouteUpdate) {
        let tunnel = &update.tunnel;
        let registry = self.registry.borrow();
        for (_, link) in registry.links_of(tunnel) {
            let Some(hello) = &link.agent else { continue };
            let tag = AgentTag::of(&hello.key, &hello.machine);
            let mut agents = update.agents.iter();
            let Some(agent) = agents.find(|agent| agent.tag == tag) else {
                continue;
            };
            let info = &*agent.info;
            let is_out = |caller: &SessionCaller| {
                let identity = caller.identity.as_deref();
                let owner = info.owner.as_deref();
                let is_stranger = identity.is_some_and(|it| !may_reach(it, tunnel, owner));
                let is_of_kind = caller.dcc.as_ref().is_none_or(|dcc| **dcc == *info.dcc);
                let is_raw = caller.kind == FrontendKind::Tcp;
                is_stranger || !is_of_kind || (is_raw && !info.is_open_to_raw())
            };
            for held in link.held(tunnel) {
                link.mux.cut_those(held, Reason::AuthChanged, is_out);
            }
        }
    }

    /// Home shard: a shard has applied a revision.
    pub(super) fn route_confirmed(self: &Rc<Self>, tunnel: &TunnelId, revision: u64, shard: usize) {
        let confirmed = self.names.borrow_mut().confirm(tunnel, revision, shard);
        self.count_tunnels();
        for it in confirmed {
            let claimed = Message::Claimed {
                link: it.link,
                request: it.request,
                tunnel: tunnel.clone(),
                generation: it.generation,
            };
            self.kit.mail.post(it.link.shard, claimed);
        }
    }

    /// Home shard: withdraws overdue claims and forgets names that were unused for too long.
    pub(super) fn sweep_names(self: &Rc<Self>) {
        let (withdrawn, forgotten) = self.names.borrow_mut().sweep(self.kit.clock.now());
        self.count_tunnels();
        for late in withdrawn {
            let reason = Reason::ClaimTimeout;
            self.tell_released(&late.tunnel, late.link, late.released, reason);
        }
        for update in forgotten {
            debug!(tunnel = %update.tunnel, "name forgotten");
            self.broadcast(update);
        }
        self.keep_notes();
    }

    /// Home shard: unbinds a name on an operator's order.
    pub(super) fn forget_name(
        self: &Rc<Self>,
        tunnel: &TunnelId,
        answer: oneshot::Sender<Forgotten>,
    ) {
        let (outcome, update) = self.names.borrow_mut().forget(tunnel);
        if let Some(update) = update {
            info!(%tunnel, "name forgotten by order of an operator");
            self.broadcast(update);
        }
        self.keep_notes();
        // The operator may have stopped waiting.
        let _ = answer.send(outcome);
    }

    /// Home shard: queues notes about changed names for the state folder. While the queue is full, the notes wait
    /// here for the next call, the latest note of each name only.
    fn keep_notes(&self) {
        let notes = self.names.borrow_mut().take_notes();
        let mut unsaved = self.unsaved.borrow_mut();
        for note in notes.into_iter().map(Box::new) {
            match unsaved.get_mut(note.tunnel()) {
                Some(waiting) => *waiting = note,
                None => drop(unsaved.insert(note.tunnel().clone(), note)),
            }
        }
        while let Some((_, note)) = unsaved.pop() {
            if let Err(back) = self.kit.peers.book.note(note) {
                unsaved.insert(back.tunnel().clone(), back);
                break;
            }
        }
        let too_many = unsaved.len().saturating_sub(UNSAVED_MAX);
        unsaved.truncate(UNSAVED_MAX);
        self.kit.metrics.state_dropped.add(too_many as u64);
    }

    /// Home shard: updates the tunnels gauge.
    fn count_tunnels(&self) {
        let now = self.names.borrow().granted();
        let before = self.counted_tunnels.replace(now);
        self.kit.metrics.tunnels.replace(before, now);
    }

    /// The link's shard: acknowledges a registration whose name every shard routes to.
    pub(super) fn claim_granted(
        self: &Rc<Self>,
        link: LinkRef,
        request: u32,
        tunnel: TunnelId,
        generation: Generation,
    ) {
        let now = self.kit.clock.now();
        let mut registry = self.registry.borrow_mut();
        let known = registry.link_mut(link.link).map(|entry| {
            entry.claims = entry.claims.saturating_sub(1);
            let mux = Rc::clone(&entry.mux);
            let dialled = entry.agent.as_ref().map(|it| it.relay_name.clone());
            (entry.tunnel_mut(&tunnel), mux, dialled)
        });
        let (it, mux, dialled) = match known {
            Some((Some(it), mux, dialled)) => (it, mux, dialled),
            gone => {
                let mux = gone.map(|(_, mux, _)| mux);
                drop(registry);
                // The link ended, or lost the tunnel; the home shard must stop routing to it.
                self.release(tunnel, link, ReleaseKind::Away);
                if let Some(mux) = mux {
                    let outcome = Err(refusal(Reason::Cancelled));
                    mux.with_mux(|mux| mux.register_ack(&RegisterAck { request, outcome }));
                }
                return;
            }
        };
        let first = it.granted.is_none();
        it.grant(Grant {
            request,
            generation,
            since: it.granted.map_or(now, |before| before.since),
        });
        let base_path = it.info.base_path.clone();
        let expires_in_s = it.expires_in_s(Kit::seconds_since_1970());
        drop(registry);
        if first {
            self.note_registered(link.link, &tunnel);
        }
        if first && self.may_log() {
            info!(%tunnel, link = link.link.0, generation = generation.0, "tunnel registered");
        }
        let public = &self.kit.peers.public_urls;
        let urls = public.of_tunnel(&tunnel, &base_path, dialled.as_deref());
        let heartbeat = self.kit.peers.config.stale_timeout / 3;
        let granted = Granted {
            tunnel,
            urls,
            generation,
            heartbeat_ms: u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX),
            expires_in_s,
        };
        mux.with_mux(|mux| {
            mux.register_ack(&RegisterAck {
                request,
                outcome: Ok(granted),
            })
        });
    }

    /// The link's shard: refuses a registration whose claim the home shard refused.
    pub(super) fn claim_refused(
        self: &Rc<Self>,
        link: LinkRef,
        request: u32,
        tunnel: &TunnelId,
        refusal: Refusal,
    ) {
        let reason = refusal.reason;
        self.note_unregistered(link.link, Some(tunnel), reason);
        let mut registry = self.registry.borrow_mut();
        let Some(entry) = registry.link_mut(link.link) else {
            return;
        };
        entry.claims = entry.claims.saturating_sub(1);
        let mux = Rc::clone(&entry.mux);
        // The claim of a later registration may still be granted, and needs the entry.
        let latest = entry.tunnels().get(tunnel).map(|it| it.request);
        // A refused token of another holder does not affect the link's hold on the name. Any other refusal means
        // that the home shard no longer routes to the link, or that the link's own permission changed.
        let may_stay = matches!(reason, Reason::NameTaken | Reason::NameBound);
        let stays = (may_stay || latest != Some(request)) && entry.refuse(tunnel, request);
        let lost = match stays {
            true => None,
            false => registry.remove_tunnel(link.link, tunnel),
        };
        drop(registry);
        let mut withdrawal = None;
        if let Some((it, grant)) = lost.and_then(|it| it.granted.map(|grant| (it, grant))) {
            // The earlier grant is not renewed: the home shard must stop routing to the link, and the tunnel's sessions
            // would be beyond the reach of operators and revocations.
            mux.cut(&it.held, reason);
            self.release(tunnel.clone(), link, ReleaseKind::Away);
            // After this kind of refusal alone the agent would assume that it keeps the earlier grant.
            withdrawal = may_stay.then(|| Withdrawal {
                request: grant.request,
                tunnel: tunnel.clone(),
                refusal: refusal.clone(),
            });
        }
        self.kit.metrics.registration_refused(reason);
        if self.may_log() {
            info!(%tunnel, link = link.link.0, reason = reason.word(), "tunnel refused");
        }
        let outcome = Err(refusal);
        mux.with_mux(|mux| {
            mux.register_ack(&RegisterAck { request, outcome });
            if let Some(withdrawal) = withdrawal {
                mux.withdraw(&withdrawal);
            }
        });
    }

    /// The link's shard: ends a link whose names another instance holds now.
    pub(super) fn fence(&self, link: LinkRef, reason: Reason) {
        let registry = self.registry.borrow();
        // A link that is closing already keeps its first reason.
        if let Some(entry) = registry.link(link.link)
            && entry.mux.closing().is_none()
        {
            entry.mux.close(reason);
        }
    }
}
