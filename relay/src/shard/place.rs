//! Where a caller's session is: on a link of this shard, or on another shard.

use tieline_wire::{NoSession, TunnelId};

use super::Shard;
use crate::directory::{Lookup, Upstream};
use crate::registry::{AgentTag, LinkRef, TunnelInfo};
use crate::session::{Session, SessionCaller};

/// Where a caller's session is.
pub(super) enum Place {
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
    ) -> Place {
        let routes = self.directory.routes();
        let link = match routes.upstream(tunnel, agent, self.kit.index, fit) {
            Lookup::Unknown => return Place::NoTarget(NoSession::UnknownTunnel),
            _ if self.is_paused(tunnel) => return Place::NoTarget(NoSession::TunnelPaused),
            Lookup::Offline => return Place::NoTarget(NoSession::TunnelOffline),
            Lookup::Live(Upstream::Link(link)) => link,
        };
        if link.shard != self.kit.index {
            return Place::Shard(link.shard);
        }
        match self.open_session(link, tunnel, caller()) {
            Ok(session) => Place::Here(session),
            Err(reason) => Place::NoTarget(reason),
        }
    }

    /// Opens a session on a link of this shard.
    fn open_session(
        &self,
        link: LinkRef,
        tunnel: &TunnelId,
        caller: SessionCaller,
    ) -> Result<Session, NoSession> {
        let registry = self.registry.borrow();
        // The update that removes the link from the route may be on its way.
        let entry = registry.link(link.link).ok_or(NoSession::TunnelOffline)?;
        let it = entry
            .tunnels()
            .get(tunnel)
            .ok_or(NoSession::TunnelOffline)?;
        entry
            .mux
            .open(tunnel, &it.held, caller)
            .map_err(|error| match error {
                tieline_wire::OpenError::Full => NoSession::SessionLimit,
                tieline_wire::OpenError::Closing => NoSession::TunnelOffline,
            })
    }
}
