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
    pub(crate) at: LinkRef,
    /// Number of the name's sessions on the link.
    pub(crate) load: Load,
}
