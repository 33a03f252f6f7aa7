//! Callers that wait for an agent: one that left a moment ago or, right after the relay's start, one that has yet to
//! reconnect.

use tieline_wire::{Moment, Reason, TunnelId};

use super::Shard;
use crate::directory::{Query, Resolved, TunnelSelector};
use crate::io::timeout;

impl Shard {
    /// Whether the relay started so recently that agents may still be reconnecting.
    pub(super) fn is_fresh(&self) -> bool {
        self.kit.clock.now() < self.started + self.kit.peers.config.http.start_grace
    }

    /// Waits for the next change of the route that `selector` leads to, which has had no agent since `since`. Returns false
    /// if the grace is over, the relay drains, or too many callers wait. Unknown names get a smaller share of the
    /// waiting places, since peers can make up any number of them.
    pub(super) async fn is_changed(
        &self,
        selector: &TunnelSelector,
        since: Moment,
        is_known: bool,
    ) -> bool {
        let end = since + self.kit.peers.config.http.offline_grace;
        let left = end.saturating_since(self.kit.clock.now());
        if left.is_zero() || self.kit.draining.get() {
            return false;
        }
        let changed = self.routes.borrow_mut().changed(selector, is_known);
        match changed {
            Some(changed) => timeout(left, changed).await.is_ok(),
            None => false,
        }
    }

    /// [`Shard::is_changed`] for a raw caller that arrived at `began` and was refused with `reason`.
    pub(super) async fn is_changed_for(
        &self,
        tunnel: &TunnelId,
        reason: Reason,
        began: Moment,
    ) -> bool {
        let since = match reason {
            Reason::TunnelOffline => self.routes.borrow().offline_since(tunnel),
            Reason::UnknownTunnel if self.is_fresh() => None,
            _ => return false,
        };
        let selector = TunnelSelector::Tunnel(tunnel.clone());
        let is_known = reason == Reason::TunnelOffline;
        self.is_changed(&selector, since.unwrap_or(began), is_known)
            .await
    }

    /// Whether `anything`, a query that includes paused tunnels, finds a tunnel where the caller's query found none.
    pub(super) fn is_paused_for(&self, anything: &Query<'_>) -> bool {
        !matches!(self.routes.borrow().resolve(anything), Resolved::Unknown)
    }
}
