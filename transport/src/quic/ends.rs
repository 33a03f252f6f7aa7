//! Reasons of Tieline as error codes of QUIC, and back.

use quinn_proto::{ConnectionError, VarInt};
use tieline_wire::{Error, LinkEnd, SessionEnd, Side};

/// Code of a CONNECTION_CLOSE with which a link ends for `reason`.
#[must_use]
pub fn close_code(reason: LinkEnd) -> VarInt {
    reason.code().into()
}

/// Code of the RESET_STREAM and the STOP_SENDING with which a session ends for `reason`.
#[must_use]
pub fn session_code(reason: SessionEnd) -> VarInt {
    reason.code().into()
}

/// The reason of a session's end with a code of RESET_STREAM or STOP_SENDING.
#[must_use]
pub fn session_end(code: VarInt) -> SessionEnd {
    SessionEnd::from_code(u16::try_from(u64::from(code)).unwrap_or_default())
}

/// The reason of a link's end with a code of CONNECTION_CLOSE.
#[must_use]
pub fn link_end(code: VarInt) -> LinkEnd {
    LinkEnd::from_code(u16::try_from(u64::from(code)).unwrap_or_default())
}

/// Why a link ended whose connection was lost.
#[must_use]
pub fn lost(error: &ConnectionError) -> Error {
    let (side, reason) = match error {
        // 0 is not a reason: a close without one, as by a program that was stopped.
        ConnectionError::ApplicationClosed(close) if u64::from(close.error_code) > 0 => {
            (Side::Peer, link_end(close.error_code))
        }
        ConnectionError::TransportError(_) => (Side::Peer, LinkEnd::Protocol),
        ConnectionError::VersionMismatch => (Side::Peer, LinkEnd::Version),
        ConnectionError::TimedOut => (Side::Peer, LinkEnd::Stale),
        ConnectionError::LocallyClosed => (Side::Local, LinkEnd::LinkLost),
        ConnectionError::CidsExhausted => (Side::Local, LinkEnd::Overload),
        ConnectionError::ApplicationClosed(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::Reset => (Side::Peer, LinkEnd::LinkLost),
    };
    Error {
        reason,
        side,
        detail: error.to_string(),
    }
}

/// The peer broke a rule, or ended the link.
pub(super) fn peer(reason: LinkEnd, detail: impl Into<String>) -> Error {
    Error {
        reason,
        side: Side::Peer,
        detail: detail.into(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quinn_proto::ApplicationClose;

    use super::*;

    #[test]
    fn every_reason_survives_its_code() {
        for reason in SessionEnd::ALL {
            assert_eq!(session_end(session_code(*reason)), *reason);
        }
        assert_eq!(session_end(VarInt::MAX), SessionEnd::Internal);
        for reason in LinkEnd::ALL {
            assert_eq!(link_end(close_code(*reason)), *reason);
            let closed = ConnectionError::ApplicationClosed(ApplicationClose {
                error_code: close_code(*reason),
                reason: Bytes::new(),
            });
            assert_eq!(lost(&closed).reason, *reason);
        }
        let closed = ConnectionError::ApplicationClosed(ApplicationClose {
            error_code: VarInt::from_u32(0),
            reason: Bytes::new(),
        });
        assert_eq!(lost(&closed).reason, LinkEnd::LinkLost);
        assert_eq!(lost(&ConnectionError::TimedOut).reason, LinkEnd::Stale);
    }
}
