//! This shard's copy of every route: which links lead to a tunnel, as the tunnel's home decided.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use tieline_wire::TunnelId;

use super::message::RouteUpdate;
use crate::registry::LinkRef;

/// Where a tunnel leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// No such name.
    Unknown,
    /// The name is held, its agent is away.
    Offline,
    /// Through this link.
    Live(LinkRef, Arc<RouteUpdate>),
}

/// Every route that this shard knows.
#[derive(Default)]
pub(crate) struct Routes {
    routes: HashMap<TunnelId, Arc<RouteUpdate>>,
    /// Spreads sessions over several links.
    turn: Cell<usize>,
}

impl Routes {
    /// Takes a decision over, unless a newer one is known.
    pub(crate) fn apply(&mut self, update: Arc<RouteUpdate>) {
        if self
            .routes
            .get(&update.tunnel)
            .is_some_and(|known| known.revision >= update.revision)
        {
            return;
        }
        if update.forget {
            self.routes.remove(&update.tunnel);
        } else {
            self.routes.insert(update.tunnel.clone(), update);
        }
    }

    /// The link to use for a new session of `tunnel`; one on `shard` is preferred.
    pub(crate) fn lookup(&self, tunnel: &TunnelId, shard: usize) -> Lookup {
        let Some(route) = self.routes.get(tunnel) else {
            return Lookup::Unknown;
        };
        let links = &route.links;
        if links.is_empty() {
            return Lookup::Offline;
        }
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let mut in_turn = links
            .iter()
            .cycle()
            .skip(turn % links.len())
            .take(links.len());
        let chosen = *in_turn
            .find(|link| link.shard == shard)
            .unwrap_or_else(|| &links[turn % links.len()]);
        Lookup::Live(chosen, Arc::clone(route))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{LinkId, TunnelInfo};
    use tieline_wire::{Generation, Scheme};

    fn update(revision: u64, links: &[(usize, u64)]) -> Arc<RouteUpdate> {
        Arc::new(RouteUpdate {
            tunnel: TunnelId::parse("maya").unwrap(),
            revision,
            generation: Generation(revision),
            links: links
                .iter()
                .map(|(shard, id)| LinkRef {
                    shard: *shard,
                    link: LinkId(*id),
                })
                .collect(),
            info: Arc::new(TunnelInfo {
                scheme: Scheme::Tcp,
                authority: String::new(),
                base_path: String::new(),
                dcc: String::new(),
                capabilities: Vec::new(),
                ..TunnelInfo::default()
            }),
            forget: false,
        })
    }

    fn link(routes: &Routes, shard: usize) -> Option<(usize, u64)> {
        match routes.lookup(&TunnelId::parse("maya").unwrap(), shard) {
            Lookup::Live(link, _) => Some((link.shard, link.link.0)),
            _ => None,
        }
    }

    #[test]
    fn an_older_decision_never_replaces_a_newer_one() {
        let mut routes = Routes::default();
        routes.apply(update(2, &[(0, 2)]));
        routes.apply(update(1, &[(0, 1)]));
        assert_eq!(link(&routes, 0), Some((0, 2)));
    }

    #[test]
    fn a_name_without_links_is_offline_and_a_forgotten_one_unknown() {
        let mut routes = Routes::default();
        let maya = TunnelId::parse("maya").unwrap();
        assert_eq!(routes.lookup(&maya, 0), Lookup::Unknown);
        routes.apply(update(1, &[]));
        assert_eq!(routes.lookup(&maya, 0), Lookup::Offline);
        let forget = RouteUpdate {
            forget: true,
            ..(*update(2, &[])).clone()
        };
        routes.apply(Arc::new(forget));
        assert_eq!(routes.lookup(&maya, 0), Lookup::Unknown);
    }

    #[test]
    fn a_link_on_the_same_shard_is_preferred_and_several_take_turns() {
        let mut routes = Routes::default();
        routes.apply(update(1, &[(0, 1), (1, 2), (1, 3)]));
        assert_eq!(link(&routes, 0), Some((0, 1)));
        let used: std::collections::BTreeSet<_> = (0..6).map(|_| link(&routes, 1)).collect();
        assert_eq!(used, [Some((1, 2)), Some((1, 3))].into());
    }
}
