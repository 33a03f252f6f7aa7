//! One agent among those that hold a name: which of its runs counts, and by which links.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use tieline_wire::{AgentKey, Generation, InstanceId, MachineId};

use crate::auth::Owner;
use crate::registry::{AgentTag, LinkRef, TunnelInfo};
use crate::session::Load;
use crate::shard::message::{Claim, ServingAgent, ServingLink};
use crate::state::Binding;

/// Instances that are remembered because a newer one took over.
pub(super) const SUPERSEDED_KEPT: usize = 8;

/// An agent that holds a name, alone or with others.
pub(super) struct Holder {
    pub(super) key: AgentKey,
    pub(super) machine: MachineId,
    pub(super) tag: AgentTag,
    /// The holder of its tokens, as the name is bound to it; `None` if it never showed one.
    pub(super) owner: Option<Arc<Owner>>,
    /// Where its latest link comes from; unknown if it has not been here since the relay started.
    pub(super) address: Option<IpAddr>,
    /// Its latest run; unknown if the state folder does not say.
    pub(super) instance: Option<InstanceId>,
    /// Earlier instances, oldest first: none of them gets the name back, also if it never heard
    /// that it lost it.
    pub(super) superseded: VecDeque<InstanceId>,
    pub(super) generation: Generation,
    pub(super) info: Arc<TunnelInfo>,
    links: Vec<Line>,
}

/// A link by which an agent serves a name.
struct Line {
    link: LinkRef,
    /// Its number among the links of the instance.
    index: u16,
    load: Load,
}

impl Holder {
    /// Who makes a claim, before any link of theirs serves the name.
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

    /// The agent to which a name was bound before the relay started.
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

    /// Name of the holder that the name is bound to.
    pub(super) fn sub(&self) -> Option<&str> {
        self.owner.as_deref().map(|owner| owner.sub.as_str())
    }

    pub(super) fn is_live(&self) -> bool {
        !self.links.is_empty()
    }

    /// Whether a newer run of this agent has the name.
    pub(super) fn has_superseded(&self, claim: &Claim) -> bool {
        self.superseded.contains(&claim.instance)
    }

    /// Takes a claim over; the links of an earlier run, which serve no more.
    pub(super) fn claim(&mut self, claim: &Claim, generation: Generation) -> Vec<LinkRef> {
        let mut fenced = Vec::new();
        let is_same = self.instance == Some(claim.instance);
        // One that was there before the relay started gets a generation of this start.
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
        // A link of the same number was lost, even if its shard has not noticed yet: the network
        // of an agent that moved may stay silent until the old link is stale.
        self.links.retain(|line| line.index != claim.link_index);
        self.links.push(Line {
            link: claim.link,
            index: claim.link_index,
            load: claim.load.clone(),
        });
        self.address = Some(claim.address);
        self.info = Arc::clone(&claim.info);
        // One that shows no holder now does not unbind the name from the one that it had.
        if let Some(owner) = &claim.info.owner {
            self.owner = Some(Arc::clone(owner));
        }
        fenced
    }

    /// Keeps what is needed of an agent that is away.
    pub(super) fn shrink(&mut self, info: &Arc<TunnelInfo>) {
        self.info = Arc::clone(info);
        self.links = Vec::new();
        self.superseded.shrink_to_fit();
    }

    /// Takes a link out; tells whether it was one.
    pub(super) fn release(&mut self, link: LinkRef) -> bool {
        let before = self.links.len();
        self.links.retain(|line| line.link != link);
        self.links.len() < before
    }

    /// As every shard is told of it, while it has a link.
    pub(super) fn serving(&self) -> Option<ServingAgent> {
        let link = |line: &Line| ServingLink {
            at: line.link,
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
