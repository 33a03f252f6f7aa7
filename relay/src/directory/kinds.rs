//! The tunnels of each kind of application, live and offline, also grouped by owner for callers that may not reach all
//! of them.

use std::collections::HashMap;

use indexmap::IndexSet;
use tieline_wire::TunnelId;

use super::route::RouteUpdate;
use crate::auth::{Identity, Owner};

/// Key of a group of tunnels by their owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum OwnerGroup {
    Anybody,
    Holder(String),
    Group(String),
}

impl OwnerGroup {
    /// The groups that contain every tunnel the caller may reach, and possibly others; all tunnels for an anonymous
    /// caller.
    pub(crate) fn of_caller(identity: Option<&Identity>) -> Vec<Self> {
        match identity {
            Some(identity) if identity.reach.is_empty() => {
                Self::close_to(&identity.owner).collect()
            }
            // A token with patterns may reach tunnels of any owner.
            _ => vec![Self::Anybody],
        }
    }

    fn close_to(owner: &Owner) -> impl Iterator<Item = Self> {
        let groups = owner.groups.iter().cloned().map(Self::Group);
        std::iter::once(Self::Holder(owner.sub.clone())).chain(groups)
    }

    /// The groups that a tunnel belongs to.
    fn of_tunnel(update: &RouteUpdate) -> Vec<Self> {
        let mut all = vec![Self::Anybody];
        let infos = update.agents.iter().map(|agent| &agent.info);
        for owner in infos
            .chain([&update.info])
            .filter_map(|it| it.owner.as_deref())
        {
            for whose in Self::close_to(owner) {
                if !all.contains(&whose) {
                    all.push(whose);
                }
            }
        }
        all
    }
}

/// The tunnels of every kind of application.
#[derive(Default)]
pub(super) struct Kinds(HashMap<String, HashMap<OwnerGroup, Kind>>);

/// Tunnels of one kind: indexed by number, removed in constant time.
#[derive(Default)]
pub(super) struct Kind {
    pub(super) live: IndexSet<TunnelId>,
    pub(super) offline: IndexSet<TunnelId>,
}

impl Kinds {
    /// The groups `whose` of the tunnels of a kind; a tunnel may be in several.
    pub(super) fn get(&self, kind: &str, whose: &[OwnerGroup]) -> Vec<&Kind> {
        let Some(it) = self.0.get(kind) else {
            return Vec::new();
        };
        whose.iter().filter_map(|whose| it.get(whose)).collect()
    }

    /// Applies a change of a route. A tunnel without a kind is found by name only.
    pub(super) fn change(&mut self, before: Option<&RouteUpdate>, now: Option<&RouteUpdate>) {
        let places =
            |update: &RouteUpdate| (update.info.dcc.clone(), OwnerGroup::of_tunnel(update));
        let (left, taken) = (before.map(places), now.map(places));
        if let Some(before) = before
            && left != taken
        {
            self.remove(before);
        }
        if let (Some(now), Some((kind, whose))) = (now, taken)
            && !kind.is_empty()
        {
            let it = self.0.entry(kind).or_default();
            for whose in whose {
                it.entry(whose).or_default().put(now);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn remove(&mut self, update: &RouteUpdate) {
        let kind = &update.info.dcc;
        let Some(it) = self.0.get_mut(kind) else {
            return;
        };
        for whose in OwnerGroup::of_tunnel(update) {
            if let Some(some) = it.get_mut(&whose) {
                some.live.swap_remove(&update.tunnel);
                some.offline.swap_remove(&update.tunnel);
                if some.live.is_empty() && some.offline.is_empty() {
                    it.remove(&whose);
                }
            }
        }
        if it.is_empty() {
            self.0.remove(kind);
        }
    }
}

impl Kind {
    fn put(&mut self, update: &RouteUpdate) {
        let (to, from) = match update.agents.is_empty() {
            true => (&mut self.offline, &mut self.live),
            false => (&mut self.live, &mut self.offline),
        };
        from.swap_remove(&update.tunnel);
        to.insert(update.tunnel.clone());
    }
}
