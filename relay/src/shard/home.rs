//! What a shard does for the names whose home it is: decides on claims, sends routes to every shard, and answers the
//! claims once every shard has applied them.

use std::rc::Rc;
use std::sync::Arc;

use tieline_wire::{Generation, LinkEnd, Refusal, RefusalReason, TunnelId};
use tokio::sync::oneshot;
use tracing::{debug, info};

use super::Shard;
use super::mail::message::Message;
use crate::directory::{Claim, Decision, Forgotten, ReleaseKind, Released, RouteUpdate};
use crate::metrics::{LimitKind, TunnelDetail};
use crate::registry::LinkRef;

impl Shard {
    /// Step 4 of a registration: decides on a claim.
    pub(super) fn decide_claim(self: &Rc<Self>, claim: Claim) {
        let Claim {
            link,
            request,
            tunnel,
            ..
        } = claim.clone();
        let decision = self.directory.names().claim(claim, self.kit.clock.now());
        self.keep_notes();
        match decision {
            Decision::Refused(refusal) => {
                if refusal.reason == RefusalReason::Limited {
                    self.kit.metrics.limited(LimitKind::Tunnels);
                }
                self.answer_claim(link, request, &tunnel, Err(refusal));
            }
            Decision::Claimed { update, fence } => {
                for old in fence {
                    let fence = Message::Fence {
                        link: old.link,
                        reason: LinkEnd::Superseded,
                    };
                    self.kit.mail.post(old.shard, fence);
                }
                self.broadcast(update);
            }
        }
    }

    /// Releases a name whose link ended or gave it back.
    pub(super) fn name_released(
        self: &Rc<Self>,
        tunnel: &TunnelId,
        link: LinkRef,
        kind: ReleaseKind,
    ) {
        let now = self.kit.clock.now();
        let released = self.directory.names().release(tunnel, link, kind, now);
        self.count_tunnels();
        self.keep_notes();
        self.tell_released(tunnel, link, released, RefusalReason::Cancelled);
    }

    /// Tells every shard that a link no longer serves a name, and answers each open claim of the link, so
    /// that the link's shard can count them down.
    fn tell_released(
        self: &Rc<Self>,
        tunnel: &TunnelId,
        link: LinkRef,
        released: Released,
        reason: RefusalReason,
    ) {
        for request in released.requests {
            let refusal = Refusal::new(reason, format!("{tunnel}: {reason}"));
            self.answer_claim(link, request, tunnel, Err(refusal));
        }
        if let Some(update) = released.update {
            self.broadcast(update);
        }
    }

    fn answer_claim(
        &self,
        link: LinkRef,
        request: u32,
        tunnel: &TunnelId,
        outcome: Result<Generation, Refusal>,
    ) {
        let answer = Message::ClaimAnswered {
            link: link.link,
            request,
            tunnel: tunnel.clone(),
            outcome,
        };
        self.kit.mail.post(link.shard, answer);
    }

    fn broadcast(self: &Rc<Self>, update: RouteUpdate) {
        let update = Arc::new(update);
        for shard in 0..self.kit.mail.shards() {
            self.kit
                .mail
                .post(shard, Message::Route(Arc::clone(&update)));
        }
    }

    /// Step 5 of a registration: a shard has applied a revision. Answers the claims for which it was the last shard.
    pub(super) fn route_applied(self: &Rc<Self>, tunnel: &TunnelId, revision: u64, shard: usize) {
        let confirmed = self.directory.names().confirm(tunnel, revision, shard);
        self.count_tunnels();
        for it in confirmed {
            self.answer_claim(it.link, it.request, tunnel, Ok(it.generation));
        }
    }

    /// Withdraws overdue claims and forgets names that were unused for too long.
    pub(super) fn sweep_names(self: &Rc<Self>) {
        let (withdrawn, forgotten) = self.directory.names().sweep(self.kit.clock.now());
        self.count_tunnels();
        for late in withdrawn {
            let reason = RefusalReason::ClaimTimeout;
            self.tell_released(&late.tunnel, late.link, late.released, reason);
        }
        for update in forgotten {
            debug!(tunnel = %update.tunnel, "name forgotten");
            self.broadcast(update);
        }
        self.keep_notes();
    }

    /// Unbinds a name on an operator's order.
    pub(super) fn forget_name(
        self: &Rc<Self>,
        tunnel: &TunnelId,
        answer: oneshot::Sender<Forgotten>,
    ) {
        let (outcome, update) = self.directory.names().forget(tunnel);
        if let Some(update) = update {
            info!(%tunnel, "name forgotten by order of an operator");
            self.broadcast(update);
        }
        self.keep_notes();
        // The operator may have stopped waiting.
        let _ = answer.send(outcome);
    }

    /// Queues notes about changed names for the state folder.
    fn keep_notes(&self) {
        let dropped = self
            .directory
            .save_notes(|note| self.kit.peers.book.note(note));
        self.kit.metrics.state_dropped.add(dropped as u64);
    }

    /// Updates the tunnels gauge.
    fn count_tunnels(&self) {
        let (before, now) = self.directory.granted_since();
        self.kit.metrics.tunnels.replace(before, now);
    }

    /// One tunnel, and its callers on this shard.
    pub(super) fn detail(&self, tunnel: &TunnelId) -> TunnelDetail {
        let mut detail = self.agents.detail(tunnel);
        // `None` unless this is the name's home shard.
        detail.bound = self.directory.names().bound(tunnel, self.kit.clock.now());
        detail
    }
}
