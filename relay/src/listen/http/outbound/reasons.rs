//! What the reason for a session's end says about another try.

use tieline_wire::Reason;

/// Reasons for a failed session that go away when the agent comes back.
pub(crate) fn is_away(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::TunnelOffline
            | Reason::Kicked
            | Reason::LinkLost
            | Reason::Stale
            | Reason::Superseded
            | Reason::ShuttingDown
    )
}

/// Reasons for which a target took no connection; another agent's target may take it.
pub(crate) const fn is_of_target(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::TargetRefused | Reason::TargetUnreachable | Reason::TargetTimeout
    )
}

/// Maps an agent's reset reason: `UnknownTunnel` means that the agent has given the tunnel back.
pub(super) const fn of_agent(reason: Reason) -> Reason {
    match reason {
        Reason::UnknownTunnel => Reason::TunnelOffline,
        reason => reason,
    }
}
