//! What a caller asks for: tunnels by name or kind, perhaps one certain agent, and what the agent must offer.

use tieline_wire::TunnelId;

use super::kinds::OwnerGroup;
use crate::registry::{AgentTag, TunnelInfo};

/// Tunnels that a caller names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TunnelSelector {
    Tunnel(TunnelId),
    /// Any tunnel of this kind of application.
    Kind(String),
}

/// One agent of one tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AgentBinding {
    pub(crate) tunnel: TunnelId,
    pub(crate) agent: AgentTag,
}

/// The tunnels among which an agent is chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Among<'a> {
    Tunnel(&'a TunnelId),
    /// The tunnels of a kind of application that belong to one of these groups.
    Kind(&'a str, &'a [OwnerGroup]),
}

impl<'a> Among<'a> {
    /// The tunnels that `selector` names, for a caller that may reach the tunnels of `owners`.
    pub(crate) fn of(selector: &'a TunnelSelector, owners: &'a [OwnerGroup]) -> Self {
        match selector {
            TunnelSelector::Tunnel(tunnel) => Self::Tunnel(tunnel),
            TunnelSelector::Kind(kind) => Self::Kind(kind, owners),
        }
    }
}

/// An agent whose link was found to be lost, and the revision of the route that led to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stale<'a> {
    pub(crate) tunnel: &'a TunnelId,
    pub(crate) agent: AgentTag,
    pub(crate) revision: u64,
}

/// A caller's question: which agent serves it?
#[derive(Clone, Copy)]
pub(crate) struct Query<'a> {
    pub(crate) among: Among<'a>,
    /// The only agent that may serve the caller, if it is bound to one.
    pub(crate) binding: Option<&'a AgentBinding>,
    pub(crate) stale: Option<Stale<'a>>,
    /// Whether the caller may know of a tunnel, by the description of one of its agents.
    pub(crate) may_know: &'a dyn Fn(&TunnelId, &TunnelInfo) -> bool,
    /// Whether the target of an agent refused a connection for this caller; the agent is not chosen again.
    pub(crate) tried: &'a dyn Fn(&TunnelId, AgentTag) -> bool,
    /// Whether a target, as its agent describes it, serves what the caller asks for; `None` if the caller uses every
    /// target and needs no description.
    pub(crate) serves: Option<&'a dyn Fn(&TunnelInfo) -> bool>,
    /// Whether the caller has a kept connection to an agent.
    pub(crate) kept: &'a dyn Fn(&TunnelId, AgentTag) -> bool,
    /// The shard on which the caller should stay: an agent with a link there is preferred.
    pub(crate) near: Option<usize>,
}

impl<'a> Query<'a> {
    /// A question without preferences among the agents that the caller `may_know` of.
    pub(crate) fn new(
        among: Among<'a>,
        may_know: &'a dyn Fn(&TunnelId, &TunnelInfo) -> bool,
    ) -> Self {
        Self {
            among,
            binding: None,
            stale: None,
            may_know,
            tried: &|_, _| false,
            serves: None,
            kept: &|_, _| false,
            near: None,
        }
    }

    /// Whether a target with this description serves what the caller asks for.
    pub(super) fn is_served_by(&self, info: &TunnelInfo) -> bool {
        self.serves.is_none_or(|serves| serves(info))
    }
}
