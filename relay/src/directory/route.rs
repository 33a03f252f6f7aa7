//! The route of a name, as its home shard decides it and every shard applies it.

use std::sync::Arc;

use tieline_wire::{Generation, TunnelId};

use crate::registry::{AgentTag, LinkRef, TunnelInfo};
use crate::session::Load;

/// The whole route of a name, as its home shard decided.
#[derive(Clone, Debug)]
pub(crate) struct RouteUpdate {
    pub(crate) tunnel: TunnelId,
    /// Rises with every change; a shard ignores an update whose revision is not above its own.
    pub(crate) revision: u64,
    /// Empty while all agents are away; several if agents share the name.
    pub(crate) agents: Vec<ServingAgent>,
    /// The latest description of the target.
    pub(crate) info: Arc<TunnelInfo>,
    /// Agents that served the name before the relay started, and may reconnect.
    pub(crate) expected: Vec<AgentTag>,
    /// The name is forgotten: remove its route.
    pub(crate) forget: bool,
}

/// An agent that serves a name.
#[derive(Clone, Debug)]
pub(crate) struct ServingAgent {
    pub(crate) tag: AgentTag,
    /// Rises when another instance takes over; no two agents have the same one.
    pub(crate) generation: Generation,
    pub(crate) info: Arc<TunnelInfo>,
    /// Never empty.
    pub(crate) links: Vec<ServingLink>,
}

/// A link over which an agent serves a name.
#[derive(Clone, Debug)]
pub(crate) struct ServingLink {
    pub(crate) at: Upstream,
    /// Number of the name's sessions on the link.
    pub(crate) load: Load,
}

/// What a route leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upstream {
    /// A link between an agent and this relay process; the only kind so far.
    Link(LinkRef),
}

impl Upstream {
    /// Whether a shard can open sessions without another shard's help.
    pub(crate) const fn is_on(self, shard: usize) -> bool {
        self.shard() == shard
    }

    /// The shard that opens sessions.
    pub(crate) const fn shard(self) -> usize {
        let Self::Link(link) = self;
        link.shard
    }
}

/// An agent's part of a route, from which a front makes what it needs of the agent's target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Served<'a> {
    pub(crate) tunnel: &'a TunnelId,
    pub(crate) agent: AgentTag,
    pub(crate) generation: Generation,
    /// Revision of the route.
    pub(crate) revision: u64,
    pub(crate) info: &'a TunnelInfo,
}
