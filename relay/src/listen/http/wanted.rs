//! What a request wants of its shard: a tunnel, or any of a kind, and which agent it is bound to.

use std::sync::Arc;

use tieline_wire::{Reason, TunnelId};

use super::exposure::is_exposed;
use crate::registry::{AgentTag, TunnelInfo};

/// What a request is for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) aim: Aim,
    /// The kind of application in the URL, if there is one: it leads to tunnels of this kind only.
    pub(crate) dcc: Option<Arc<str>>,
    /// The agent that has to answer, and none else.
    pub(crate) pin: Option<Pin>,
    /// Path and query that its target is asked for.
    pub(crate) path: String,
    /// Whether the target itself named that path to this caller.
    pub(crate) is_invited: bool,
}

/// Which tunnels a URL names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Aim {
    Tunnel(TunnelId),
    /// Any tunnel of this kind of application.
    Kind(String),
}

/// One agent of one tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    pub(crate) tunnel: TunnelId,
    pub(crate) agent: AgentTag,
}

/// Why there is nowhere for a request to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nowhere {
    /// No such tunnel, or none that could answer.
    Refused(Reason),
    /// The agent that it was bound to has left.
    AgentGone,
    /// No agent is there, and the relay stops.
    Stopping,
}

impl Wanted {
    /// Whether callers may ask the target of `info` for that path.
    pub(crate) fn is_exposed_by(&self, info: &TunnelInfo) -> bool {
        self.is_invited || info.expose_all || is_exposed(&info.base_path, &self.path)
    }
}
