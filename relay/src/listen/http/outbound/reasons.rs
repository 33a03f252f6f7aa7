//! What the reason for a session's end says about another try.

use tieline_wire::SessionEnd;

/// Reasons for a failed session that go away when the agent comes back.
pub(crate) fn is_away(reason: SessionEnd) -> bool {
    matches!(
        reason,
        SessionEnd::TunnelOffline
            | SessionEnd::Kicked
            | SessionEnd::LinkLost
            | SessionEnd::Superseded
            | SessionEnd::ShuttingDown
    )
}

/// Reasons for which a target took no connection; another agent's target may take it.
pub(crate) const fn is_of_target(reason: SessionEnd) -> bool {
    reason.no_target().is_some()
}

/// Maps an agent's reset reason: `UnknownTunnel` means that the agent has given the tunnel back.
pub(super) const fn of_agent(reason: SessionEnd) -> SessionEnd {
    match reason {
        SessionEnd::UnknownTunnel => SessionEnd::TunnelOffline,
        reason => reason,
    }
}
