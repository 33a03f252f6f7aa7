//! Recognises the server that answers at an address where a relay was expected, and says what to do.

use std::io;

use rustls::{AlertDescription, PeerMisbehaved};
use tieline_wire::limits::PREFACE;

use super::client_certificate::client_certificate_problem;
use super::tls::certificate_problem;
use super::url::RelayUrl;

/// Number of first bytes that are kept: enough for an HTTP status line.
pub const FIRST_BYTES_MAX: usize = 48;

/// Hint that leads from a wrong port to the right one.
const AGENT_PORT: &str =
    "is this the relay's port for agents (9001 unless its operator says otherwise)?";

/// Hint that leads from a wrong port to the one for HTTP.
const HTTP_PORT: &str =
    "is this the relay's HTTP port (443 with TLS, else 9080 unless its operator says otherwise)?";

/// Names the kind of server at `address` that sent `first`; no bytes at all mean a silence, or an early end.
#[must_use]
pub fn describe(first: &[u8], address: &str) -> String {
    match kind(first) {
        Kind::Silent => format!("no data came before that; {AGENT_PORT}"),
        Kind::Http => format!(
            "an HTTP server answers there: if it is a relay's, dial https://{address} (ws://{address} without TLS); \
             {AGENT_PORT}"
        ),
        Kind::Tls => format!(
            "a TLS server answers there: dial tls://{address} if this is the relay's port for agents"
        ),
        other => format!("{}; {AGENT_PORT}", other.words()),
    }
}

/// Kind of a server, by the first bytes that it sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Silent,
    Http,
    Ssh,
    Mail,
    Tls,
    /// A relay's port for agents, over TCP.
    Relay,
    Other,
}

impl Kind {
    const fn words(self) -> &'static str {
        match self {
            Self::Silent => "no data came",
            Self::Http => "an HTTP server answers there",
            Self::Ssh => "an SSH server answers there",
            Self::Mail => "a mail or FTP server answers there",
            Self::Tls => "a TLS server answers there",
            Self::Relay => "a relay's port for agents answers there",
            Self::Other => "what answers there is not a Tieline relay",
        }
    }
}

fn kind(first: &[u8]) -> Kind {
    let begins = |text: &[u8]| first.starts_with(text);
    if first.is_empty() {
        Kind::Silent
    } else if begins(b"HTTP/") || begins(b"<") {
        Kind::Http
    } else if begins(b"SSH-") {
        Kind::Ssh
    } else if begins(b"220") {
        Kind::Mail
    } else if matches!(first, [0x15 | 0x16, 0x03, ..]) {
        Kind::Tls
    } else if begins(&PREFACE) {
        Kind::Relay
    } else {
        Kind::Other
    }
}

/// Says what answered the request for a WebSocket with `first`, which is not HTTP.
pub(super) fn no_http(first: &[u8], relay: &RelayUrl) -> String {
    let address = relay.address();
    match kind(first) {
        Kind::Tls => format!("a TLS server answers there: dial wss://{address}"),
        Kind::Relay => {
            let scheme = match relay.transport().is_encrypted() {
                true => "tls",
                false => "tcp",
            };
            format!("this is the relay's port for agents without HTTP: dial {scheme}://{address}")
        }
        other => format!("{}; {HTTP_PORT}", other.words()),
    }
}

/// Says what to do where the server closed the connection in place of an answer to the request for a WebSocket.
pub(super) fn closed(relay: &RelayUrl) -> String {
    let address = relay.address();
    match relay.transport().is_encrypted() {
        true => format!("the server closed the connection; {HTTP_PORT}"),
        false => format!(
            "the server closed the connection; dial wss://{address} if it has TLS there, or tcp://{address} if this \
             is the relay's port for agents"
        ),
    }
}

/// Says why the TLS handshake with the server of `relay` failed, and what to do; `has_own_ca` is true if the
/// certificates of `--ca` are trusted, and `proxy` is the URL of the proxy on the way, if there is one.
pub(super) fn of_handshake(
    error: &io::Error,
    relay: &RelayUrl,
    has_own_ca: bool,
    proxy: Option<&str>,
) -> String {
    if let Some(problem) = client_certificate_problem(error) {
        return problem;
    }
    if error.kind() == io::ErrorKind::TimedOut {
        return "no answer in time; does the server there speak TLS?".to_owned();
    }
    let Some(inner) = error.get_ref() else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                format!("the server closed the connection; {}", no_tls(relay, proxy))
            }
            _ => error.to_string(),
        };
    };
    match inner.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(error)) => certificate_problem(error, has_own_ca),
        Some(rustls::Error::InvalidMessage(_)) => {
            format!("this port does not speak TLS; {}", no_tls(relay, proxy))
        }
        Some(
            rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)
            | rustls::Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol),
        ) => match relay.transport().is_websocket() {
            true => format!(
                "the server there does not speak HTTP (it refuses the protocol http/1.1): dial tls://{} if this is \
                 the relay's port for agents",
                relay.address()
            ),
            false => format!(
                "the server there takes no agents (it refuses the protocol tieline-agent/1): it is not a Tieline \
                 relay, or this port is not for agents; dial https://{} if it is for HTTP",
                relay.address()
            ),
        },
        _ => error.to_string(),
    }
}

/// Hint for a port where TLS was expected.
fn no_tls(relay: &RelayUrl, proxy: Option<&str>) -> String {
    if let Some(proxy) = proxy {
        return in_place_of_relay(proxy);
    }
    let address = relay.address();
    match relay.transport().is_websocket() {
        true => format!("dial ws://{address} if this is the relay's HTTP port and has no TLS"),
        false => {
            format!("dial tcp://{address} if this is the relay's port for agents and has no TLS")
        }
    }
}

/// What to do about a server without TLS behind the proxy at the URL `proxy`. No URL without TLS is proposed: a page of
/// the proxy, as for a login, would lead a user to send a token in clear text.
#[must_use]
pub fn in_place_of_relay(proxy: &str) -> String {
    format!(
        "the proxy {proxy} may answer in the relay's place, with a page that asks for a login or says what it blocks: \
         open the relay's https:// URL in a browser that uses this proxy, or ask its operator to let the connection pass"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_a_proxy_in_the_relays_place_is_no_reason_to_dial_without_tls() {
        let page = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let page = io::Error::new(io::ErrorKind::InvalidData, page);
        for error in [page, io::ErrorKind::UnexpectedEof.into()] {
            for relay in ["https://relay.test", "tls://relay.test"] {
                let relay = RelayUrl::parse(relay).unwrap();
                let text = of_handshake(&error, &relay, false, Some("http://proxy:3128"));
                assert!(
                    text.contains("the proxy http://proxy:3128 may answer"),
                    "{text}"
                );
                assert!(
                    !text.contains("ws://") && !text.contains("tcp://"),
                    "{text}"
                );
            }
        }
    }

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
        let relay = RelayUrl::parse("tls://relay:9001").unwrap();
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
            (io::ErrorKind::TimedOut.into(), "no answer in time"),
        ] {
            let text = of_handshake(&error, &relay, false, None);
            assert!(text.contains(words), "{error:?}: {text}");
        }
    }

    #[test]
    fn what_a_websocket_is_refused_with_leads_to_the_url_to_dial() {
        let of = |url| RelayUrl::parse(url).unwrap();
        let (plain, secure) = (of("ws://relay:9080"), of("https://relay"));
        for (first, relay, words) in [
            (
                &b"\x15\x03\x03\x00\x02"[..],
                &plain,
                "dial wss://relay:9080",
            ),
            (&PREFACE[..], &plain, "dial tcp://relay:9080"),
            (&PREFACE[..], &secure, "dial tls://relay:443"),
            (
                b"SSH-2.0-OpenSSH_9.6",
                &plain,
                "an SSH server answers there; is this the relay's HTTP port",
            ),
            (b"J\x00\x00", &secure, "not a Tieline relay"),
        ] {
            let text = no_http(first, relay);
            assert!(text.contains(words), "{text}");
        }
        assert!(closed(&plain).contains("dial wss://relay:9080"));
        assert!(closed(&secure).contains("is this the relay's HTTP port"));
        let refused = rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol);
        let refused = io::Error::new(io::ErrorKind::InvalidData, refused);
        let text = of_handshake(&refused, &secure, false, None);
        assert!(text.contains("dial tls://relay:443"), "{text}");
        let text = of_handshake(&io::ErrorKind::UnexpectedEof.into(), &secure, false, None);
        assert!(text.contains("dial ws://relay:443"), "{text}");
    }
}
