//! One name: its holders, which claims it accepts, and the links that wait for an acknowledgement.

use std::sync::Arc;

use tieline_wire::{Generation, Moment, Refusal, RefusalReason, TunnelId};

use super::absent::AbsentEntry;
use super::holder::Holder;
use crate::directory::claim::Claim;
use crate::directory::route::RouteUpdate;
use crate::limits::Registrant;
use crate::registry::{AgentTag, LinkRef, TunnelInfo};
use crate::state::Binding;

/// Agents that may share one name; every change sends all of them to every shard.
pub(super) const HOLDERS_MAX: usize = 256;

/// Agents of a name that are kept while all of them are away.
const AWAY_MAX: usize = 8;

/// Leading bytes of an agent's key that its own token holder and operators are shown.
const KEY_BYTES: usize = 6;

/// Advice to an agent whose claim is refused.
const REMEDY: &str = "ask for another name (--name), or have the relay's operator free it while its agent is \
                      away (POST /tunnels/<name>/forget)";

/// A name, with or without an agent connected.
pub(super) struct Name {
    /// Agents that serve the name, or did; several only if all of them share it.
    pub(super) holders: Vec<Holder>,
    pub(super) revision: u64,
    /// The latest description of the target.
    pub(super) info: Arc<TunnelInfo>,
    pub(super) open_claims: Vec<OpenClaims>,
    /// Whether an agent was told that it holds the name.
    pub(super) granted: bool,
    /// Entry among the names without an agent, while no agent is connected.
    pub(super) absent: Option<AbsentEntry>,
    /// The registrant whose limit counts the name, while an agent is connected.
    pub(super) counted: Option<Registrant>,
}

/// Open claims of one link.
pub(super) struct OpenClaims {
    pub(super) link: LinkRef,
    /// The agent of the link, and the generation that the claims get.
    pub(super) agent: AgentTag,
    pub(super) generation: Generation,
    /// Requests that are acknowledged together.
    pub(super) requests: Vec<u32>,
    pub(super) revision: u64,
    /// Shards that have not confirmed the revision.
    pub(super) missing: Vec<usize>,
    pub(super) deadline: Moment,
}

/// Where a claim's agent stands among the holders of a name.
#[derive(Debug)]
pub(super) enum Claimant {
    /// A known holder, by its index.
    Known(usize),
    /// A new holder beside the others, if there are any.
    New,
    /// A new key of the same token holder, whose earlier agents are all away.
    Rekeyed,
}

impl Name {
    pub(super) fn new(claim: &Claim) -> Self {
        Self {
            holders: Vec::new(),
            revision: 0,
            info: Arc::clone(&claim.info),
            open_claims: Vec::new(),
            granted: false,
            absent: None,
            counted: None,
        }
    }

    /// Restores a name that was bound before the relay started.
    pub(super) fn restored(binding: &Binding, update: &RouteUpdate) -> Self {
        Self {
            holders: vec![Holder::restored(binding, Arc::clone(&update.info))],
            revision: update.revision,
            info: Arc::clone(&update.info),
            open_claims: Vec::new(),
            granted: false,
            absent: None,
            counted: None,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.holders.iter().any(Holder::is_live)
    }

    /// The latest live holder, or the latest one that left.
    pub(super) fn latest(&self) -> Option<&Holder> {
        let live = self.holders.iter().rfind(|it| it.is_live());
        live.or(self.holders.last())
    }

    /// Where the agent of a claim stands among the holders, if the claim is acceptable.
    ///
    /// A name belongs to a token holder, and to one of its agents. Agents share it if their tokens all allow sharing
    /// and have the same subject or a common group. A shared name tells agents apart by key and machine. Without token
    /// holders, the key alone decides. The key alone also decides about a derived name while its agent is away, since
    /// no other key can have it.
    pub(super) fn place(&self, claim: &Claim) -> Result<Claimant, Refusal> {
        let holders = &self.holders;
        let is_shared = claim.info.shared && holders.iter().all(|it| it.info.shared);
        let is_it = |it: &Holder| it.key == claim.key && it.machine == claim.machine;
        // An agent that does not share the name may move to another machine, as a run that takes over.
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
        let taken =
            |text: &str| Refusal::new(RefusalReason::NameTaken, format!("{tunnel}: {text}"));
        let is_close = is_shared && is_close(&self.info, claim);
        if !self.belongs_to_holder_of(claim) && !is_close {
            return Err(taken(&format!(
                "it belongs to another token holder: {REMEDY}"
            )));
        }
        let may_join = is_shared && live.iter().all(|it| self::is_close(&it.info, claim));
        if !live.is_empty() && !may_join && (place.is_some() || claim.info.shared) {
            return Err(taken(&format!("{}: {REMEDY}", RefusalReason::NameTaken)));
        }
        match place {
            Some(place) if holders[place].has_superseded(claim) => {
                let reason = RefusalReason::Superseded;
                Err(Refusal::new(reason, format!("{tunnel}: {reason}")))
            }
            Some(place) => Ok(Claimant::Known(place)),
            None if is_close => match live.len() {
                HOLDERS_MAX.. => {
                    let text = format!("{tunnel}: {HOLDERS_MAX} agents share it already");
                    Err(Refusal::new(RefusalReason::TunnelLimit, text))
                }
                _ => Ok(Claimant::New),
            },
            None => self.rekey(claim, live.first().copied()),
        }
    }

    /// Whether the token holder of a claim may have the name: it is bound to that holder, or to none, or it is a
    /// derived name whose agent is away. A claim without a token passes.
    fn belongs_to_holder_of(&self, claim: &Claim) -> bool {
        let Some(owner) = &claim.info.owner else {
            return true;
        };
        let is_theirs = |it: &Holder| match it.sub() {
            Some(sub) => sub == owner.sub,
            None => it.key == claim.key,
        };
        if claim.tunnel.looks_derived() {
            // A live tunnel does not change to other callers behind its agent's back.
            let is_in_use = |it: &Holder| it.is_live() && !is_theirs(it);
            return !self.holders.iter().any(is_in_use);
        }
        self.holders.iter().all(|it| it.owner.is_none()) || self.holders.iter().any(is_theirs)
    }

    /// Decides on a claim with a key that no holder of the name has; `live` is a live holder.
    fn rekey(&self, claim: &Claim, live: Option<&Holder>) -> Result<Claimant, Refusal> {
        let tunnel = &claim.tunnel;
        let owner = claim.info.owner.as_deref();
        let is_theirs = |it: &Holder| it.sub().is_some() && it.sub() == owner.map(|it| &*it.sub);
        let bound = |text: String| {
            Err(Refusal::new(
                RefusalReason::NameBound,
                format!("{tunnel}: {text}"),
            ))
        };
        match (self.holders.iter().any(is_theirs), live) {
            (true, None) => Ok(Claimant::Rekeyed),
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
                let text = format!("{tunnel}: {}: {REMEDY}", RefusalReason::NameTaken);
                Err(Refusal::new(RefusalReason::NameTaken, text))
            }
        }
    }

    /// The holder that makes a claim; replaces or evicts holders that are away where needed.
    pub(super) fn make_way(
        &mut self,
        place: Claimant,
        claim: &Claim,
        generation: Generation,
    ) -> &mut Holder {
        let place = match place {
            // The claim does not share the name, so the other holders, which are all away, lose it.
            Claimant::Known(place) if !claim.info.shared => {
                self.holders.swap(0, place);
                self.holders.truncate(1);
                0
            }
            Claimant::Known(place) => place,
            Claimant::New | Claimant::Rekeyed => {
                if matches!(place, Claimant::Rekeyed) {
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

    /// Drops what a name without an agent does not need, and describes it by `info` from now on.
    pub(super) fn shrink(&mut self, info: Arc<TunnelInfo>) {
        let too_many = self.holders.len().saturating_sub(AWAY_MAX);
        self.holders.drain(..too_many);
        for holder in &mut self.holders {
            holder.shrink(&info);
        }
        self.holders.shrink_to_fit();
        self.open_claims = Vec::new();
        self.info = info;
    }

    /// The binding for the state folder.
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

    /// Adds a link's claim to those that wait for every shard. If the link waits already, both claims are acknowledged
    /// together, and the deadline stays that of the first.
    pub(super) fn wait(&mut self, new: OpenClaims) {
        match self.open_claims.iter_mut().find(|it| it.link == new.link) {
            Some(old) => {
                old.requests.extend(new.requests);
                (old.revision, old.missing) = (new.revision, new.missing);
            }
            None => self.open_claims.push(new),
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

/// Whether a claim and `info` name the same kind of application, and their owners have the same subject or a common
/// group.
fn is_close(info: &TunnelInfo, claim: &Claim) -> bool {
    let owners = info.owner.as_ref().zip(claim.info.owner.as_ref());
    info.dcc == claim.info.dcc && owners.is_some_and(|(one, other)| one.is_close_to(other))
}

/// Leading bytes of the holder's key in hexadecimal, as the denylist accepts them.
pub(super) fn short(holder: &Holder) -> String {
    data_encoding::HEXLOWER.encode(&holder.key.as_bytes()[..KEY_BYTES])
}
