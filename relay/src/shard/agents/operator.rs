//! An operator's orders about single tunnels: show, kick and pause.

use std::sync::Arc;

use tieline_wire::{SessionEnd, TunnelId, WithdrawalReason};

use super::super::mail::message::Paused;
use super::Agents;
use crate::metrics::{Cut, TunnelBatch, TunnelDetail};

impl Agents {
    /// A report on some tunnels whose names follow `after`.
    pub(in crate::shard) fn report(&self, after: &str) -> TunnelBatch {
        let registry = self.registry.borrow();
        let mut batch = registry.report(after, self.kit.index, self.kit.clock.now());
        let paused = self.paused.borrow();
        if !paused.is_empty() {
            for row in &mut batch.rows {
                row.paused = paused.contains(row.tunnel_id.as_str());
            }
        }
        batch
    }

    /// One tunnel and its callers on this shard.
    pub(in crate::shard) fn detail(&self, tunnel: &TunnelId) -> TunnelDetail {
        let registry = self.registry.borrow();
        let mut detail = registry.detail(tunnel, self.kit.index, self.kit.clock.now());
        if let Some(row) = &mut detail.row {
            row.paused = self.is_paused(tunnel);
        }
        detail
    }

    /// Whether the tunnel's callers are turned away.
    pub(in crate::shard) fn is_paused(&self, tunnel: &TunnelId) -> bool {
        self.paused.borrow().contains(tunnel)
    }

    /// Withdraws a tunnel from the links that serve it, with its sessions; its agents may register it again.
    pub(in crate::shard) fn kick(&self, tunnel: &TunnelId) -> Cut {
        let registry = self.registry.borrow();
        let links = registry.links_of(tunnel);
        let links = links.filter(|(_, link)| link.mux.closing().is_none());
        let links: Vec<_> = links.map(|(id, _)| id).collect();
        drop(registry);
        let kicked = |link| self.withdraw(link, tunnel, WithdrawalReason::Kicked, None);
        let cuts = links.into_iter().filter_map(kicked);
        cuts.map(|sessions| Cut { links: 1, sessions })
            .fold(Cut::default(), Cut::and)
    }

    /// Replaces the set of paused tunnels, and resets the sessions of those that are newly paused.
    pub(in crate::shard) fn pause(&self, paused: Arc<Paused>) -> Cut {
        let before = self.paused.replace(Arc::clone(&paused));
        let new = paused.iter().filter(|tunnel| !before.contains(*tunnel));
        new.map(|tunnel| self.cut(tunnel, SessionEnd::TunnelPaused))
            .fold(Cut::default(), Cut::and)
    }

    fn cut(&self, tunnel: &TunnelId, reason: SessionEnd) -> Cut {
        let registry = self.registry.borrow();
        let mut sessions = 0;
        for (_, link) in registry.links_of(tunnel) {
            if let Some(it) = link.tunnels().get(tunnel) {
                sessions += link.mux.cut(&it.sessions, reason);
            }
        }
        Cut { links: 0, sessions }
    }
}
