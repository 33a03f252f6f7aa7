//! One name: who holds it, who may, and whom to tell.

use std::sync::Arc;

use tieline_wire::{Generation, Moment, Reason, TunnelId};

use super::holder::Holder;
use crate::registry::{AgentTag, LinkRef, TunnelInfo};
use crate::shard::message::{Claim, RouteUpdate};

/// Agents that may hold one name: each change tells every shard of all of them.
pub(super) const HOLDERS_MAX: usize = 256;

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
    pub(super) offline_since: Option<Moment>,
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
pub(super) enum Place {
    /// One that is known.
    Known(usize),
    /// One that joins the others.
    New,
}

impl Name {
    pub(super) fn new(claim: &Claim) -> Self {
        Self {
            holders: Vec::new(),
            revision: 0,
            info: Arc::clone(&claim.info),
            waiting: Vec::new(),
            granted: false,
            offline_since: None,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.holders.iter().any(Holder::is_live)
    }

    /// Whose claim this is, if it may be made.
    ///
    /// A name is bound to one key, or shared by agents whose tokens all say so and whose owners are
    /// close. Of those who share it, one on another machine is another one, also with the same key.
    pub(super) fn place(&self, claim: &Claim) -> Result<Place, Reason> {
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
        let may_join = is_shared && live.iter().all(|it| is_close(&it.info, claim));
        if !live.is_empty() && !may_join {
            return Err(Reason::NameTaken);
        }
        match place {
            Some(place) if holders[place].has_superseded(claim) => Err(Reason::Superseded),
            Some(place) => Ok(Place::Known(place)),
            None if !is_shared || !is_close(&self.info, claim) => Err(Reason::NameTaken),
            None if live.len() >= HOLDERS_MAX => Err(Reason::TunnelLimit),
            None => Ok(Place::New),
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
            Place::New => {
                if self.holders.len() >= HOLDERS_MAX
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
            forget: false,
        }
    }
}

/// Whether a claim is of an owner close to that of `info`, and of the same kind.
fn is_close(info: &TunnelInfo, claim: &Claim) -> bool {
    let owners = info.owner.as_ref().zip(claim.info.owner.as_ref());
    info.dcc == claim.info.dcc && owners.is_some_and(|(one, other)| one.is_close_to(other))
}
