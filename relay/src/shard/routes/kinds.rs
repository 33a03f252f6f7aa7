//! The tunnels of each kind of application, those with an agent apart from those without.

use std::collections::HashMap;

use indexmap::IndexSet;
use tieline_wire::TunnelId;

/// Every kind that a tunnel was registered as.
#[derive(Default)]
pub(super) struct Kinds(HashMap<String, Kind>);

/// The tunnels of one kind. Any of them is found by its number, and taken out in no time.
#[derive(Default)]
pub(super) struct Kind {
    pub(super) live: IndexSet<TunnelId>,
    pub(super) offline: IndexSet<TunnelId>,
}

impl Kinds {
    pub(super) fn get(&self, kind: &str) -> Option<&Kind> {
        self.0.get(kind)
    }

    /// Notes a tunnel; those of no kind are found by name only.
    pub(super) fn add(&mut self, kind: &str, tunnel: &TunnelId, is_live: bool) {
        if kind.is_empty() {
            return;
        }
        if !self.0.contains_key(kind) {
            self.0.insert(kind.to_owned(), Kind::default());
        }
        if let Some(it) = self.0.get_mut(kind) {
            let (to, from) = match is_live {
                true => (&mut it.live, &mut it.offline),
                false => (&mut it.offline, &mut it.live),
            };
            from.swap_remove(tunnel);
            to.insert(tunnel.clone());
        }
    }

    pub(super) fn remove(&mut self, kind: &str, tunnel: &TunnelId) {
        let Some(it) = self.0.get_mut(kind) else {
            return;
        };
        it.live.swap_remove(tunnel);
        it.offline.swap_remove(tunnel);
        if it.live.is_empty() && it.offline.is_empty() {
            self.0.remove(kind);
        }
    }
}
