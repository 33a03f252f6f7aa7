//! Recognises the server that answers at an address where a relay was expected, and says what to do.

use std::io;

use rustls::{AlertDescription, PeerMisbehaved};

use super::client_certificate::client_certificate_problem;
use super::tls::certificate_problem;
use crate::address::HostPort;

/// Number of first bytes that are kept: enough for an HTTP status line.
pub const FIRST_BYTES_MAX: usize = 48;

/// Hint that leads from a wrong port to the right one.
const AGENT_PORT: &str =
    "is this the relay's port for agents (9001 unless its operator says otherwise)?";

/// Names the kind of server at `address` that sent `first`; no bytes at all mean a silence, or an early end.
#[must_use]
pub fn describe(first: &[u8], address: &str) -> String {
    let begins = |text: &[u8]| first.starts_with(text);
    let who = if first.is_empty() {
        "no data came before that"
    } else if begins(b"HTTP/") || begins(b"<") {
        "an HTTP server answers there"
    } else if begins(b"SSH-") {
        "an SSH server answers there"
    } else if begins(b"220") {
        "a mail or FTP server answers there"
    } else if matches!(first, [0x15 | 0x16, 0x03, ..]) {
        return format!(
            "a TLS server answers there: dial tls://{address} if this is the relay's port for agents"
        );
    } else {
        "what answers there is not a Tieline relay"
    };
    format!("{who}; {AGENT_PORT}")
}

/// Says why the TLS handshake with the server at `address` failed, and what to do; `has_own_ca` is true if the
/// certificates of `--ca` are trusted.
pub(super) fn of_handshake(error: &io::Error, address: &HostPort, has_own_ca: bool) -> String {
    if let Some(problem) = client_certificate_problem(error) {
        return problem;
    }
    let Some(inner) = error.get_ref() else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                format!("the server closed the connection; {}", no_tls(address))
            }
            _ => error.to_string(),
        };
    };
    match inner.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(error)) => certificate_problem(error, has_own_ca),
        Some(rustls::Error::InvalidMessage(_)) => {
            format!("this port does not speak TLS; {}", no_tls(address))
        }
        Some(
            rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)
            | rustls::Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol),
        ) => "the server there takes no agents (it refuses the protocol tieline-agent/1): it is not a Tieline \
              relay, or this port is not for agents"
            .to_owned(),
        _ => error.to_string(),
    }
}

/// Hint for a port where TLS was expected.
fn no_tls(address: &HostPort) -> String {
    format!("dial tcp://{address} if this is the relay's port for agents and has no TLS")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_recognised_by_its_first_bytes() {
        for (first, word) in [
            (&b"HTTP/1.1 400 Bad Request\r\n"[..], "HTTP server"),
            (b"<html>", "HTTP server"),
            (b"SSH-2.0-OpenSSH_9.6", "SSH server"),
            (b"220 mail.example ESMTP", "mail or FTP"),
            (b"\x15\x03\x03\x00\x02", "dial tls://relay:9001"),
            (b"J\x00\x00\x00\x0a8.0.36", "not a Tieline relay"),
            (b"", "no data came"),
        ] {
            let text = describe(first, "relay:9001");
            assert!(text.contains(word) && text.contains("9001"), "{text}");
        }
    }

    #[test]
    fn a_failed_handshake_is_told_with_what_to_dial() {
        let address = HostPort::parse("relay:9001", None).unwrap();
        let tls = |error: rustls::Error| io::Error::new(io::ErrorKind::InvalidData, error);
        for (error, words) in [
            (
                tls(rustls::Error::InvalidMessage(
                    rustls::InvalidMessage::InvalidContentType,
                )),
                "does not speak TLS; dial tcp://relay:9001 ",
            ),
            (
                io::ErrorKind::UnexpectedEof.into(),
                "closed the connection; dial tcp://relay:9001 ",
            ),
            (
                tls(rustls::Error::AlertReceived(
                    AlertDescription::NoApplicationProtocol,
                )),
                "not a Tieline relay",
            ),
            (tls(rustls::CertificateError::UnknownIssuer.into()), "--ca"),
            (
                tls(rustls::Error::AlertReceived(
                    AlertDescription::HandshakeFailure,
                )),
                "HandshakeFailure",
            ),
            (io::ErrorKind::ConnectionReset.into(), "reset"),
        ] {
            let text = of_handshake(&error, &address, false);
            assert!(text.contains(words), "{error:?}: {text}");
        }
    }
}
