//! One agent among the holders of a name: its current instance and its links.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use tieline_wire::{AgentKey, Generation, InstanceId, MachineId};

use crate::auth::Owner;
use crate::directory::claim::Claim;
use crate::directory::route::{ServingAgent, ServingLink, Upstream};
use crate::registry::{AgentTag, LinkRef, TunnelInfo};
use crate::session::Load;
use crate::state::Binding;

/// Superseded instances that a holder remembers.
pub(super) const SUPERSEDED_KEPT: usize = 8;

/// An agent that holds a name, alone or with other agents.
pub(super) struct Holder {
    pub(super) key: AgentKey,
    pub(super) machine: MachineId,
    pub(super) tag: AgentTag,
    /// The token holder that the name is bound to; `None` if the agent never presented a token.
    pub(super) owner: Option<Arc<Owner>>,
    /// Address of the latest link's peer; `None` if the agent has not connected since the relay started.
    pub(super) address: Option<IpAddr>,
    /// The latest instance; `None` if the state folder does not know it.
    pub(super) instance: Option<InstanceId>,
    /// Superseded instances, oldest first. They never get the name back, even if they do not know that they lost it.
    pub(super) superseded: VecDeque<InstanceId>,
    pub(super) generation: Generation,
    pub(super) info: Arc<TunnelInfo>,
    links: Vec<HolderLink>,
}

/// A link over which an agent serves a name.
struct HolderLink {
    link: LinkRef,
    /// Index of the link among the instance's links.
    index: u16,
    load: Load,
}

impl Holder {
    /// The agent that makes a claim, without links yet.
    pub(super) fn new(claim: &Claim, generation: Generation) -> Self {
        Self {
            key: claim.key,
            machine: claim.machine,
            tag: AgentTag::of(&claim.key, &claim.machine),
            owner: claim.info.owner.clone(),
            address: Some(claim.address),
            instance: Some(claim.instance),
            superseded: VecDeque::new(),
            generation,
            info: Arc::clone(&claim.info),
            links: Vec::new(),
        }
    }

    /// The agent that a name was bound to before the relay started.
    pub(super) fn restored(binding: &Binding, info: Arc<TunnelInfo>) -> Self {
        Self {
            key: binding.key,
            machine: binding.machine,
            tag: AgentTag::of(&binding.key, &binding.machine),
            owner: info.owner.clone(),
            address: None,
            instance: binding.instance,
            superseded: VecDeque::from(binding.superseded.clone()),
            generation: Generation::default(),
            info,
            links: Vec::new(),
        }
    }

    /// Subject of the token holder that the name is bound to.
    pub(super) fn sub(&self) -> Option<&str> {
        self.owner.as_deref().map(|owner| owner.sub.as_str())
    }

    pub(super) fn is_live(&self) -> bool {
        !self.links.is_empty()
    }

    /// Whether a newer instance of the agent has taken over from the claim's.
    pub(super) fn has_superseded(&self, claim: &Claim) -> bool {
        self.superseded.contains(&claim.instance)
    }

    /// Accepts a claim; returns the links of the instance that it supersedes.
    pub(super) fn claim(&mut self, claim: &Claim, generation: Generation) -> Vec<LinkRef> {
        let mut fenced = Vec::new();
        let is_same = self.instance == Some(claim.instance);
        // A holder from before the relay started gets a generation of this start.
        if !is_same || self.generation == Generation::default() {
            fenced.extend(self.links.drain(..).map(|line| line.link));
            self.superseded.extend(self.instance.filter(|_| !is_same));
            while self.superseded.len() > SUPERSEDED_KEPT {
                self.superseded.pop_front();
            }
            self.instance = Some(claim.instance);
            self.machine = claim.machine;
            self.tag = AgentTag::of(&claim.key, &claim.machine);
            self.generation = generation;
        }
        // The earlier link with the same index is lost, even if its shard has not noticed: the network of an agent that
        // moved may stay silent until the old link is stale.
        self.links.retain(|line| line.index != claim.link_index);
        self.links.push(HolderLink {
            link: claim.link,
            index: claim.link_index,
            load: claim.load.clone(),
        });
        self.address = Some(claim.address);
        self.info = Arc::clone(&claim.info);
        // A claim without a token does not unbind the name from its token holder.
        if let Some(owner) = &claim.info.owner {
            self.owner = Some(Arc::clone(owner));
        }
        fenced
    }

    /// Drops what is not needed of an agent that is away.
    pub(super) fn shrink(&mut self, info: &Arc<TunnelInfo>) {
        self.info = Arc::clone(info);
        self.links = Vec::new();
        self.superseded.shrink_to_fit();
    }

    /// Removes a link; returns whether the holder had it.
    pub(super) fn release(&mut self, link: LinkRef) -> bool {
        let before = self.links.len();
        self.links.retain(|line| line.link != link);
        self.links.len() < before
    }

    /// The holder as every shard's routes know it, while it has a link.
    pub(super) fn serving(&self) -> Option<ServingAgent> {
        let link = |line: &HolderLink| ServingLink {
            at: Upstream::Link(line.link),
            load: line.load.clone(),
        };
        self.is_live().then(|| ServingAgent {
            tag: self.tag,
            generation: self.generation,
            info: Arc::clone(&self.info),
            links: self.links.iter().map(link).collect(),
        })
    }
}
