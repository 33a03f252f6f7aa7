//! Which of a tunnel's agents, or of a kind's tunnels, a session goes to.

use std::cell::Cell;
use std::rc::Rc;

use tieline_wire::{Moment, TunnelId};

use super::{KnownRoute, Routes};
use crate::directory::kinds::{Kind, OwnerGroup};
use crate::directory::query::{AgentBinding, Among, Query};
use crate::directory::route::{ServingAgent, Upstream};
use crate::registry::{AgentTag, TunnelInfo};

/// Agents that one choice compares: some 20 us of a shard's time.
const CANDIDATES_MAX: usize = 256;

/// Round-robin positions, one for each kind of choice so that no choice disturbs another.
#[derive(Default)]
pub(super) struct RoundRobin {
    agents: Cell<usize>,
    links: Cell<usize>,
    kinds: Cell<usize>,
}

/// Outcome of a look-up of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The name is unknown, or hidden from the caller.
    Unknown,
    /// The name is known, and the agent is away.
    Offline,
    /// Open the session here.
    Live(Upstream),
}

/// Answer to a [`Query`].
pub(crate) enum Resolved<'a, T> {
    /// No tunnel that the caller may know of.
    Unknown,
    /// Since this moment no agent serves the tunnel, or the agent that the caller is bound to is away.
    Offline(Moment),
    /// The only agents that could serve the caller were tried, or have links that are known to be lost.
    Exhausted,
    /// The agent that the caller is bound to is not connected and was not recently.
    Gone,
    /// The chosen agent.
    To(Choice<'a, T>),
}

/// The agent that was chosen for a caller.
pub(crate) struct Choice<'a, T> {
    pub(crate) agent: AgentTag,
    known: &'a KnownRoute<T>,
    /// The agent's target; `None` if its description is unusable, or the query asked for none.
    pub(crate) target: Option<&'a Rc<T>>,
}

impl<T> Choice<'_, T> {
    /// Whether the tunnel has no other agent.
    pub(crate) fn is_only(&self) -> bool {
        self.known.update.agents.len() == 1
    }
}

/// Sort key, lower is better: (unusable, no link on the caller's shard, sessions, no kept connection).
type Weight = (bool, bool, usize, bool);

impl<T> Routes<T> {
    /// Where a caller on `shard` opens a session to an agent of `tunnel` that it `may_know` of; a link on that shard is
    /// preferred.
    pub(crate) fn upstream(
        &self,
        tunnel: &TunnelId,
        agent: AgentTag,
        shard: usize,
        may_know: impl Fn(&TunnelInfo) -> bool,
    ) -> Lookup {
        let Some(known) = self.routes.get(tunnel) else {
            return Lookup::Unknown;
        };
        if !known.infos().any(&may_know) {
            return Lookup::Unknown;
        }
        let mut agents = known.update.agents.iter();
        let serving = agents.find(|it| it.tag == agent && may_know(&it.info));
        serving.map_or(Lookup::Offline, |it| {
            Lookup::Live(self.upstream_of(it, shard))
        })
    }

    /// Whether there is a tunnel with this name that the caller `may_know` of.
    pub(crate) fn is_known(
        &self,
        tunnel: &TunnelId,
        may_know: impl Fn(&TunnelInfo) -> bool,
    ) -> bool {
        let known = self.routes.get(tunnel);
        known.is_some_and(|known| known.infos().any(may_know))
    }

    /// A link of `agent`: one on `shard` if there is one; several take turns.
    pub(super) fn upstream_of(&self, agent: &ServingAgent, shard: usize) -> Upstream {
        let links = &agent.links;
        let is_here = |place: &usize| links[*place].at.is_on(shard);
        let mut places = in_turn(&self.turns.links, links.len());
        let first = places.clone().next().unwrap_or_default();
        links[places.find(is_here).unwrap_or(first)].at
    }

    /// Chooses the agent for a caller.
    pub(crate) fn resolve(&self, query: &Query<'_>) -> Resolved<'_, T> {
        match (query.binding, query.among) {
            (Some(binding), _) => self.resolve_pinned(binding, query),
            (None, Among::Tunnel(tunnel)) => self.resolve_tunnel(tunnel, query),
            (None, Among::Kind(kind, whose)) => self.resolve_kind(kind, whose, query),
        }
    }

    fn resolve_pinned(&self, binding: &AgentBinding, query: &Query<'_>) -> Resolved<'_, T> {
        let Some(known) = self.routes.get(&binding.tunnel) else {
            return Resolved::Gone;
        };
        let is_there = match query.among {
            Among::Tunnel(tunnel) => *tunnel == binding.tunnel,
            Among::Kind(kind, _) => known.update.info.dcc == *kind,
        };
        if !is_there {
            return Resolved::Gone;
        }
        let may_know = |info: &TunnelInfo| (query.may_know)(&binding.tunnel, info);
        if !known.infos().any(may_know) {
            return Resolved::Unknown;
        }
        let agents = &known.update.agents;
        match agents.iter().position(|agent| agent.tag == binding.agent) {
            Some(place) if !may_know(&agents[place].info) => Resolved::Unknown,
            Some(place) if known.is_stale(place, query) => Resolved::Exhausted,
            Some(place) => self.chosen(known, place, query),
            None => {
                let mut departed = known.departed.iter();
                let left = departed.find(|(tag, _)| *tag == binding.agent);
                left.map_or(Resolved::Gone, |(_, since)| Resolved::Offline(*since))
            }
        }
    }

    fn resolve_tunnel(&self, tunnel: &TunnelId, query: &Query<'_>) -> Resolved<'_, T> {
        let Some(known) = self.routes.get(tunnel) else {
            return Resolved::Unknown;
        };
        let may_know = |info: &TunnelInfo| (query.may_know)(tunnel, info);
        if !known.infos().any(may_know) {
            return Resolved::Unknown;
        }
        if let Some(since) = known.offline_since {
            return Resolved::Offline(since);
        }
        let agents = &known.update.agents;
        let places = in_turn(&self.turns.agents, agents.len());
        let places = places.filter(|place| may_know(&agents[*place].info));
        let fresh = places.filter(|place| !known.is_over(*place, query));
        lightest(fresh, |place| self.weight(known, *place, query))
            .map_or(Resolved::Exhausted, |place| {
                self.chosen(known, place, query)
            })
    }

    fn resolve_kind(&self, kind: &str, whose: &[OwnerGroup], query: &Query<'_>) -> Resolved<'_, T> {
        let kinds = self.kinds.get(kind, whose);
        let known = |tunnel: &TunnelId| self.routes.get(tunnel);
        let may_know =
            |known: &KnownRoute<T>, info: &TunnelInfo| (query.may_know)(&known.update.tunnel, info);
        let count = kinds.iter().map(|kind| kind.live.len()).sum();
        let turn = self.turns.kinds.get();
        self.turns.kinds.set(turn.wrapping_add(1));
        let live = all_from(turn, count).filter_map(|place| known(live_at(&kinds, place)?));
        // Every tunnel comes first once before the turn passes to each tunnel's next agent.
        let round = turn / count.max(1);
        let agents = live.flat_map(|known| {
            let places = all_from(round, known.update.agents.len());
            places.map(move |place| (known, place))
        });
        let mut is_there = false;
        let fresh = agents
            .filter(|(known, place)| may_know(known, &known.update.agents[*place].info))
            .inspect(|_| is_there = true)
            .take(CANDIDATES_MAX)
            .filter(|(known, place)| !known.is_over(*place, query));
        match lightest(fresh, |(known, place)| self.weight(known, *place, query)) {
            Some((known, place)) if !self.weight(known, place, query).0 => {
                self.chosen(known, place, query)
            }
            // No usable candidate is live. An offline tunnel that serves the path may be back soon.
            useless => {
                let offline = kinds.iter().flat_map(|kind| &kind.offline);
                let offline = offline.filter_map(known);
                let mut offline = offline.filter(|known| may_know(known, &known.update.info));
                let is_of_use = |known: &&KnownRoute<T>| query.is_served_by(&known.update.info);
                match useless {
                    Some((known, place)) => match latest(offline.filter(is_of_use)) {
                        Some(since) => Resolved::Offline(since),
                        None => self.chosen(known, place, query),
                    },
                    None if is_there => Resolved::Exhausted,
                    None => latest(&mut offline).map_or(Resolved::Unknown, Resolved::Offline),
                }
            }
        }
    }

    fn chosen<'a>(
        &self,
        known: &'a KnownRoute<T>,
        place: usize,
        query: &Query<'_>,
    ) -> Resolved<'a, T> {
        Resolved::To(Choice {
            agent: known.update.agents[place].tag,
            known,
            target: query.serves.and_then(|_| known.target(place, self.make)),
        })
    }

    /// Sort key of the agent at `place`; a session kept for the caller itself does not count as load.
    fn weight(&self, known: &KnownRoute<T>, place: usize, query: &Query<'_>) -> Weight {
        let agent = &known.update.agents[place];
        let is_useless = query
            .serves
            .is_some_and(|serves| known.target(place, self.make).is_none() || !serves(&agent.info));
        let is_on = |shard: usize| agent.links.iter().any(|link| link.at.is_on(shard));
        let is_elsewhere = query.near.is_some_and(|shard| !is_on(shard));
        let is_kept = (query.kept)(&known.update.tunnel, agent.tag);
        let sessions = held(agent).saturating_sub(usize::from(is_kept));
        (is_useless, is_elsewhere, sessions, !is_kept)
    }
}

impl<T> KnownRoute<T> {
    /// Whether the query shows that the link to the agent at `place` is lost, in a route that does not say so yet.
    fn is_stale(&self, place: usize, query: &Query<'_>) -> bool {
        query.stale.is_some_and(|stale| {
            stale.agent == self.update.agents[place].tag
                && *stale.tunnel == self.update.tunnel
                && stale.revision >= self.update.revision
        })
    }

    /// Whether the agent at `place` was tried, or its link is known to be lost.
    fn is_over(&self, place: usize, query: &Query<'_>) -> bool {
        (query.tried)(&self.update.tunnel, self.update.agents[place].tag)
            || self.is_stale(place, query)
    }
}

/// The live tunnel with index `place`, counted through all of `kinds`.
fn live_at<'a>(kinds: &[&'a Kind], mut place: usize) -> Option<&'a TunnelId> {
    for kind in kinds {
        match kind.live.get_index(place) {
            Some(tunnel) => return Some(tunnel),
            None => place -= kind.live.len(),
        }
    }
    None
}

/// The latest moment at which one of these tunnels lost its agent.
fn latest<'a, T: 'a>(offline: impl Iterator<Item = &'a KnownRoute<T>>) -> Option<Moment> {
    offline.filter_map(|known| known.offline_since).max()
}

/// The numbers below `count`, from another first number at each call.
fn in_turn(turn: &Cell<usize>, count: usize) -> impl Iterator<Item = usize> + Clone + use<> {
    let first = turn.get();
    if count > 1 {
        turn.set(first.wrapping_add(1));
    }
    all_from(first, count)
}

/// The numbers below `count`, from `first` modulo `count` on.
fn all_from(first: usize, count: usize) -> impl Iterator<Item = usize> + Clone {
    (0..count).map(move |place| (place + first % count) % count)
}

/// Sessions of the name on the links of an agent.
fn held(agent: &ServingAgent) -> usize {
    agent.links.iter().map(|link| link.load.count()).sum()
}

/// The first candidate with the lowest sort key.
fn lightest<T>(
    mut candidates: impl Iterator<Item = T>,
    weight: impl Fn(&T) -> Weight,
) -> Option<T> {
    let first = candidates.next()?;
    let Some(second) = candidates.next() else {
        // The usual case: a single candidate.
        return Some(first);
    };
    let all = [first, second].into_iter().chain(candidates);
    all.min_by_key(weight)
}
