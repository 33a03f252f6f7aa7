//! What the caller over WebSocket hears when its session is reset. The reasons are those of the target, of the agent and
//! of the tunnel; a caller that is revoked itself hears another code.

use tieline_transport::websocket::code;
use tieline_wire::SessionEnd;

/// Code of the Close frame for `reason`: whether the caller may try again soon.
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
