//! Withdrawal of a single tunnel, while its link goes on with the others.

use std::rc::Rc;

use tieline_wire::{Refusal, TunnelId, Withdrawal, WithdrawalReason};
use tracing::info;

use super::Shard;
use crate::directory::ReleaseKind;
use crate::registry::{LinkId, LinkRef};

impl Shard {
    /// Takes a tunnel from a link: resets its sessions, releases its name at the home shard, and tells the agent the
    /// reason, with `message` or a standard message. Returns the number of sessions that were reset, or `None` if the link has no such tunnel.
    pub(super) fn withdraw(
        self: &Rc<Self>,
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
        let sessions = mux.cut(&it.held, reason.into());
        // A registration without a grant gets its answer from the home shard's decision on the claim.
        if let Some(grant) = granted {
            self.kit.metrics.tunnel_withdrawn(reason);
            if self.may_log() {
                info!(%tunnel, link = link.0, reason = reason.word(), "tunnel withdrawn");
            }
            let withdrawal = Withdrawal {
                request: grant.request,
                tunnel: tunnel.clone(),
                refusal: Refusal {
                    reason: reason.into(),
                    message: message.unwrap_or_else(|| reason.to_string()),
                },
            };
            mux.with_mux(|mux| mux.withdraw(&withdrawal));
        }
        let shard = self.kit.index;
        let kind = match reason {
            WithdrawalReason::AuthChanged => ReleaseKind::HolderChanged,
            WithdrawalReason::Revoked
            | WithdrawalReason::TokenExpired
            | WithdrawalReason::AuthUnavailable
            | WithdrawalReason::Kicked => ReleaseKind::Away,
        };
        self.release(tunnel.clone(), LinkRef { shard, link }, kind);
        Some(sessions)
    }

    /// Withdraws tunnels whose permissions have expired.
    pub(super) fn withdraw_expired(self: &Rc<Self>, expired: Vec<(LinkId, TunnelId)>) {
        for (link, tunnel) in expired {
            self.withdraw(link, &tunnel, WithdrawalReason::TokenExpired, None);
        }
    }
}
