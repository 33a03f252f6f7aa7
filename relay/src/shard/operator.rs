//! What an operator wants of single tunnels: to see them, to end them, to turn their callers away.

use std::collections::HashSet;
use std::sync::Arc;

use tieline_wire::{Reason, TunnelId};

use super::Shard;
use crate::metrics::{Cut, TunnelBatch, TunnelDetail};

/// Tunnels that callers are turned away from.
pub(crate) type Paused = HashSet<TunnelId>;

impl Shard {
    /// Some tunnels behind a name.
    pub(super) fn report(&self, after: &str) -> TunnelBatch {
        let registry = self.registry.borrow();
        let mut batch = registry.report(after, self.index, self.clock.now());
        let paused = self.paused.borrow();
        if !paused.is_empty() {
            for row in &mut batch.rows {
                row.paused = paused.contains(row.tunnel_id.as_str());
            }
        }
        batch
    }

    /// One tunnel and its callers.
    pub(super) fn detail(&self, tunnel: &TunnelId) -> TunnelDetail {
        let registry = self.registry.borrow();
        let mut detail = registry.detail(tunnel, self.index, self.clock.now());
        if let Some(row) = &mut detail.row {
            row.paused = self.is_paused(tunnel);
        }
        detail
    }

    /// Whether callers of a tunnel are turned away.
    pub(super) fn is_paused(&self, tunnel: &TunnelId) -> bool {
        self.paused.borrow().contains(tunnel)
    }

    /// Ends a tunnel's sessions, and the links that serve it, whatever else they serve: an agent
    /// cannot be told that it lost one of its tunnels, and would not ask for it again.
    pub(super) fn kick(&self, tunnel: &TunnelId) -> Cut {
        let cut = self.cut(tunnel, Reason::Kicked);
        let registry = self.registry.borrow();
        let mut links = 0;
        for link in registry.links_of(tunnel) {
            if link.mux.closing().is_none() {
                link.mux.close(Reason::Kicked);
                links += 1;
            }
        }
        Cut { links, ..cut }
    }

    /// From now on callers of these tunnels are turned away, and of no others; ends what they have.
    pub(super) fn pause(&self, paused: Arc<Paused>) -> Cut {
        let before = self.paused.replace(Arc::clone(&paused));
        let new = paused.iter().filter(|tunnel| !before.contains(*tunnel));
        new.map(|tunnel| self.cut(tunnel, Reason::TunnelPaused))
            .fold(Cut::default(), Cut::and)
    }

    fn cut(&self, tunnel: &TunnelId, reason: Reason) -> Cut {
        let registry = self.registry.borrow();
        let mut sessions = 0;
        for link in registry.links_of(tunnel) {
            if let Some(it) = link.tunnels().get(tunnel) {
                sessions += link.mux.cut(&it.held, reason);
            }
        }
        Cut { links: 0, sessions }
    }
}
