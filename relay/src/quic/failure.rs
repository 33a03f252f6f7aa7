//! The reason of a QUIC handshake's failure, in the words of TLS.

use quinn_proto::{ConnectionError, TransportErrorCode};

use crate::metrics::TlsFailure;

/// First of the codes that stand for alerts of TLS (RFC 9001, section 4.8).
const ALERTS_AT: u64 = 0x100;

/// The reason of a failed handshake.
pub(super) fn failure(error: &ConnectionError) -> TlsFailure {
    match error {
        ConnectionError::TransportError(error) => match u64::from(error.code) {
            code if (ALERTS_AT..ALERTS_AT + 0x100).contains(&code) => of_alert(code - ALERTS_AT),
            _ => TlsFailure::Protocol,
        },
        ConnectionError::ConnectionClosed(close) if is_refusal(close.error_code) => {
            TlsFailure::ClientRefused
        }
        ConnectionError::ConnectionClosed(_)
        | ConnectionError::ApplicationClosed(_)
        | ConnectionError::Reset
        | ConnectionError::LocallyClosed => TlsFailure::Closed,
        ConnectionError::TimedOut => TlsFailure::Timeout,
        ConnectionError::VersionMismatch => TlsFailure::Incompatible,
        ConnectionError::CidsExhausted => TlsFailure::Overload,
    }
}

/// Whether the client closed with an alert of TLS.
fn is_refusal(code: TransportErrorCode) -> bool {
    (ALERTS_AT..ALERTS_AT + 0x100).contains(&u64::from(code))
}

/// The reason that the relay's own alert tells (RFC 8446, section 6).
const fn of_alert(alert: u64) -> TlsFailure {
    match alert {
        // no_application_protocol
        120 => TlsFailure::Alpn,
        // handshake_failure, protocol_version, insufficient_security
        40 | 70 | 71 => TlsFailure::Incompatible,
        // certificate_required
        116 => TlsFailure::NoClientCertificate,
        // bad_certificate up to unknown_ca: about the client's certificate
        42..=46 | 48 => TlsFailure::BadClientCertificate,
        // access_denied: rustls has no certificate for the client
        49 => TlsFailure::NoCertificate,
        _ => TlsFailure::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_a_reason_of_its_own() {
        let of = |code: TransportErrorCode| failure(&ConnectionError::TransportError(code.into()));
        assert_eq!(of(TransportErrorCode::crypto(120)), TlsFailure::Alpn);
        assert_eq!(of(TransportErrorCode::crypto(40)), TlsFailure::Incompatible);
        assert_eq!(
            of(TransportErrorCode::crypto(49)),
            TlsFailure::NoCertificate
        );
        let missing = TransportErrorCode::crypto(116);
        assert_eq!(of(missing), TlsFailure::NoClientCertificate);
        let unknown_ca = TransportErrorCode::crypto(48);
        assert_eq!(of(unknown_ca), TlsFailure::BadClientCertificate);
        assert_eq!(
            of(TransportErrorCode::PROTOCOL_VIOLATION),
            TlsFailure::Protocol
        );
        assert_eq!(failure(&ConnectionError::TimedOut), TlsFailure::Timeout);
        assert_eq!(failure(&ConnectionError::Reset), TlsFailure::Closed);
    }
}
