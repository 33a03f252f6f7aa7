//! This shard's copy of every route: the agents and links that lead to a tunnel, as the tunnel's home shard decided.

mod choice;

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tieline_wire::{Generation, Moment, TunnelId};
use tokio::sync::oneshot;

use self::choice::RoundRobin;
pub(crate) use self::choice::{Lookup, Resolved};
use super::kinds::Kinds;
use super::query::TunnelSelector;
use super::route::{RouteUpdate, Served, ServingAgent};
use super::waiting::WaitingCallers;
use crate::registry::{AgentTag, TunnelInfo};

/// Tunnels that one listing turn looks at: some 100 us of a shard's time.
const LIST_COUNT: usize = 250;

/// Time for which a departed agent of a name is remembered: longer than any grace.
const DEPARTED_KEPT: Duration = Duration::from_secs(600);

/// Departed agents that are remembered for one name.
const DEPARTED_MAX: usize = 64;

/// All routes that this shard knows. `T` is what the HTTP front makes of an agent's description of its target.
pub(crate) struct Routes<T> {
    routes: HashMap<TunnelId, KnownRoute<T>>,
    make: Make<T>,
    /// The names of `routes` in order, for listings.
    names: BTreeSet<TunnelId>,
    kinds: Kinds,
    /// Round-robin positions for the choice among agents and links.
    turns: RoundRobin,
    /// Callers that wait for a change.
    pub(crate) waiting: WaitingCallers,
    /// Kept connections to agents, dropped once the agent no longer serves the tunnel.
    kept: HashMap<TunnelId, Vec<KeptConnection>>,
}

/// Makes a front's view of an agent's target; `None` if the description is unusable.
pub(crate) type Make<T> = fn(&Served<'_>) -> Option<T>;

/// A kept connection to an agent.
struct KeptConnection {
    agent: AgentTag,
    generation: Generation,
    /// Dropped when the agent no longer serves the tunnel.
    held: oneshot::Sender<()>,
}

/// A route, and what this shard derives from it.
struct KnownRoute<T> {
    update: Arc<RouteUpdate>,
    /// The target of each agent, made when the first caller needs it.
    targets: Box<[OnceCell<Option<Rc<T>>>]>,
    /// Moment since which the tunnel has no link.
    offline_since: Option<Moment>,
    /// Departed agents and the times when they left, the latest last.
    departed: Vec<(AgentTag, Moment)>,
}

impl<T> Routes<T> {
    /// No routes yet; `make` makes the target of an agent.
    pub(crate) fn new(make: Make<T>) -> Self {
        Self {
            routes: HashMap::new(),
            make,
            names: BTreeSet::new(),
            kinds: Kinds::default(),
            turns: RoundRobin::default(),
            waiting: WaitingCallers::default(),
            kept: HashMap::new(),
        }
    }

    /// Applies a home shard's decision unless a newer one is known; returns whether the set of callers that may reach
    /// one of its agents may have changed.
    pub(crate) fn apply(&mut self, update: Arc<RouteUpdate>, now: Moment) -> bool {
        let known = self.routes.get(&update.tunnel);
        if known.is_some_and(|known| known.update.revision >= update.revision) {
            return false;
        }
        self.let_go(&update);
        let known = self.routes.remove(&update.tunnel);
        let has_changed = known
            .as_ref()
            .is_some_and(|known| has_other_callers(&known.update, &update));
        self.waiting
            .wake(&TunnelSelector::Tunnel(update.tunnel.clone()));
        self.waiting
            .wake(&TunnelSelector::Kind(update.info.dcc.clone()));
        let before = known.as_ref().map(|known| &*known.update);
        let now_here = (!update.forget).then_some(&*update);
        self.kinds.change(before, now_here);
        if update.forget {
            self.names.remove(&update.tunnel);
            return has_changed;
        }
        if known.is_none() {
            self.names.insert(update.tunnel.clone());
        }
        let known = KnownRoute::new(known, update, now);
        self.routes.insert(known.update.tunnel.clone(), known);
        has_changed
    }

    /// Resolves once the agent with this tag and generation does not serve the tunnel; at once if it does not now.
    pub(crate) fn until_unserved(
        &mut self,
        tunnel: &TunnelId,
        agent: AgentTag,
        generation: Generation,
    ) -> oneshot::Receiver<()> {
        let (held, receiver) = oneshot::channel();
        let known = self.routes.get(tunnel).map(|known| &*known.update);
        if known.is_some_and(|update| serves(update, agent, generation)) {
            let kept = self.kept.entry(tunnel.clone()).or_default();
            if kept.len() == kept.capacity() {
                kept.retain(|it| !it.held.is_closed());
            }
            kept.push(KeptConnection {
                agent,
                generation,
                held,
            });
        }
        receiver
    }

    fn let_go(&mut self, update: &RouteUpdate) {
        let Some(kept) = self.kept.get_mut(&update.tunnel) else {
            return;
        };
        kept.retain(|it| !it.held.is_closed() && serves(update, it.agent, it.generation));
        if kept.is_empty() {
            self.kept.remove(&update.tunnel);
        }
    }

    /// A `row` for each tunnel that the caller `may_know` of, among the next [`LIST_COUNT`] whose names follow `after`;
    /// and the last name looked at, if more follow. `row` is told whether an agent serves the tunnel.
    pub(crate) fn list<R>(
        &self,
        after: &str,
        may_know: impl Fn(&TunnelId, &TunnelInfo) -> bool,
        row: impl Fn(&TunnelId, &TunnelInfo, bool) -> R,
    ) -> (Vec<R>, Option<String>) {
        let mut behind = self
            .names
            .range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        let (mut listed, mut last) = (Vec::new(), None);
        for tunnel in behind.by_ref().take(LIST_COUNT) {
            last = Some(tunnel);
            let known = self.routes.get(tunnel);
            let info = known.and_then(|known| known.infos().find(|info| may_know(tunnel, info)));
            if let (Some(known), Some(info)) = (known, info) {
                let online = known.offline_since.is_none();
                listed.push(row(tunnel, info, online));
            }
        }
        let last = last.map(|tunnel| tunnel.as_str().to_owned());
        (listed, last.filter(|_| behind.next().is_some()))
    }

    /// Whether there is a tunnel with this name and kind of application that the caller `may_know` of.
    pub(crate) fn is_kind(
        &self,
        tunnel: &TunnelId,
        kind: &str,
        may_know: impl Fn(&TunnelInfo) -> bool,
    ) -> bool {
        self.routes
            .get(tunnel)
            .is_some_and(|known| known.update.info.dcc == kind && known.infos().any(may_know))
    }

    /// The shard of a link to `tunnel`, if the tunnel has exactly one agent.
    pub(crate) fn only_shard(&self, tunnel: &TunnelId, shard: usize) -> Option<usize> {
        match &self.routes.get(tunnel)?.update.agents[..] {
            [agent] => Some(self.upstream_of(agent, shard).shard()),
            _ => None,
        }
    }

    /// Moment since which a known tunnel has no agent; `None` if it has an agent or is unknown.
    pub(crate) fn offline_since(&self, tunnel: &TunnelId) -> Option<Moment> {
        self.routes.get(tunnel)?.offline_since
    }
}

fn serves(update: &RouteUpdate, agent: AgentTag, generation: Generation) -> bool {
    let mut agents = update.agents.iter();
    !update.forget && agents.any(|it| (it.tag, it.generation) == (agent, generation))
}

/// Whether an agent of `before` serves the name in `now` for another owner, as another kind of application, or with
/// other access for raw callers.
fn has_other_callers(before: &RouteUpdate, now: &RouteUpdate) -> bool {
    let is_other = |agent: &ServingAgent| {
        let mut earlier = before.agents.iter().filter(|it| it.tag == agent.tag);
        // For an agent that was away, the latest description counts: its sessions may have gone on.
        let earlier = earlier.next().map_or(&before.info, |it| &it.info);
        let access = |info: &TunnelInfo| (info.is_open_to_raw(), info.dcc == earlier.dcc);
        earlier.owner != agent.info.owner || access(earlier) != access(&agent.info)
    };
    now.agents.iter().any(is_other)
}

impl<T> KnownRoute<T> {
    fn new(before: Option<Self>, update: Arc<RouteUpdate>, now: Moment) -> Self {
        let mut departed: Vec<_> = update.expected.iter().map(|tag| (*tag, now)).collect();
        let mut since = None;
        if let Some(before) = before {
            let is_here = update.agents.iter().map(|agent| agent.tag);
            let has_left = |tag: &AgentTag| !is_here.clone().any(|it| it == *tag);
            departed = before.departed;
            departed.extend(before.update.agents.iter().map(|agent| (agent.tag, now)));
            departed.retain(|(tag, at)| has_left(tag) && *at + DEPARTED_KEPT > now);
            let too_many = departed.len().saturating_sub(DEPARTED_MAX);
            departed.drain(..too_many);
            since = before.offline_since;
        }
        Self {
            targets: update.agents.iter().map(|_| OnceCell::new()).collect(),
            offline_since: update.agents.is_empty().then(|| since.unwrap_or(now)),
            departed,
            update,
        }
    }

    /// Descriptions of the target by the agents, or the latest one if no agent is connected.
    fn infos(&self) -> impl Iterator<Item = &TunnelInfo> {
        let agents = &self.update.agents;
        let last = agents.is_empty().then_some(&*self.update.info);
        agents.iter().map(|agent| &*agent.info).chain(last)
    }

    /// The target of the agent at index `place`, if its description is usable.
    fn target(&self, place: usize, make: Make<T>) -> Option<&Rc<T>> {
        let (agent, target) = (&self.update.agents[place], &self.targets[place]);
        let served = Served {
            tunnel: &self.update.tunnel,
            agent: agent.tag,
            generation: agent.generation,
            revision: self.update.revision,
            info: &agent.info,
        };
        target.get_or_init(|| make(&served).map(Rc::new)).as_ref()
    }
}

#[cfg(test)]
mod tests;
