//! The names whose home is this shard: who holds each, and who has heard of it.
//!
//! One arbiter for a name makes takeovers a matter of order: whoever asks last with the right key
//! holds the name, and is told so only once every shard routes to it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tieline_wire::{AgentKey, Generation, InstanceId, Moment, Reason, TunnelId};

use super::message::{Claim, RouteUpdate};
use crate::registry::{LinkRef, TunnelInfo};

/// Longest time for every shard to hear of a claim.
pub(crate) const CLAIM_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a name stays bound to its key without an agent.
const OFFLINE_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Names without an agent that are remembered, for each that may be live.
const OFFLINE_FACTOR: usize = 2;

/// Instances that are remembered because a newer one took their name over.
const SUPERSEDED_KEPT: usize = 8;

/// The shard that decides about a name.
pub(crate) fn home(tunnel: &TunnelId, shards: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    tunnel.hash(&mut hasher);
    // The remainder is below `shards`, a usize.
    usize::try_from(hasher.finish() % shards as u64).unwrap_or(0)
}

/// What becomes of a claim.
#[derive(Debug)]
pub(crate) enum Decision {
    Refused(Reason),
    /// Tell every shard; when all have confirmed, [`Names::confirm`] names the link to tell.
    Claimed {
        update: RouteUpdate,
        fence: Vec<LinkRef>,
    },
}

/// A claim that every shard has heard of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Confirmed {
    pub(crate) link: LinkRef,
    pub(crate) request: u32,
    pub(crate) generation: Generation,
}

/// A link that no longer serves a name.
#[derive(Debug, Default)]
pub(crate) struct Released {
    /// What to tell every shard, if that changes anything.
    pub(crate) update: Option<RouteUpdate>,
    /// Claims of the link that were not answered yet: they come to nothing.
    pub(crate) requests: Vec<u32>,
}

/// Claims that not every shard heard of in time.
#[derive(Debug)]
pub(crate) struct Withdrawn {
    pub(crate) tunnel: TunnelId,
    pub(crate) link: LinkRef,
    pub(crate) released: Released,
}

struct Name {
    key: AgentKey,
    instance: InstanceId,
    /// Earlier instances, oldest first: none of them gets the name back, also if it never heard
    /// that it lost it.
    superseded: VecDeque<InstanceId>,
    generation: Generation,
    revision: u64,
    links: Vec<Holder>,
    info: Arc<TunnelInfo>,
    waiting: Vec<Waiting>,
    /// Its agent was told that it holds the name.
    granted: bool,
    offline_since: Option<Moment>,
}

/// A link that serves a name.
struct Holder {
    link: LinkRef,
    /// Its number among the links of the instance.
    index: u16,
}

/// What one link waits to hear.
struct Waiting {
    link: LinkRef,
    /// All of these are answered at once.
    requests: Vec<u32>,
    revision: u64,
    /// Shards that have not confirmed.
    missing: Vec<usize>,
    deadline: Moment,
}

/// The names that this shard decides about.
pub(crate) struct Names {
    names: HashMap<TunnelId, Name>,
    /// Last number given out, for revisions and generations alike.
    counter: u64,
    shards: usize,
    /// How many are granted.
    granted: usize,
    /// Names without an agent, longest first.
    offline: BTreeSet<(Moment, TunnelId)>,
    /// When to look whether a claim has come to its end: a line, as all get the same time.
    deadlines: VecDeque<(Moment, TunnelId)>,
    /// Live names of the whole relay, and how many there may be.
    live: Arc<AtomicUsize>,
    live_max: usize,
}

impl Names {
    /// `epoch_seconds` is when the relay started: numbers of a later start are higher.
    pub(crate) fn new(
        epoch_seconds: u64,
        shards: usize,
        live: Arc<AtomicUsize>,
        live_max: usize,
    ) -> Self {
        Self {
            names: HashMap::new(),
            counter: epoch_seconds << 24,
            shards,
            granted: 0,
            offline: BTreeSet::new(),
            deadlines: VecDeque::new(),
            live,
            live_max,
        }
    }

    /// Names whose agents were told that they hold them.
    pub(crate) const fn granted(&self) -> usize {
        self.granted
    }

    fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// Decides about a claim.
    pub(crate) fn claim(&mut self, claim: Claim, now: Moment) -> Decision {
        let known = self.names.get(&claim.tunnel);
        if known.is_some_and(|name| name.key != claim.key) {
            return Decision::Refused(Reason::NameTaken);
        }
        if known.is_some_and(|name| name.superseded.contains(&claim.instance)) {
            return Decision::Refused(Reason::Superseded);
        }
        let was_live = known.is_some_and(|name| !name.links.is_empty());
        if !was_live && self.live.fetch_add(1, Ordering::Relaxed) >= self.live_max {
            self.live.fetch_sub(1, Ordering::Relaxed);
            return Decision::Refused(Reason::TunnelLimit);
        }
        let revision = self.next_number();
        let name = self
            .names
            .entry(claim.tunnel.clone())
            .or_insert_with(|| Name {
                key: claim.key,
                instance: claim.instance,
                superseded: VecDeque::new(),
                generation: Generation(revision),
                revision,
                links: Vec::new(),
                info: Arc::clone(&claim.info),
                waiting: Vec::new(),
                granted: false,
                offline_since: None,
            });
        let mut fence = Vec::new();
        if name.instance != claim.instance {
            // Their links end, which answers what they asked.
            fence.extend(name.links.drain(..).map(|holder| holder.link));
            for waiting in name.waiting.drain(..) {
                if !fence.contains(&waiting.link) {
                    fence.push(waiting.link);
                }
            }
            name.take_over(claim.instance, Generation(revision));
        }
        // A link of the same number was lost, even if its shard has not noticed yet: the network
        // of an agent that moved may stay silent until the old link is stale.
        name.links.retain(|holder| holder.index != claim.link_index);
        name.links.push(Holder {
            link: claim.link,
            index: claim.link_index,
        });
        name.revision = revision;
        name.info = claim.info;
        if let Some(since) = name.offline_since.take() {
            self.offline.remove(&(since, claim.tunnel.clone()));
        }
        let deadline = now + CLAIM_TIMEOUT;
        self.deadlines.push_back((deadline, claim.tunnel.clone()));
        let waiting = Waiting {
            link: claim.link,
            requests: vec![claim.request],
            revision,
            missing: (0..self.shards).collect(),
            deadline,
        };
        name.wait(waiting);
        Decision::Claimed {
            update: name.update(&claim.tunnel),
            fence,
        }
    }

    /// A shard has applied a revision, and with it all earlier ones of that name.
    pub(crate) fn confirm(
        &mut self,
        tunnel: &TunnelId,
        revision: u64,
        shard: usize,
    ) -> Vec<Confirmed> {
        let Some(name) = self.names.get_mut(tunnel) else {
            return Vec::new();
        };
        let generation = name.generation;
        let mut confirmed = Vec::new();
        name.waiting.retain_mut(|waiting| {
            if waiting.revision <= revision {
                waiting.missing.retain(|missing| *missing != shard);
            }
            if waiting.missing.is_empty() {
                let link = waiting.link;
                confirmed.extend(waiting.requests.drain(..).map(|request| Confirmed {
                    link,
                    request,
                    generation,
                }));
            }
            !waiting.missing.is_empty()
        });
        if !confirmed.is_empty() && !name.granted {
            name.granted = true;
            self.granted += 1;
        }
        confirmed
    }

    /// A link no longer serves a name.
    pub(crate) fn release(&mut self, tunnel: &TunnelId, link: LinkRef, now: Moment) -> Released {
        let Some(name) = self.names.get_mut(tunnel) else {
            return Released::default();
        };
        let mut requests = Vec::new();
        name.waiting.retain_mut(|waiting| {
            if waiting.link == link {
                requests.append(&mut waiting.requests);
            }
            waiting.link != link
        });
        let before = name.links.len();
        name.links.retain(|holder| holder.link != link);
        let update = (name.links.len() < before).then(|| {
            self.counter += 1;
            name.revision = self.counter;
            if name.links.is_empty() {
                name.offline_since = Some(now);
                self.offline.insert((now, tunnel.clone()));
                self.granted -= usize::from(std::mem::take(&mut name.granted));
                self.live.fetch_sub(1, Ordering::Relaxed);
            }
            name.update(tunnel)
        });
        Released { update, requests }
    }

    /// Claims that took too long, and names to forget.
    pub(crate) fn sweep(&mut self, now: Moment) -> (Vec<Withdrawn>, Vec<RouteUpdate>) {
        let mut late = Vec::new();
        while self
            .deadlines
            .front()
            .is_some_and(|(deadline, _)| *deadline <= now)
        {
            let Some((_, tunnel)) = self.deadlines.pop_front() else {
                break;
            };
            let waiting = self.names.get(&tunnel).map(|name| &name.waiting);
            let overdue = waiting
                .into_iter()
                .flatten()
                .filter(|it| it.deadline <= now);
            late.extend(overdue.map(|it| (tunnel.clone(), it.link)));
        }
        let withdrawn = late
            .into_iter()
            .map(|(tunnel, link)| {
                let released = self.release(&tunnel, link, now);
                Withdrawn {
                    tunnel,
                    link,
                    released,
                }
            })
            .collect();
        let forgotten = self
            .offline_to_forget(now)
            .into_iter()
            .filter_map(|tunnel| {
                let revision = self.next_number();
                let name = self.names.remove(&tunnel)?;
                Some(RouteUpdate {
                    revision,
                    forget: true,
                    ..name.update(&tunnel)
                })
            })
            .collect();
        (withdrawn, forgotten)
    }

    /// Offline names past their time, and the oldest ones past their number.
    fn offline_to_forget(&mut self, now: Moment) -> Vec<TunnelId> {
        let kept_max = self.live_max * OFFLINE_FACTOR / self.shards + 1;
        let mut forgotten = Vec::new();
        while let Some((since, tunnel)) = self.offline.pop_first() {
            if self.offline.len() < kept_max && since + OFFLINE_KEPT > now {
                self.offline.insert((since, tunnel));
                break;
            }
            forgotten.push(tunnel);
        }
        forgotten
    }
}

impl Name {
    /// A new instance holds the name.
    fn take_over(&mut self, instance: InstanceId, generation: Generation) {
        self.superseded.push_back(self.instance);
        if self.superseded.len() > SUPERSEDED_KEPT {
            self.superseded.pop_front();
        }
        self.instance = instance;
        self.generation = generation;
    }

    /// Notes whom to tell once every shard has heard. A link that asks again hears of both claims
    /// then, and no later than it would have of the first.
    fn wait(&mut self, new: Waiting) {
        match self.waiting.iter_mut().find(|it| it.link == new.link) {
            Some(old) => {
                old.requests.extend(new.requests);
                (old.revision, old.missing) = (new.revision, new.missing);
            }
            None => self.waiting.push(new),
        }
    }

    fn update(&self, tunnel: &TunnelId) -> RouteUpdate {
        RouteUpdate {
            tunnel: tunnel.clone(),
            revision: self.revision,
            generation: self.generation,
            links: self.links.iter().map(|holder| holder.link).collect(),
            info: Arc::clone(&self.info),
            forget: false,
        }
    }
}

#[cfg(test)]
mod tests;
