//! What links and operators ask of a name: a claim, a release, and an order to forget it.

use std::net::IpAddr;
use std::sync::Arc;

use tieline_wire::{AgentKey, InstanceId, MachineId, TunnelId};

use crate::registry::{LinkRef, TunnelInfo};
use crate::session::Load;

/// A link's claim to a name.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) tunnel: TunnelId,
    pub(crate) key: AgentKey,
    pub(crate) machine: MachineId,
    pub(crate) instance: InstanceId,
    pub(crate) link: LinkRef,
    /// The address of the link's peer.
    pub(crate) address: IpAddr,
    /// Number of sessions of the name on the link.
    pub(crate) load: Load,
    /// Index of the link among the agent's links; a later link with the same index replaces the earlier one.
    pub(crate) link_index: u16,
    /// The agent's number for the registration.
    pub(crate) request: u32,
    pub(crate) info: Arc<TunnelInfo>,
}

/// How a link gives up a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReleaseKind {
    /// The link ended; the name stays bound.
    Away,
    /// The agent unregistered the tunnel; a derived name, which no other agent can claim, is forgotten.
    TakenBack,
    /// The token holder behind the agent's key has changed: another holder may claim the name with the same key.
    HolderChanged,
}

/// Outcome of an order to unbind a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forgotten {
    /// The name is free.
    Free,
    /// An agent serves the name, so it stays bound.
    Live,
    /// The name was not bound.
    Unknown,
}
