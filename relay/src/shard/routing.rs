//! This shard's copy of the routes: a home shard's decision is applied, and callers wait for one whose agent left a
//! moment ago or, right after the relay's start, has yet to reconnect.

use std::rc::Rc;
use std::sync::Arc;

use tieline_wire::{Moment, NoSession, TunnelId};

use super::Shard;
use super::mail::message::Message;
use crate::directory::{RouteUpdate, TunnelSelector, home};
use crate::io::timeout;

impl Shard {
    /// Applies a home shard's decision, and confirms it to that shard.
    pub(super) fn apply_route(self: &Rc<Self>, update: &Arc<RouteUpdate>) {
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
        let has_other_callers = self.directory.routes_mut().apply(Arc::clone(update), now);
        if has_other_callers {
            self.agents.cut_who_lost_access(update);
        }
        self.kit.mail.post(home, applied);
    }

    /// Whether the relay started so recently that agents may still be reconnecting.
    pub(super) fn is_fresh(&self) -> bool {
        self.directory.is_fresh(self.kit.clock.now())
    }

    /// The moment from which a caller that arrived at `began` has the grace of a tunnel without an agent since `since`:
    /// its arrival right after the relay's start, when agents have yet to reconnect, and else the agent's departure.
    pub(super) fn grace_from(&self, since: Moment, began: Moment) -> Moment {
        match self.is_fresh() {
            true => since.max(began),
            false => since,
        }
    }

    /// Waits for the next change of the route that `selector` leads to, whose grace began at `since`. Returns false if
    /// the grace is over, the relay drains, or too many callers wait. Unknown names get a smaller share of the
    /// waiting places, since peers can make up any number of them.
    pub(super) async fn is_changed(
        &self,
        selector: &TunnelSelector,
        since: Moment,
        is_known: bool,
    ) -> bool {
        let end = since + self.kit.peers.config.callers.offline_grace;
        let left = end.saturating_since(self.kit.clock.now());
        if left.is_zero() || self.kit.draining.get() {
            return false;
        }
        let changed = self
            .directory
            .routes_mut()
            .waiting
            .changed(selector, is_known);
        match changed {
            Some(changed) => timeout(left, changed).await.is_ok(),
            None => false,
        }
    }

    /// [`Shard::is_changed`] for a raw caller that arrived at `began` and was refused with `reason`.
    pub(super) async fn is_changed_for(
        &self,
        tunnel: &TunnelId,
        reason: NoSession,
        began: Moment,
    ) -> bool {
        let since = match reason {
            NoSession::TunnelOffline => {
                let since = self.directory.routes().offline_since(tunnel);
                since.map(|since| self.grace_from(since, began))
            }
            NoSession::UnknownTunnel if self.is_fresh() => None,
            _ => return false,
        };
        let selector = TunnelSelector::Tunnel(tunnel.clone());
        let is_known = reason == NoSession::TunnelOffline;
        self.is_changed(&selector, since.unwrap_or(began), is_known)
            .await
    }
}
