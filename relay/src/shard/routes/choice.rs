//! Which of a tunnel's agents, or of a kind's tunnels, a session goes to.

use std::cell::Cell;
use std::rc::Rc;

use tieline_wire::{Moment, TunnelId};

use super::kinds::{Kind, OwnerGroup};
use super::{Known, Routes};
use crate::directory::ServingAgent;
use crate::listen::http::{AgentBinding, Target, TargetQuery, TunnelSelector};
use crate::registry::{AgentTag, LinkRef, TunnelInfo};

/// Agents that one choice compares: some 20 us of a shard's time.
const CANDIDATES_MAX: usize = 256;

/// Round-robin positions, one for each kind of choice so that no choice disturbs another.
#[derive(Default)]
pub(super) struct RoundRobin {
    agents: Cell<usize>,
    links: Cell<usize>,
    kinds: Cell<usize>,
}

/// Outcome of a look-up by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The name is unknown, or hidden from the caller.
    Unknown,
    /// The name is known, and the agent is away.
    Offline,
    /// Open the session on this link.
    Live(LinkRef),
}

/// Which of a tunnel's agents a session may go to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Choice {
    /// The agent with the fewest sessions.
    Any,
    /// Preferably an agent that has a link on this shard.
    Here,
    /// The agent with this tag.
    Agent(AgentTag),
}

/// Outcome of an HTTP caller's search.
#[derive(Debug)]
pub(crate) enum Found {
    Unknown,
    /// Since this moment no agent serves the tunnel, or the pinned agent is away.
    Offline(Moment),
    /// The only agents that could serve the request were tried, or have links that are known to be lost.
    Stale,
    /// The pinned agent is not connected and was not recently.
    Gone,
    /// An agent serves the tunnel, but its description of the target is unusable.
    Unusable,
    Target(Rc<Target>),
}

/// An HTTP caller's search for a target.
pub(crate) struct Search<'a> {
    pub(crate) wanted: &'a TargetQuery,
    /// The target whose link was found to be lost.
    pub(crate) stale: Option<&'a Target>,
    /// Targets that refused a connection for this request; they are not found again.
    pub(crate) tried: &'a [Rc<Target>],
    /// The owners among whose tunnels a kind of application is searched.
    pub(crate) whose: &'a [OwnerGroup],
    /// Whether the caller may know of a tunnel, by the description of one of its agents.
    pub(crate) fit: &'a dyn Fn(&TunnelId, &TunnelInfo) -> bool,
    /// Whether the caller has a kept connection to an agent.
    pub(crate) kept: &'a dyn Fn(&TunnelId, AgentTag) -> bool,
}

/// Sort key, lower is better: (unusable, sessions, no kept connection).
type Weight = (bool, usize, bool);

impl Routes {
    /// The link for a new session of `tunnel` opened on `shard`; a link on that shard is preferred.
    pub(crate) fn lookup(
        &self,
        tunnel: &TunnelId,
        shard: usize,
        choice: Choice,
        fit: impl Fn(&TunnelInfo) -> bool,
    ) -> Lookup {
        let Some(known) = self.routes.get(tunnel) else {
            return Lookup::Unknown;
        };
        if !known.infos().any(&fit) {
            return Lookup::Unknown;
        }
        let chosen = self.chosen(known, shard, choice, &|agent| fit(&agent.info));
        chosen.map_or(Lookup::Offline, |agent| {
            Lookup::Live(self.link_of(agent, shard))
        })
    }

    /// The agent for a new session of `tunnel`, none of those `tried`. `None` if there is nothing to choose: no such
    /// agent is left, or the tunnel has a single agent and it was not tried.
    pub(crate) fn choose(
        &self,
        tunnel: &TunnelId,
        shard: usize,
        (choice, tried): (Choice, &[AgentTag]),
        fit: impl Fn(&TunnelInfo) -> bool,
    ) -> Option<AgentTag> {
        let known = self.routes.get(tunnel)?;
        if known.update.agents.len() < 2 && tried.is_empty() {
            return None;
        }
        let fit = |agent: &ServingAgent| fit(&agent.info) && !tried.contains(&agent.tag);
        let chosen = self.chosen(known, shard, choice, &fit);
        chosen.map(|agent| agent.tag)
    }

    fn chosen<'a>(
        &self,
        known: &'a Known,
        shard: usize,
        choice: Choice,
        fit: &dyn Fn(&ServingAgent) -> bool,
    ) -> Option<&'a ServingAgent> {
        let agents = &known.update.agents;
        let weight = |agent: &ServingAgent| {
            let is_there = agent.links.iter().any(|link| link.at.shard == shard);
            let is_elsewhere = matches!(choice, Choice::Here) && !is_there;
            (is_elsewhere, held(agent))
        };
        match choice {
            Choice::Agent(tag) => {
                let mut agents = agents.iter();
                agents.find(|agent| agent.tag == tag && fit(agent))
            }
            Choice::Any | Choice::Here => in_turn(&self.turns.agents, agents.len())
                .map(|place| &agents[place])
                .filter(|agent| fit(agent))
                .min_by_key(|agent| weight(agent)),
        }
    }

    /// A link of `agent`: one on `shard` if there is one; several take turns.
    pub(super) fn link_of(&self, agent: &ServingAgent, shard: usize) -> LinkRef {
        let links = &agent.links;
        let is_here = |place: &usize| links[*place].at.shard == shard;
        let mut places = in_turn(&self.turns.links, links.len());
        let first = places.clone().next().unwrap_or_default();
        links[places.find(is_here).unwrap_or(first)].at
    }

    /// Finds the target for a request.
    pub(crate) fn find(&self, search: &Search<'_>) -> Found {
        match (&search.wanted.binding, &search.wanted.selector) {
            (Some(binding), _) => self.find_pinned(binding, search),
            (None, TunnelSelector::Tunnel(tunnel)) => self.find_tunnel(tunnel, search),
            (None, TunnelSelector::Kind(kind)) => self.find_kind(kind, search),
        }
    }

    fn find_pinned(&self, binding: &AgentBinding, search: &Search<'_>) -> Found {
        let Some(known) = self.routes.get(&binding.tunnel) else {
            return Found::Gone;
        };
        let is_there = match &search.wanted.selector {
            TunnelSelector::Tunnel(tunnel) => *tunnel == binding.tunnel,
            TunnelSelector::Kind(kind) => known.update.info.dcc == *kind,
        };
        if !is_there {
            return Found::Gone;
        }
        let fit = |info: &TunnelInfo| (search.fit)(&binding.tunnel, info);
        if !known.infos().any(fit) {
            return Found::Unknown;
        }
        let agents = &known.update.agents;
        match agents.iter().position(|agent| agent.tag == binding.agent) {
            Some(place) if !fit(&agents[place].info) => Found::Unknown,
            Some(place) if known.is_stale(place, search.stale) => Found::Stale,
            Some(place) => found(known.target(place)),
            None => {
                let mut departed = known.departed.iter();
                let left = departed.find(|(tag, _)| *tag == binding.agent);
                left.map_or(Found::Gone, |(_, since)| Found::Offline(*since))
            }
        }
    }

    fn find_tunnel(&self, tunnel: &TunnelId, search: &Search<'_>) -> Found {
        let Some(known) = self.routes.get(tunnel) else {
            return Found::Unknown;
        };
        let fit = |info: &TunnelInfo| (search.fit)(tunnel, info);
        if !known.infos().any(fit) {
            return Found::Unknown;
        }
        if let Some(since) = known.offline_since {
            return Found::Offline(since);
        }
        let agents = &known.update.agents;
        let places = in_turn(&self.turns.agents, agents.len());
        let places = places.filter(|place| fit(&agents[*place].info));
        let fresh = places.filter(|place| !known.is_over(*place, search));
        lightest(fresh, |place| known.weight(*place, search))
            .map_or(Found::Stale, |place| found(known.target(place)))
    }

    fn find_kind(&self, kind: &str, search: &Search<'_>) -> Found {
        let kinds = self.kinds.get(kind, search.whose);
        let known = |tunnel: &TunnelId| self.routes.get(tunnel);
        let fit = |known: &Known, info: &TunnelInfo| (search.fit)(&known.update.tunnel, info);
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
            .filter(|(known, place)| fit(known, &known.update.agents[*place].info))
            .inspect(|_| is_there = true)
            .take(CANDIDATES_MAX)
            .filter(|(known, place)| !known.is_over(*place, search));
        match lightest(fresh, |(known, place)| known.weight(*place, search)) {
            Some((known, place)) if !known.weight(place, search).0 => found(known.target(place)),
            // No usable candidate is live. An offline tunnel that serves the path may be back soon.
            useless => {
                let offline = kinds.iter().flat_map(|kind| &kind.offline);
                let offline = offline.filter_map(known);
                let mut offline = offline.filter(|known| fit(known, &known.update.info));
                let is_of_use = |known: &&Known| search.wanted.is_exposed_by(&known.update.info);
                match useless {
                    Some((known, place)) => match latest(offline.filter(is_of_use)) {
                        Some(since) => Found::Offline(since),
                        None => found(known.target(place)),
                    },
                    None if is_there => Found::Stale,
                    None => latest(&mut offline).map_or(Found::Unknown, Found::Offline),
                }
            }
        }
    }
}

impl Known {
    /// Whether `stale` shows that the link to the agent at `place` is lost, in a route that does not say so yet.
    fn is_stale(&self, place: usize, stale: Option<&Target>) -> bool {
        stale.is_some_and(|stale| {
            stale.agent == self.update.agents[place].tag
                && stale.tunnel == self.update.tunnel
                && stale.revision >= self.update.revision
        })
    }

    /// Whether the agent at `place` was tried, or its link is known to be lost.
    fn is_over(&self, place: usize, search: &Search<'_>) -> bool {
        let (agent, tunnel) = (self.update.agents[place].tag, &self.update.tunnel);
        let mut tried = search.tried.iter();
        tried.any(|it| it.agent == agent && it.tunnel == *tunnel)
            || self.is_stale(place, search.stale)
    }

    /// Sort key of the agent at `place`; a session kept for the caller itself does not count as load.
    fn weight(&self, place: usize, search: &Search<'_>) -> Weight {
        let agent = &self.update.agents[place];
        let is_of_use = self.target(place).is_some() && search.wanted.is_exposed_by(&agent.info);
        let is_kept = (search.kept)(&self.update.tunnel, agent.tag);
        let sessions = held(agent).saturating_sub(usize::from(is_kept));
        (!is_of_use, sessions, !is_kept)
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
fn latest<'a>(offline: impl Iterator<Item = &'a Known>) -> Option<Moment> {
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

fn found(target: Option<&Rc<Target>>) -> Found {
    target.map_or(Found::Unusable, |target| Found::Target(Rc::clone(target)))
}
