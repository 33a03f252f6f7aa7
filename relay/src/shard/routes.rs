//! This shard's copy of every route: which links lead to a tunnel, as the tunnel's home decided.

use std::cell::{Cell, OnceCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tieline_wire::{Moment, Scheme, TunnelId};
use tokio::sync::oneshot;

use super::message::RouteUpdate;
use crate::auth::Owner;
use crate::listen::http::Target;
use crate::registry::LinkRef;

/// Requests of one shard that may wait for a route to change.
const WAITING_MAX: usize = 16 * 1024;

/// Where a tunnel leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// No such name.
    Unknown,
    /// The name is held, its agent is away.
    Offline,
    /// Through this link.
    Live(LinkRef),
}

/// Every route that this shard knows.
#[derive(Default)]
pub(crate) struct Routes {
    routes: HashMap<TunnelId, Known>,
    /// Spreads sessions over several links.
    turn: Cell<usize>,
    /// Who wants to hear of a route's next change.
    waiting: HashMap<TunnelId, Vec<oneshot::Sender<()>>>,
    waiting_count: usize,
}

/// A route, and what this shard makes of it.
struct Known {
    update: Arc<RouteUpdate>,
    /// Made when the first HTTP caller asks for it.
    target: OnceCell<Option<Rc<Target>>>,
    /// Since when there is no link.
    offline_since: Option<Moment>,
}

/// What an HTTP caller finds.
pub(crate) enum Found {
    Unknown,
    /// No agent serves it, since then.
    Offline(Moment),
    /// An agent serves it, whose description of its target is of no use.
    Unusable,
    Target(Rc<Target>),
}

impl Routes {
    /// Takes a decision over, unless a newer one is known.
    pub(crate) fn apply(&mut self, update: Arc<RouteUpdate>, now: Moment) {
        let known = self.routes.get(&update.tunnel);
        if known.is_some_and(|known| known.update.revision >= update.revision) {
            return;
        }
        if let Some(waiting) = self.waiting.remove(&update.tunnel) {
            self.waiting_count -= waiting.len();
            for one in waiting {
                // Whoever waited may have left.
                let _ = one.send(());
            }
        }
        if update.forget {
            self.routes.remove(&update.tunnel);
            return;
        }
        let since = known.and_then(|known| known.offline_since);
        let offline_since = update.links.is_empty().then(|| since.unwrap_or(now));
        let tunnel = update.tunnel.clone();
        let known = Known {
            update,
            target: OnceCell::new(),
            offline_since,
        };
        self.routes.insert(tunnel, known);
    }

    /// The link to use for a new session of `tunnel`; one on `shard` is preferred.
    pub(crate) fn lookup(&self, tunnel: &TunnelId, shard: usize) -> Lookup {
        let Some(route) = self.routes.get(tunnel).map(|known| &known.update) else {
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
        Lookup::Live(chosen)
    }

    /// The target of `tunnel`.
    pub(crate) fn find(&self, tunnel: &TunnelId) -> Found {
        let Some(known) = self.routes.get(tunnel) else {
            return Found::Unknown;
        };
        if let Some(since) = known.offline_since {
            return Found::Offline(since);
        }
        let target = known.target.get_or_init(|| {
            let update = &known.update;
            Target::new(&update.info, update.generation, update.revision).map(Rc::new)
        });
        match target {
            Some(target) => Found::Target(Rc::clone(target)),
            None => Found::Unusable,
        }
    }

    /// Whether raw callers may have `tunnel`: its target is no HTTP server, or one whose every path
    /// callers may use. What they would send is theirs alone to say.
    pub(crate) fn is_open_to_raw(&self, tunnel: &TunnelId) -> bool {
        self.routes.get(tunnel).is_none_or(|known| {
            let info = &known.update.info;
            info.scheme == Scheme::Tcp || info.base_path.is_empty() || info.expose_all
        })
    }

    /// Whose `tunnel` is, if it is anybody's.
    pub(crate) fn owner(&self, tunnel: &TunnelId) -> Option<&Owner> {
        self.routes.get(tunnel)?.update.info.owner.as_deref()
    }

    /// The kind of application behind `tunnel`, if there is such a tunnel.
    pub(crate) fn dcc(&self, tunnel: &TunnelId) -> Option<&str> {
        self.routes
            .get(tunnel)
            .map(|known| known.update.info.dcc.as_str())
    }

    /// Ready at the next change of a route; `None` if too many wait already.
    pub(crate) fn changed(&mut self, tunnel: &TunnelId) -> Option<oneshot::Receiver<()>> {
        if self.waiting_count >= WAITING_MAX {
            self.forget_who_left();
            if self.waiting_count >= WAITING_MAX {
                return None;
            }
        }
        let (sender, receiver) = oneshot::channel();
        self.waiting.entry(tunnel.clone()).or_default().push(sender);
        self.waiting_count += 1;
        Some(receiver)
    }

    fn forget_who_left(&mut self) {
        self.waiting.retain(|_, waiting| {
            waiting.retain(|one| !one.is_closed());
            !waiting.is_empty()
        });
        self.waiting_count = self.waiting.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{LinkId, TunnelInfo};
    use tieline_wire::Generation;

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

    const NOW: Moment = Moment::from_micros(0);

    fn link(routes: &Routes, shard: usize) -> Option<(usize, u64)> {
        match routes.lookup(&TunnelId::parse("maya").unwrap(), shard) {
            Lookup::Live(link) => Some((link.shard, link.link.0)),
            _ => None,
        }
    }

    #[test]
    fn an_older_decision_never_replaces_a_newer_one() {
        let mut routes = Routes::default();
        routes.apply(update(2, &[(0, 2)]), NOW);
        routes.apply(update(1, &[(0, 1)]), NOW);
        assert_eq!(link(&routes, 0), Some((0, 2)));
    }

    #[test]
    fn a_name_without_links_is_offline_and_a_forgotten_one_unknown() {
        let mut routes = Routes::default();
        let maya = TunnelId::parse("maya").unwrap();
        assert_eq!(routes.lookup(&maya, 0), Lookup::Unknown);
        routes.apply(update(1, &[]), NOW);
        assert_eq!(routes.lookup(&maya, 0), Lookup::Offline);
        let forget = RouteUpdate {
            forget: true,
            ..(*update(2, &[])).clone()
        };
        routes.apply(Arc::new(forget), NOW);
        assert_eq!(routes.lookup(&maya, 0), Lookup::Unknown);
    }

    #[test]
    fn a_change_wakes_who_waits_for_it_and_nobody_else() {
        let mut routes = Routes::default();
        routes.apply(update(1, &[]), NOW);
        let maya = TunnelId::parse("maya").unwrap();
        let mut maya = routes.changed(&maya).unwrap();
        let mut other = routes.changed(&TunnelId::parse("other").unwrap()).unwrap();
        routes.apply(update(1, &[(0, 1)]), NOW);
        assert!(maya.try_recv().is_err(), "that is no change");
        routes.apply(update(2, &[(0, 1)]), NOW);
        assert!(maya.try_recv().is_ok());
        assert!(other.try_recv().is_err());
        assert_eq!(routes.waiting_count, 1);
    }

    #[test]
    fn who_waits_is_bounded_and_who_left_does_not_count() {
        let mut routes = Routes::default();
        let maya = TunnelId::parse("maya").unwrap();
        let mut waiting: Vec<_> = (0..WAITING_MAX)
            .map(|_| routes.changed(&maya).unwrap())
            .collect();
        assert!(routes.changed(&maya).is_none());
        waiting.pop();
        assert!(routes.changed(&maya).is_some());
    }

    #[test]
    fn a_name_is_offline_since_its_last_link_left() {
        let mut routes = Routes::default();
        let maya = TunnelId::parse("maya").unwrap();
        let at = Moment::from_micros;
        routes.apply(update(1, &[(0, 1)]), at(1));
        assert!(
            matches!(routes.find(&maya), Found::Unusable),
            "it has no authority"
        );
        routes.apply(update(2, &[]), at(2));
        routes.apply(update(3, &[]), at(3));
        let Found::Offline(since) = routes.find(&maya) else {
            panic!("it is offline")
        };
        assert_eq!(since, at(2));
        assert_eq!(routes.dcc(&maya), Some(""));
    }

    #[test]
    fn a_link_on_the_same_shard_is_preferred_and_several_take_turns() {
        let mut routes = Routes::default();
        routes.apply(update(1, &[(0, 1), (1, 2), (1, 3)]), NOW);
        assert_eq!(link(&routes, 0), Some((0, 1)));
        let used: std::collections::BTreeSet<_> = (0..6).map(|_| link(&routes, 1)).collect();
        assert_eq!(used, [Some((1, 2)), Some((1, 3))].into());
    }
}
