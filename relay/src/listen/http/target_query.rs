//! What a request asks its shard for: one tunnel or any tunnel of a kind, and perhaps one certain agent.

use std::sync::Arc;

use tieline_wire::SessionEnd;

use super::inbound::exposure::is_exposed;
use crate::directory::{AgentBinding, TunnelSelector};
use crate::registry::TunnelInfo;

/// Search criteria for a request's target.
#[derive(Clone, Debug)]
pub(crate) struct TargetQuery {
    pub(crate) selector: TunnelSelector,
    /// Kind of application in the URL, if the URL has one; only tunnels of this kind match.
    pub(crate) dcc: Option<Arc<str>>,
    /// The only agent that may answer, if the request is bound to one.
    pub(crate) binding: Option<AgentBinding>,
    /// Path and query for the target.
    pub(crate) path: String,
    /// Whether the target itself gave this caller the path, so that `base_path` does not limit it.
    pub(crate) is_invited: bool,
}

/// Why a request has no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoTarget {
    /// The tunnel is unknown or cannot answer, for this reason.
    Refused(SessionEnd),
    /// The agent that the request is bound to has left.
    AgentGone,
    /// No agent is connected, and the relay is shutting down.
    Stopping,
}

impl TargetQuery {
    /// Whether callers may request this path from the target of `info`.
    pub(crate) fn is_exposed_by(&self, info: &TunnelInfo) -> bool {
        self.is_invited || info.expose_all || is_exposed(&info.base_path, &self.path)
    }
}
