//! Withdrawal of a single tunnel while its link goes on with the others, and the end of sessions whose callers lost
//! access.

use std::rc::Rc;

use tieline_wire::{Refusal, SessionEnd, TunnelId, Withdrawal, WithdrawalReason};
use tracing::info;

use super::Agents;
use crate::auth::may_reach;
use crate::directory::{ReleaseKind, RouteUpdate};
use crate::metrics::FrontendKind;
use crate::registry::{AgentTag, LinkId};
use crate::session::SessionCaller;

impl Agents {
    /// Takes a tunnel from a link: resets its sessions, releases its name at the home shard, and tells the agent the
    /// reason, with `message` or a standard message. Returns the number of sessions that were reset, or `None` if the
    /// link has no such tunnel.
    pub(super) fn withdraw(
        &self,
        link: LinkId,
        tunnel: &TunnelId,
        reason: WithdrawalReason,
        message: Option<String>,
    ) -> Option<usize> {
        let registry = self.registry.borrow();
        let entry = registry.link(link)?;
        let mux = Rc::clone(&entry.mux);
        let granted = entry.tunnels().get(tunnel)?.granted;
        if granted.is_some() {
            self.note_withdrawn(entry, tunnel, reason);
        }
        drop(registry);
        let it = self.registry.borrow_mut().remove_tunnel(link, tunnel)?;
        let sessions = mux.cut(&it.sessions, reason.into());
        // A registration without a grant gets its answer from the home shard's decision on the claim.
        if let Some(grant) = granted {
            self.kit.metrics.tunnel_withdrawn(reason);
            if self.may_log() {
                info!(%tunnel, link = link.0, reason = reason.word(), "tunnel withdrawn");
            }
            let message = message.unwrap_or_else(|| reason.to_string());
            let withdrawal = Withdrawal {
                request: grant.request,
                tunnel: tunnel.clone(),
                refusal: Refusal::new(reason.into(), message),
            };
            mux.with_mux(|mux| mux.withdraw(&withdrawal));
        }
        let kind = match reason {
            WithdrawalReason::AuthChanged => ReleaseKind::HolderChanged,
            WithdrawalReason::Revoked
            | WithdrawalReason::TokenExpired
            | WithdrawalReason::AuthUnavailable
            | WithdrawalReason::Kicked => ReleaseKind::Away,
        };
        self.release(tunnel.clone(), link, kind);
        Some(sessions)
    }

    /// Resets the sessions of callers that may no longer reach an agent of the name, or not in the way
    /// they came. The callers open no new session, since every shard applies the same route.
    pub(in crate::shard) fn cut_who_lost_access(&self, update: &RouteUpdate) {
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
                let is_raw = caller.kind != FrontendKind::Http;
                is_stranger || !is_of_kind || (is_raw && !info.is_open_to_raw())
            };
            for sessions in link.sessions_of(tunnel) {
                link.mux
                    .cut_those(sessions, SessionEnd::AuthChanged, is_out);
            }
        }
    }
}
