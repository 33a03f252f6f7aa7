//! The Close frame's code for a caller over WebSocket whose session was reset because of the target, the agent or the
//! tunnel. A caller whose own access was revoked gets its code from `shard/upgrades`.

use tieline_transport::websocket::code;
use tieline_wire::SessionEnd;

/// Code of the Close frame for `reason`; it tells the caller whether it may try again soon.
pub(super) const fn code(reason: SessionEnd) -> u16 {
    match reason {
        SessionEnd::LinkLost
        | SessionEnd::LaneLost
        | SessionEnd::Superseded
        | SessionEnd::Kicked
        | SessionEnd::TokenExpired
        | SessionEnd::ClaimTimeout
        | SessionEnd::TunnelLimit
        | SessionEnd::SessionLimit
        | SessionEnd::Overload
        | SessionEnd::Limited
        | SessionEnd::ShuttingDown
        | SessionEnd::AuthUnavailable
        | SessionEnd::TunnelOffline
        | SessionEnd::TunnelPaused => code::TRY_AGAIN,
        _ => code::INTERNAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_never_looks_like_an_end_in_order() {
        for reason in SessionEnd::ALL {
            assert!(matches!(code(*reason), code::TRY_AGAIN | code::INTERNAL));
        }
        assert_eq!(code(SessionEnd::LinkLost), code::TRY_AGAIN);
        assert_eq!(code(SessionEnd::Kicked), code::TRY_AGAIN);
        assert_eq!(code(SessionEnd::TargetReset), code::INTERNAL);
    }
}
