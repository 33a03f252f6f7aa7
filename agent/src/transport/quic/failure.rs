//! Says why there is no QUIC connection, with what to do.

use std::io;

use quinn_proto::{ConnectionError, TransportErrorCode};
use rustls::{AlertDescription, Error};

use crate::transport::RelayUrl;
use crate::transport::verifier::Refusals;

/// First of the codes that stand for alerts of TLS (RFC 9001, section 4.8).
const ALERTS_AT: u64 = 0x100;

/// Why there is no QUIC connection, unless TLS is the reason. It is the inner error of an [`io::Error`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuicError {
    /// Nothing came back.
    #[error(
        "nothing answers over UDP: a firewall on the way may drop UDP, or the relay does not take QUIC there \
         (--quic-listen){instead}"
    )]
    NoAnswer {
        /// The URL that goes over TCP, as the end of the message; empty if the relay's URL leaves the transport open.
        instead: String,
    },
    /// The relay has answered, but the handshake did not end in time.
    #[error(
        "the handshake did not end in time: packets of some sizes may get lost on the way, or the relay is too \
         busy{instead}"
    )]
    Unfinished {
        /// The URL that goes over TCP, as the end of the message; empty if the relay's URL leaves the transport open.
        instead: String,
    },
    /// The system there says that no program has the port.
    #[error(
        "no program listens at that UDP port: the relay may be down, started without --quic-listen, or of a version \
         without QUIC{instead}"
    )]
    NothingListens {
        /// The URL that goes over TCP, as the end of the message; empty if the relay's URL leaves the transport open.
        instead: String,
    },
    /// What answers does not speak version 1 of QUIC.
    #[error(
        "what answers there does not speak version 1 of QUIC, so it is no Tieline relay: is this the relay's UDP port?"
    )]
    Version,
    /// The relay takes no connection now.
    #[error("the relay takes no further connections at the moment")]
    Busy,
    /// The relay closed the connection during the handshake.
    #[error("the relay closed the connection during the handshake: {0}")]
    Closed(String),
    /// The connection ended during the handshake.
    #[error("the connection ended during the handshake: {0}")]
    Ended(String),
}

impl QuicError {
    fn of(reason: &ConnectionError) -> Self {
        match reason {
            ConnectionError::VersionMismatch => Self::Version,
            ConnectionError::ConnectionClosed(close)
                if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
            {
                Self::Busy
            }
            ConnectionError::ConnectionClosed(_) | ConnectionError::ApplicationClosed(_) => {
                Self::Closed(reason.to_string())
            }
            other => Self::Ended(other.to_string()),
        }
    }
}

/// The error of a handshake that ended for `reason`: with a [`rustls::Error`] as its inner error if TLS is the reason,
/// as over TCP, and else with a [`QuicError`].
pub(super) fn of_handshake(reason: &ConnectionError, refusals: &Refusals) -> io::Error {
    if let Some(error) = alert_of(reason) {
        return error;
    }
    if let ConnectionError::TransportError(error) = reason
        && let Some(alert) = alert(error.code)
    {
        let error = match refusals.take() {
            Some(refusal) => Error::InvalidCertificate(refusal),
            // The person reads the same, whichever side found it.
            None if alert == AlertDescription::NoApplicationProtocol => Error::AlertReceived(alert),
            None => Error::General(error.reason.clone()),
        };
        return of_tls(error);
    }
    io::Error::other(QuicError::of(reason))
}

/// The relay's alert of TLS as an error, if the connection ended for one.
pub(crate) fn alert_of(reason: &ConnectionError) -> Option<io::Error> {
    match reason {
        ConnectionError::ConnectionClosed(close) => {
            alert(close.error_code).map(|alert| of_tls(Error::AlertReceived(alert)))
        }
        _ => None,
    }
}

/// The relay wants a certificate of the agent's own, as over TLS its alert would say: over QUIC callers share the port and
/// need none, so the relay refuses the agent only after the handshake.
pub(crate) fn certificate_required() -> io::Error {
    of_tls(Error::AlertReceived(AlertDescription::CertificateRequired))
}

fn alert(code: TransportErrorCode) -> Option<AlertDescription> {
    let code = u64::from(code).checked_sub(ALERTS_AT)?;
    u8::try_from(code).ok().map(AlertDescription::from)
}

fn of_tls(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// `error`, of a dial to `relay`, in words that say what to do. `has_heard` is true if the relay has sent something.
pub(in crate::transport) fn with_hint(
    error: io::Error,
    relay: &RelayUrl,
    has_heard: bool,
) -> io::Error {
    // Where the URL leaves the transport open, links go over TCP by themselves.
    let instead = match relay.chooses() {
        true => String::new(),
        false => format!("; https://{} goes over TCP", relay.address()),
    };
    match error.kind() {
        kind @ io::ErrorKind::TimedOut => io::Error::new(
            kind,
            match has_heard {
                true => QuicError::Unfinished { instead },
                false => QuicError::NoAnswer { instead },
            },
        ),
        kind @ io::ErrorKind::ConnectionRefused => {
            io::Error::new(kind, QuicError::NothingListens { instead })
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quinn_proto::ConnectionClose;
    use rustls::CertificateError;

    use super::*;

    fn closed(code: TransportErrorCode) -> ConnectionError {
        ConnectionError::ConnectionClosed(ConnectionClose {
            error_code: code,
            frame_type: None,
            reason: Bytes::new(),
        })
    }

    fn tls(error: &io::Error) -> Option<&Error> {
        error.get_ref()?.downcast_ref()
    }

    #[test]
    fn alerts_of_tls_are_told_as_over_tcp() {
        let refusals = Refusals::default();
        let error = of_handshake(&closed(TransportErrorCode::crypto(116)), &refusals);
        let required = Error::AlertReceived(AlertDescription::CertificateRequired);
        assert_eq!(tls(&error), Some(&required));
        // This side's own alert: the relay has chosen no protocol.
        let own = ConnectionError::TransportError(TransportErrorCode::crypto(120).into());
        let none = Error::AlertReceived(AlertDescription::NoApplicationProtocol);
        assert_eq!(tls(&of_handshake(&own, &refusals)), Some(&none));
    }

    #[test]
    fn a_refused_certificate_is_told_with_the_reason() {
        let refusals = Refusals::default();
        refusals.note(&CertificateError::UnknownIssuer);
        let own = ConnectionError::TransportError(TransportErrorCode::crypto(48).into());
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert_eq!(tls(&of_handshake(&own, &refusals)), Some(&unknown));
        // A refusal is told once.
        assert!(matches!(
            tls(&of_handshake(&own, &refusals)),
            Some(Error::General(_))
        ));
    }

    #[test]
    fn what_is_no_matter_of_tls_has_its_own_words() {
        let refusals = Refusals::default();
        for (reason, words) in [
            (ConnectionError::VersionMismatch, "version 1 of QUIC"),
            (
                closed(TransportErrorCode::CONNECTION_REFUSED),
                "takes no further connections",
            ),
            (ConnectionError::Reset, "reset by peer"),
        ] {
            let text = of_handshake(&reason, &refusals).to_string();
            assert!(text.contains(words), "{text}");
        }
        let relay = |url| RelayUrl::parse(url).unwrap();
        let (forced, open) = (relay("quic://relay.test"), relay("https://relay.test"));
        for (kind, has_heard, words) in [
            (io::ErrorKind::TimedOut, false, "firewall"),
            (io::ErrorKind::TimedOut, true, "did not end in time"),
            (io::ErrorKind::ConnectionRefused, false, "--quic-listen"),
        ] {
            let error = with_hint(kind.into(), &forced, has_heard);
            assert_eq!(error.kind(), kind);
            let text = error.to_string();
            assert!(text.contains(words), "{text}");
            assert!(text.contains("; https://relay.test:443 "), "{text}");
            // The URL in use is no advice.
            let text = with_hint(kind.into(), &open, has_heard).to_string();
            assert!(text.contains(words) && !text.contains("https://"), "{text}");
        }
    }
}
