//! Where a caller's session is: on a link of this shard, or on another shard.

use tieline_wire::{NoSession, TunnelId};

use super::Shard;
use crate::directory::{Lookup, Upstream};
use crate::registry::{AgentTag, TunnelInfo};
use crate::session::{Session, SessionCaller};

/// Where a caller's session is.
pub(super) enum SessionPlace {
    Here(Session),
    Shard(usize),
    NoTarget(NoSession),
}

impl Shard {
    /// The shard of a link to `agent`, if `fit` accepts the agent; if it is this shard, opens the session for `caller`.
    pub(super) fn place(
        &self,
        tunnel: &TunnelId,
        agent: AgentTag,
        fit: impl Fn(&TunnelInfo) -> bool,
        caller: impl FnOnce() -> SessionCaller,
    ) -> SessionPlace {
        let routes = self.directory.routes();
        let link = match routes.upstream(tunnel, agent, self.kit.index, fit) {
            Lookup::Unknown => return SessionPlace::NoTarget(NoSession::UnknownTunnel),
            _ if self.agents.is_paused(tunnel) => {
                return SessionPlace::NoTarget(NoSession::TunnelPaused);
            }
            Lookup::Offline => return SessionPlace::NoTarget(NoSession::TunnelOffline),
            Lookup::Live(Upstream::Link(link)) => link,
        };
        if link.shard != self.kit.index {
            return SessionPlace::Shard(link.shard);
        }
        match self.agents.open_session(link, tunnel, caller()) {
            Ok(session) => SessionPlace::Here(session),
            Err(reason) => SessionPlace::NoTarget(reason),
        }
    }
}
