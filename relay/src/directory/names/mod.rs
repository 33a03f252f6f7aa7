//! The names whose home is this shard: which agents hold each name, and which shards have applied its route.
//!
//! One arbiter per name puts takeovers in an order: the last claim with a valid key holds the name. Its agent is
//! told only once every shard routes to it.

mod absent;
mod holder;
mod name;
mod owners;

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tieline_wire::{Generation, Moment, Refusal, RefusalReason, TunnelId};

use self::absent::Absent;
use self::name::{Claimant, Name, OpenClaims};
pub(crate) use self::owners::Owners;
use super::claim::{Claim, Forgotten, ReleaseKind};
use super::route::RouteUpdate;
use crate::limits::{LiveTunnels, Registrant};
use crate::metrics::BoundReport;
use crate::registry::{AgentTag, LinkRef, TunnelInfo};
use crate::state::{Binding, Note, now_seconds};

/// Time for every shard to apply the route of a claim.
pub(crate) const CLAIM_TIMEOUT: Duration = Duration::from_secs(2);

/// Time for which a name without an agent stays bound to its key.
const OFFLINE_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Number of names without an agent that are kept, as a multiple of the limit on live names.
const OFFLINE_FACTOR: usize = 2;

/// Index of the home shard of a name.
pub(crate) fn home(tunnel: &TunnelId, shards: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    tunnel.hash(&mut hasher);
    // The remainder is below `shards`, a usize.
    usize::try_from(hasher.finish() % shards as u64).unwrap_or(0)
}

/// Decision on a claim.
#[derive(Debug)]
pub(crate) enum Decision {
    Refused(Refusal),
    /// Granted once every shard has applied `update`; [`Names::confirm`] then returns the claims to acknowledge.
    Claimed {
        update: RouteUpdate,
        fence: Vec<LinkRef>,
    },
}

/// A claim whose route every shard has applied.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Confirmed {
    pub(crate) link: LinkRef,
    pub(crate) request: u32,
    pub(crate) generation: Generation,
}

/// Outcome of a link's release of a name.
#[derive(Debug, Default)]
pub(crate) struct Released {
    /// The update for every shard, if the route has changed.
    pub(crate) update: Option<RouteUpdate>,
    /// Requests of the link's open claims, which are void.
    pub(crate) requests: Vec<u32>,
}

/// A link whose claims were withdrawn because a shard did not apply the route in time.
#[derive(Debug)]
pub(crate) struct Withdrawn {
    pub(crate) tunnel: TunnelId,
    pub(crate) link: LinkRef,
    pub(crate) released: Released,
}

/// A name bound before the relay started, and its initial route.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) binding: Binding,
    pub(crate) update: Arc<RouteUpdate>,
}

impl Restored {
    /// Restores `binding` at a relay start numbered `epoch_seconds`; `owners` makes names of one owner share its
    /// [`Owner`](crate::auth::Owner).
    pub(crate) fn new(binding: Binding, epoch_seconds: u64, owners: &mut Owners) -> Self {
        let owner = binding
            .sub
            .as_ref()
            .map(|sub| owners.find(sub, &binding.groups));
        let info = TunnelInfo {
            scheme: binding.scheme,
            authority: String::new(),
            base_path: binding.base_path.clone(),
            dcc: binding.dcc.clone(),
            capabilities: binding.capabilities.clone(),
            expose_all: binding.expose_all,
            owner,
            shared: binding.shared,
        };
        let update = RouteUpdate {
            tunnel: binding.tunnel.clone(),
            revision: first_number(epoch_seconds),
            agents: Vec::new(),
            info: Arc::new(info),
            expected: vec![AgentTag::of(&binding.key, &binding.machine)],
            forget: false,
        };
        Self {
            binding,
            update: Arc::new(update),
        }
    }
}

/// A number below all revisions and generations of the relay start `epoch_seconds`, and above those of earlier starts.
const fn first_number(epoch_seconds: u64) -> u64 {
    epoch_seconds << 24
}

/// Settings and counters that all names of a relay share.
pub(crate) struct Rules {
    /// Number of the relay start; higher than that of every earlier start.
    pub(crate) epoch_seconds: u64,
    pub(crate) shards: usize,
    /// Number of live names of the whole relay, and its limit.
    pub(crate) live: Arc<AtomicUsize>,
    pub(crate) live_max: usize,
    /// Number of live names of each registrant, with its limit.
    pub(crate) live_of_accounts: Arc<LiveTunnels>,
    /// Whether bindings are kept over a restart.
    pub(crate) is_kept: bool,
}

/// The names that this shard decides about.
pub(crate) struct Names {
    rules: Rules,
    names: HashMap<TunnelId, Name>,
    /// Last number given out; revisions and generations share it.
    counter: u64,
    /// Number of names whose claims were granted.
    granted: usize,
    absent: Absent,
    owners: Owners,
    /// Deadlines of claims, in order since every claim gets the same time.
    deadlines: VecDeque<(Moment, TunnelId)>,
    /// Notes for the state folder that were not taken yet.
    notes: Vec<Note>,
}

impl Names {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            names: HashMap::new(),
            counter: first_number(rules.epoch_seconds),
            granted: 0,
            absent: Absent::default(),
            owners: Owners::default(),
            deadlines: VecDeque::new(),
            notes: Vec::new(),
            rules,
        }
    }

    /// Restores a name that was bound before the relay started, for the rest of its time without an agent.
    pub(crate) fn restore(&mut self, restored: &Restored, now: Moment) {
        let Restored { binding, update } = restored;
        // Without a time of leaving, the agent was connected until the stop.
        let away_for = binding
            .away_since
            .map_or(0, |at| now_seconds().saturating_sub(at));
        let left = OFFLINE_KEPT.saturating_sub(Duration::from_secs(away_for));
        let mut name = Name::restored(binding, update);
        let account = match &binding.sub {
            Some(sub) => Registrant::Holder(sub.as_str().into()),
            None => Registrant::UNKNOWN,
        };
        let tunnel = &binding.tunnel;
        let place = self.absent.add(tunnel, &account, &binding.key, now + left);
        name.absent = Some(place);
        self.names.insert(tunnel.clone(), name);
    }

    /// Takes the notes for the state folder since the last call.
    pub(crate) fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// The holder of a name, as reported to operators.
    pub(crate) fn bound(&self, tunnel: &TunnelId, now: Moment) -> Option<BoundReport> {
        let name = self.names.get(tunnel)?;
        let latest = name.latest()?;
        Some(BoundReport {
            sub: latest.sub().map(str::to_owned),
            agent: name::short(latest),
            shared: name.info.shared,
            kept_for_seconds: name.absent.map(|place| place.left(now).as_secs()),
        })
    }

    /// Unbinds a name that no agent serves.
    pub(crate) fn forget(&mut self, tunnel: &TunnelId) -> (Forgotten, Option<RouteUpdate>) {
        match self.names.get(tunnel) {
            None => (Forgotten::Unknown, None),
            Some(name) if name.is_live() => (Forgotten::Live, None),
            Some(_) => (Forgotten::Free, self.remove(tunnel)),
        }
    }

    /// Removes a name without an agent; returns the update for every shard.
    fn remove(&mut self, tunnel: &TunnelId) -> Option<RouteUpdate> {
        let name = self.names.remove(tunnel)?;
        if let Some(place) = name.absent {
            self.absent.remove(tunnel, place);
        }
        if self.rules.is_kept {
            self.notes.push(Note::Forgotten(tunnel.clone()));
        }
        let revision = self.next_number();
        Some(RouteUpdate {
            revision,
            forget: true,
            ..name.update(tunnel)
        })
    }

    /// Number of names that were granted to their agents.
    pub(crate) const fn granted(&self) -> usize {
        self.granted
    }

    fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// Decides on a claim.
    ///
    /// The relay's tunnel limit refuses a claim with [`RefusalReason::TunnelLimit`], a registrant's limit with
    /// [`RefusalReason::Limited`].
    pub(crate) fn claim(&mut self, claim: Claim, now: Moment) -> Decision {
        let known = self.names.get(&claim.tunnel);
        let place = match known.map(|name| name.place(&claim)).transpose() {
            Ok(place) => place.unwrap_or(Claimant::New),
            Err(refusal) => return Decision::Refused(refusal),
        };
        let is_new = known.is_none();
        let account = match known.is_some_and(Name::is_live) {
            true => None,
            false => match self.count_in(&claim) {
                Ok(account) => Some(account),
                Err(refusal) => return Decision::Refused(refusal),
            },
        };
        let revision = self.next_number();
        let (generation, instance) = (Generation(revision), claim.instance);
        let name = self
            .names
            .entry(claim.tunnel.clone())
            .or_insert_with(|| Name::new(&claim));
        let was = (name.absent.is_some(), Arc::clone(&name.info));
        let was_rekeyed = matches!(place, Claimant::New | Claimant::Rekeyed);
        let holder = name.make_way(place, &claim, generation);
        let (before, ran) = (holder.tag, holder.instance);
        let mut fence = holder.claim(&claim, generation);
        let (agent, current) = (holder.tag, holder.generation);
        if current == generation {
            // Open claims of the older generation get no answer: their links are fenced, and a registration ends with
            // its link.
            name.open_claims.retain(|open| {
                let is_over = open.agent == before;
                if is_over && !fence.contains(&open.link) {
                    fence.push(open.link);
                }
                !is_over
            });
        }
        name.revision = revision;
        name.info = claim.info;
        if let Some(place) = name.absent.take() {
            self.absent.remove(&claim.tunnel, place);
        }
        if account.is_some() {
            name.counted = account;
        }
        // Also after a takeover by another run: the run before it must not get the name back after a restart.
        let is_other_run = ran != Some(instance);
        let is_changed = is_new || was_rekeyed || is_other_run || was.0 || *was.1 != *name.info;
        if self.rules.is_kept && is_changed {
            let binding = name.binding(&claim.tunnel, None);
            self.notes.extend(binding.map(Note::bound));
        }
        let deadline = now + CLAIM_TIMEOUT;
        self.deadlines.push_back((deadline, claim.tunnel.clone()));
        let open = OpenClaims {
            link: claim.link,
            agent,
            generation: current,
            requests: vec![claim.request],
            revision,
            missing: (0..self.rules.shards).collect(),
            deadline,
        };
        name.wait(open);
        Decision::Claimed {
            update: name.update(&claim.tunnel),
            fence,
        }
    }

    /// Counts a name that goes live, for the relay and for its registrant.
    fn count_in(&self, claim: &Claim) -> Result<Registrant, Refusal> {
        let tunnel = &claim.tunnel;
        let Rules { live, live_max, .. } = &self.rules;
        if live.fetch_add(1, Ordering::Relaxed) >= *live_max {
            live.fetch_sub(1, Ordering::Relaxed);
            let reason = RefusalReason::TunnelLimit;
            return Err(Refusal::new(reason, format!("{tunnel}: {reason}")));
        }
        let account = Registrant::of(claim.info.owner.as_deref(), claim.address);
        if self.rules.live_of_accounts.enter(&account) {
            return Ok(account);
        }
        live.fetch_sub(1, Ordering::Relaxed);
        let whose = match account {
            Registrant::Holder(_) => "this token's holder",
            Registrant::Address(_) => "this address",
        };
        let text = format!("{tunnel}: the tunnel limit of {whose} is reached");
        Err(Refusal::new(RefusalReason::Limited, text))
    }

    /// Notes that a shard has applied `revision` of a name, and so all earlier ones; returns the claims to acknowledge.
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
        name.open_claims.retain_mut(|open| {
            if open.revision <= revision {
                open.missing.retain(|missing| *missing != shard);
            }
            if open.missing.is_empty() {
                let (link, generation) = (open.link, open.generation);
                confirmed.extend(open.requests.drain(..).map(|request| Confirmed {
                    link,
                    request,
                    generation,
                }));
            }
            !open.missing.is_empty()
        });
        if !confirmed.is_empty() && !name.granted {
            name.granted = true;
            self.granted += 1;
        }
        confirmed
    }

    /// Releases a name of a link.
    pub(crate) fn release(
        &mut self,
        tunnel: &TunnelId,
        link: LinkRef,
        kind: ReleaseKind,
        now: Moment,
    ) -> Released {
        let Some(name) = self.names.get_mut(tunnel) else {
            return Released::default();
        };
        let mut requests = Vec::new();
        name.open_claims.retain_mut(|open| {
            if open.link == link {
                requests.append(&mut open.requests);
            }
            open.link != link
        });
        let Some(holder) = name
            .holders
            .iter_mut()
            .find_map(|it| it.release(link).then_some(it))
        else {
            return Released {
                update: None,
                requests,
            };
        };
        if kind == ReleaseKind::HolderChanged {
            holder.owner = None;
        }
        if !holder.is_live() {
            let owner = holder.info.owner.as_ref();
            let owner = owner.map(|owner| self.owners.find(&owner.sub, &owner.groups));
            let kept = Arc::new(holder.info.kept(owner));
            holder.shrink(&kept);
        }
        self.counter += 1;
        name.revision = self.counter;
        let update = match name.is_live() {
            true => Some(name.update(tunnel)),
            false => self.went_away(tunnel, kind, now),
        };
        Released { update, requests }
    }

    /// Keeps or forgets a name whose last link ended; returns the update for every shard.
    fn went_away(
        &mut self,
        tunnel: &TunnelId,
        kind: ReleaseKind,
        now: Moment,
    ) -> Option<RouteUpdate> {
        let name = self.names.get_mut(tunnel)?;
        self.granted -= usize::from(std::mem::take(&mut name.granted));
        self.rules.live.fetch_sub(1, Ordering::Relaxed);
        let account = name.counted.take().unwrap_or(Registrant::UNKNOWN);
        self.rules.live_of_accounts.leave(&account);
        if kind == ReleaseKind::TakenBack && tunnel.looks_derived() {
            // No other key can claim a derived name, so keeping it would protect nothing.
            return self.remove(tunnel);
        }
        let owner = name.info.owner.as_ref();
        let owner = owner.map(|owner| self.owners.find(&owner.sub, &owner.groups));
        name.shrink(Arc::new(name.info.kept(owner)));
        let key = name.latest()?.key;
        let place = self.absent.add(tunnel, &account, &key, now + OFFLINE_KEPT);
        name.absent = Some(place);
        if self.rules.is_kept {
            let binding = name.binding(tunnel, Some(now_seconds()));
            self.notes.extend(binding.map(Note::bound));
        }
        Some(name.update(tunnel))
    }

    /// Withdraws overdue claims, and forgets names whose time without an agent is over.
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
            let open = self.names.get(&tunnel).map(|name| &name.open_claims);
            let overdue = open.into_iter().flatten().filter(|it| it.deadline <= now);
            late.extend(overdue.map(|it| (tunnel.clone(), it.link)));
        }
        let withdrawn = late
            .into_iter()
            .map(|(tunnel, link)| {
                let released = self.release(&tunnel, link, ReleaseKind::Away, now);
                Withdrawn {
                    tunnel,
                    link,
                    released,
                }
            })
            .collect();
        (withdrawn, self.forget_absent(now))
    }

    /// Forgets names whose time without an agent is over, and beyond the limit the most expendable ones.
    fn forget_absent(&mut self, now: Moment) -> Vec<RouteUpdate> {
        let kept_max = self.rules.live_max * OFFLINE_FACTOR / self.rules.shards + 1;
        let mut forgotten = Vec::new();
        loop {
            let next = match self.absent.overdue(now) {
                None if self.absent.len() > kept_max => self.absent.most_expendable(),
                overdue => overdue,
            };
            let Some(tunnel) = next else {
                return forgotten;
            };
            forgotten.extend(self.remove(&tunnel));
        }
    }
}

#[cfg(test)]
mod tests;
