//! The names whose home is this shard: who holds each, and who has heard of it.
//!
//! One arbiter for a name makes takeovers a matter of order: whoever asks last with the right key
//! holds the name, and is told so only once every shard routes to it.

mod holder;
mod name;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tieline_wire::{Generation, Moment, Reason, TunnelId};

use self::name::{Name, Place, Waiting};
use super::message::{Claim, RouteUpdate};
use crate::registry::LinkRef;

/// Longest time for every shard to hear of a claim.
pub(crate) const CLAIM_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a name stays bound to its key without an agent.
const OFFLINE_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Names without an agent that are remembered, for each that may be live.
const OFFLINE_FACTOR: usize = 2;

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
        let place = match known.map(|name| name.place(&claim)).transpose() {
            Ok(place) => place.unwrap_or(Place::New),
            Err(reason) => return Decision::Refused(reason),
        };
        if !known.is_some_and(Name::is_live)
            && self.live.fetch_add(1, Ordering::Relaxed) >= self.live_max
        {
            self.live.fetch_sub(1, Ordering::Relaxed);
            return Decision::Refused(Reason::TunnelLimit);
        }
        let revision = self.next_number();
        let generation = Generation(revision);
        let name = self
            .names
            .entry(claim.tunnel.clone())
            .or_insert_with(|| Name::new(&claim));
        let holder = name.make_way(place, &claim, generation);
        let before = holder.tag;
        let mut fence = holder.claim(&claim, generation);
        let (agent, current) = (holder.tag, holder.generation);
        if current == generation {
            // Their links end, which answers what they asked.
            name.waiting.retain(|waiting| {
                let is_over = waiting.agent == before;
                if is_over && !fence.contains(&waiting.link) {
                    fence.push(waiting.link);
                }
                !is_over
            });
        }
        name.revision = revision;
        name.info = claim.info;
        if let Some(since) = name.offline_since.take() {
            self.offline.remove(&(since, claim.tunnel.clone()));
        }
        let deadline = now + CLAIM_TIMEOUT;
        self.deadlines.push_back((deadline, claim.tunnel.clone()));
        let waiting = Waiting {
            link: claim.link,
            agent,
            generation: current,
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
        let mut confirmed = Vec::new();
        name.waiting.retain_mut(|waiting| {
            if waiting.revision <= revision {
                waiting.missing.retain(|missing| *missing != shard);
            }
            if waiting.missing.is_empty() {
                let (link, generation) = (waiting.link, waiting.generation);
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
        let mut holders = name.holders.iter_mut();
        let update = holders.any(|holder| holder.release(link)).then(|| {
            self.counter += 1;
            name.revision = self.counter;
            if !name.is_live() {
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

#[cfg(test)]
mod sharing;
#[cfg(test)]
mod tests;
