//! One name: who holds it, who may, and whom to tell.

use std::sync::Arc;

use tieline_wire::{Generation, Moment, Reason, Refusal, TunnelId};

use super::absent;
use super::holder::Holder;
use crate::limits::Account;
use crate::registry::{AgentTag, LinkRef, TunnelInfo};
use crate::shard::message::{Claim, RouteUpdate};
use crate::state::Binding;

/// Agents that may hold one name: each change tells every shard of all of them.
pub(super) const HOLDERS_MAX: usize = 256;

/// Agents of a name that are remembered while none of them is there.
const AWAY_MAX: usize = 8;

/// Bytes of a key by which an agent is named to its own holder and to operators, from its start.
const KEY_BYTES: usize = 6;

/// What an agent can do about a name that it does not get.
const REMEDY: &str = "ask for another name (--name), or have the relay's operator free it while its agent is \
                      away (POST /tunnels/<name>/forget)";

/// A name, whether an agent is there or not.
pub(super) struct Name {
    /// Those who serve it, or did: several only where all of them share it.
    pub(super) holders: Vec<Holder>,
    pub(super) revision: u64,
    /// What was last said of it.
    pub(super) info: Arc<TunnelInfo>,
    pub(super) waiting: Vec<Waiting>,
    /// An agent was told that it holds the name.
    pub(super) granted: bool,
    /// Where it is noted while no agent is there.
    pub(super) absent: Option<absent::Place>,
    /// The account that it counts for while an agent is there.
    pub(super) counted: Option<Account>,
}

/// What one link waits to hear.
pub(super) struct Waiting {
    pub(super) link: LinkRef,
    /// Whose link it is, and under which generation.
    pub(super) agent: AgentTag,
    pub(super) generation: Generation,
    /// All of these are answered at once.
    pub(super) requests: Vec<u32>,
    pub(super) revision: u64,
    /// Shards that have not confirmed.
    pub(super) missing: Vec<usize>,
    pub(super) deadline: Moment,
}

/// Which of a name's holders a claim comes from.
#[derive(Debug)]
pub(super) enum Place {
    /// One that is known.
    Known(usize),
    /// One that joins the others.
    New,
    /// One with another key and the same holder of tokens, whose earlier agents are all away.
    Rekeyed,
}

impl Name {
    pub(super) fn new(claim: &Claim) -> Self {
        Self {
            holders: Vec::new(),
            revision: 0,
            info: Arc::clone(&claim.info),
            waiting: Vec::new(),
            granted: false,
            absent: None,
            counted: None,
        }
    }

    /// A name that was bound before the relay started.
    pub(super) fn restored(binding: &Binding, update: &RouteUpdate) -> Self {
        Self {
            holders: vec![Holder::restored(binding, Arc::clone(&update.info))],
            revision: update.revision,
            info: Arc::clone(&update.info),
            waiting: Vec::new(),
            granted: false,
            absent: None,
            counted: None,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.holders.iter().any(Holder::is_live)
    }

    /// The agent that has the name, or had it last.
    pub(super) fn latest(&self) -> Option<&Holder> {
        let live = self.holders.iter().rfind(|it| it.is_live());
        live.or(self.holders.last())
    }

    /// Whose claim this is, if it may be made.
    ///
    /// A name belongs to a holder of tokens, and to one of its agents, or is shared by agents whose
    /// tokens all say so and whose owners are close. Of those who share it, one on another machine is
    /// another one, also with the same key. Where there are no holders, the key alone decides; and so
    /// it does about a derived name, which no other key can have, while its agent is away.
    pub(super) fn place(&self, claim: &Claim) -> Result<Place, Refusal> {
        let holders = &self.holders;
        let is_shared = claim.info.shared && holders.iter().all(|it| it.info.shared);
        let is_it = |it: &Holder| it.key == claim.key && it.machine == claim.machine;
        // The only one may move to another machine, as a run that takes over.
        let only = match &holders[..] {
            [only] if !is_shared && only.key == claim.key => Some(0),
            _ => None,
        };
        let place = holders.iter().position(is_it).or(only);
        let others = holders
            .iter()
            .enumerate()
            .filter(|(at, _)| Some(*at) != place);
        let live: Vec<_> = others.map(|it| it.1).filter(|it| it.is_live()).collect();
        let tunnel = &claim.tunnel;
        let taken = |text: &str| refusal(Reason::NameTaken, format!("{tunnel}: {text}"));
        let is_close = is_shared && is_close(&self.info, claim);
        if !self.belongs_to_holder_of(claim) && !is_close {
            return Err(taken(&format!(
                "it belongs to another token holder: {REMEDY}"
            )));
        }
        let may_join = is_shared && live.iter().all(|it| self::is_close(&it.info, claim));
        if !live.is_empty() && !may_join && (place.is_some() || claim.info.shared) {
            return Err(taken(&format!("{}: {REMEDY}", Reason::NameTaken)));
        }
        match place {
            Some(place) if holders[place].has_superseded(claim) => {
                let reason = Reason::Superseded;
                Err(refusal(reason, format!("{tunnel}: {reason}")))
            }
            Some(place) => Ok(Place::Known(place)),
            None if is_close => match live.len() {
                HOLDERS_MAX.. => {
                    let text = format!("{tunnel}: {HOLDERS_MAX} agents share it already");
                    Err(refusal(Reason::TunnelLimit, text))
                }
                _ => Ok(Place::New),
            },
            None => self.rekey(claim, live.first().copied()),
        }
    }

    /// Whether the holder of tokens that makes a claim is one that the name belongs to, as far as the
    /// relay can tell.
    fn belongs_to_holder_of(&self, claim: &Claim) -> bool {
        let Some(owner) = &claim.info.owner else {
            return true;
        };
        let is_theirs = |it: &Holder| match it.sub() {
            Some(sub) => sub == owner.sub,
            None => it.key == claim.key,
        };
        if claim.tunnel.looks_derived() {
            // A tunnel that lives does not get other callers behind its agent's back.
            let is_in_use = |it: &Holder| it.is_live() && !is_theirs(it);
            return !self.holders.iter().any(is_in_use);
        }
        self.holders.iter().all(|it| it.owner.is_none()) || self.holders.iter().any(is_theirs)
    }

    /// What becomes of a claim with a key that the name is not bound to, where `live` serves it.
    fn rekey(&self, claim: &Claim, live: Option<&Holder>) -> Result<Place, Refusal> {
        let tunnel = &claim.tunnel;
        let owner = claim.info.owner.as_deref();
        let is_theirs = |it: &Holder| it.sub().is_some() && it.sub() == owner.map(|it| &*it.sub);
        let bound = |text: String| Err(refusal(Reason::NameBound, format!("{tunnel}: {text}")));
        match (self.holders.iter().any(is_theirs), live) {
            (true, None) => Ok(Place::Rekeyed),
            (true, Some(live)) if !self.info.shared => {
                let at = live
                    .address
                    .map(|it| format!(" at {it}"))
                    .unwrap_or_default();
                let key = short(live);
                bound(format!(
                    "another agent with your token serves it{at} (key {key}): stop that one, or ask \
                     for another name (--name)"
                ))
            }
            (false, None) => bound(format!(
                "it is bound to an agent with another key, which is away: {REMEDY}"
            )),
            (_, Some(_)) => {
                let reason = Reason::NameTaken;
                Err(refusal(reason, format!("{tunnel}: {reason}: {REMEDY}")))
            }
        }
    }

    /// Who makes a claim; of those who are away, some are forgotten where there are too many.
    pub(super) fn make_way(
        &mut self,
        place: Place,
        claim: &Claim,
        generation: Generation,
    ) -> &mut Holder {
        let place = match place {
            // Alone again: the others are away, and shared it only with whoever shares it.
            Place::Known(place) if !claim.info.shared => {
                self.holders.swap(0, place);
                self.holders.truncate(1);
                0
            }
            Place::Known(place) => place,
            Place::New | Place::Rekeyed => {
                if matches!(place, Place::Rekeyed) {
                    self.holders.clear();
                } else if self.holders.len() >= HOLDERS_MAX
                    && let Some(away) = self.holders.iter().position(|it| !it.is_live())
                {
                    self.holders.remove(away);
                }
                self.holders.push(Holder::new(claim, generation));
                self.holders.len() - 1
            }
        };
        &mut self.holders[place]
    }

    /// Keeps what is needed of a name without an agent, described by `info` from now on.
    pub(super) fn shrink(&mut self, info: Arc<TunnelInfo>) {
        let too_many = self.holders.len().saturating_sub(AWAY_MAX);
        self.holders.drain(..too_many);
        for holder in &mut self.holders {
            holder.shrink(&info);
        }
        self.holders.shrink_to_fit();
        self.waiting = Vec::new();
        self.info = info;
    }

    /// The binding as it is to be kept over a restart.
    pub(super) fn binding(&self, tunnel: &TunnelId, away_since: Option<u64>) -> Option<Binding> {
        let latest = self.latest()?;
        let kept = self.info.kept(latest.owner.clone());
        let owner = kept.owner.as_deref();
        Some(Binding {
            tunnel: tunnel.clone(),
            key: latest.key,
            machine: latest.machine,
            instance: latest.instance,
            superseded: latest.superseded.iter().copied().collect(),
            sub: owner.map(|owner| owner.sub.clone()),
            groups: owner.map(|owner| owner.groups.clone()).unwrap_or_default(),
            shared: kept.shared,
            scheme: kept.scheme,
            base_path: kept.base_path,
            dcc: kept.dcc,
            capabilities: kept.capabilities,
            expose_all: kept.expose_all,
            away_since,
        })
    }

    /// Notes whom to tell once every shard has heard. A link that asks again hears of both claims
    /// then, and no later than it would have of the first.
    pub(super) fn wait(&mut self, new: Waiting) {
        match self.waiting.iter_mut().find(|it| it.link == new.link) {
            Some(old) => {
                old.requests.extend(new.requests);
                (old.revision, old.missing) = (new.revision, new.missing);
            }
            None => self.waiting.push(new),
        }
    }

    pub(super) fn update(&self, tunnel: &TunnelId) -> RouteUpdate {
        RouteUpdate {
            tunnel: tunnel.clone(),
            revision: self.revision,
            agents: self.holders.iter().filter_map(Holder::serving).collect(),
            info: Arc::clone(&self.info),
            expected: Vec::new(),
            forget: false,
        }
    }
}

/// Whether a claim is of an owner close to that of `info`, and of the same kind.
fn is_close(info: &TunnelInfo, claim: &Claim) -> bool {
    let owners = info.owner.as_ref().zip(claim.info.owner.as_ref());
    info.dcc == claim.info.dcc && owners.is_some_and(|(one, other)| one.is_close_to(other))
}

/// The beginning of a holder's key, as the denylist takes it.
pub(super) fn short(holder: &Holder) -> String {
    data_encoding::HEXLOWER.encode(&holder.key.as_bytes()[..KEY_BYTES])
}

fn refusal(reason: Reason, message: String) -> Refusal {
    Refusal { reason, message }
}
