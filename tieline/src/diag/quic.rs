//! Check of the QUIC connection to the relay: handshake, certificate, and what its path takes.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::check::{Check, Outcome};
use super::tls;
use tieline_agent::error::Error;
use tieline_agent::transport::{Connection, Dialler, Quic, QuicError, Untried};

/// Longest search for the largest datagram that the path takes. It has some six steps of a round trip each, and a step
/// whose datagrams get lost takes several.
const MTU_TIMEOUT: Duration = Duration::from_secs(2);

/// Tries QUIC beside the WebSocket of an `https://` relay, or says why it is not tried. Links go over the WebSocket, if
/// it `is_open`, where QUIC does not get through, so nothing of that is a failure.
pub(super) async fn beside(
    dialler: &Dialler,
    has_address: bool,
    is_open: bool,
    now: u64,
) -> (Check, Option<Connection>) {
    if let Err(why) = dialler.tries_quic() {
        return (untried(&why), None);
    }
    let (check, connection) = connect(dialler, has_address, now).await;
    if check.outcome == Outcome::Failed {
        return (beside_failed(check.detail, is_open), None);
    }
    (check, connection)
}

/// The check of an `https://` relay that QUIC does not get through to; the WebSocket `is_open`, or has failed too.
fn beside_failed(detail: String, is_open: bool) -> Check {
    let advice = match is_open {
        true => "links go over TCP until QUIC gets through",
        false => "no WebSocket gets through either: see the lines above",
    };
    Check::warning("quic", detail, advice)
}

/// Why QUIC is not tried: a warning where the user can change that.
fn untried(why: &Untried) -> Check {
    match why {
        Untried::Buffers { .. } => {
            let advice = "raise the limit; until then links go over a WebSocket";
            Check::warning("quic", why, advice)
        }
        Untried::Scheme(_) | Untried::Proxy(_) => Check::not_applicable("quic", why),
    }
}

/// Connects to the relay over QUIC.
pub(super) async fn connect(
    dialler: &Dialler,
    has_address: bool,
    now: u64,
) -> (Check, Option<Connection>) {
    if !has_address {
        let text = format!("there is no address to connect to for {}", dialler.relay());
        return (Check::not_applicable("quic", text), None);
    }
    let begun = Instant::now();
    match dialler.dial_quic().await {
        Ok(Connection::Quic(mut quic)) => {
            let took = begun.elapsed();
            quic.find_mtu(MTU_TIMEOUT).await;
            let check = connected(words(&quic, took, now), dialler.buffer_warning());
            (check, Some(Connection::Quic(quic)))
        }
        Ok(other) => (Check::not_applicable("quic", "not used"), Some(other)),
        Err(error) => {
            let advice = advice(&error);
            (Check::failed("quic", error, advice), None)
        }
    }
}

/// The check of a relay that QUIC gets through to; `warning` says that this system's buffers are too small for it.
fn connected(detail: String, warning: Option<String>) -> Check {
    match warning {
        Some(warning) => Check::warning("quic", detail, warning),
        None => Check::ok("quic", detail),
    }
}

/// What the connection has agreed on and measured.
fn words(quic: &Quic, took: Duration, now: u64) -> String {
    let path = quic.path();
    let certificate = quic.tls_details();
    let certificate = certificate.map(|it| tls::certificate(&it.certificate, now));
    format!(
        "QUIC version 1 to {} after {}, round trip {}, largest datagram {} bytes{}",
        quic.remote_address(),
        milliseconds(took),
        milliseconds(path.rtt),
        path.mtu,
        certificate.unwrap_or_default()
    )
}

fn milliseconds(time: Duration) -> String {
    let micros = time.as_micros();
    format!("{}.{} ms", micros / 1000, micros / 100 % 10)
}

fn advice(error: &Error) -> &'static str {
    let Error::Dial { source, .. } = error else {
        return "tieline diag with https:// in place of quic:// shows whether it is the same over TCP";
    };
    match source
        .get_ref()
        .and_then(|it| it.downcast_ref::<QuicError>())
    {
        Some(QuicError::NothingListens { .. }) => {
            "ask the relay's operator for the port that --quic-listen names"
        }
        Some(QuicError::NoAnswer { .. } | QuicError::Unfinished { .. }) => {
            "ask whether this network lets UDP out to the relay's port, or dial https://"
        }
        Some(QuicError::Version) => {
            "is the relay's UDP port behind this URL (443 if none is given)?"
        }
        Some(QuicError::Busy) => "this may pass: try again",
        Some(QuicError::Closed(_) | QuicError::Ended(_)) => {
            "try again, and ask the relay's operator"
        }
        None if source.kind() == io::ErrorKind::NetworkUnreachable => {
            "this network has no route to the relay: is a VPN off, or a cable unplugged?"
        }
        None => "is the relay's address right, and reachable from this network?",
    }
}

#[cfg(test)]
mod tests {
    use tieline_agent::{Proxies, RelayUrl};

    use super::*;

    #[test]
    fn each_reason_without_a_connection_has_its_advice() {
        let dial = |kind, error: QuicError| Error::Dial {
            relay: "quic://relay.test:443".to_owned(),
            source: io::Error::new(kind, error),
        };
        let other = io::ErrorKind::Other;
        for (error, words) in [
            (dial(other, QuicError::Version), "UDP port"),
            (dial(other, QuicError::Busy), "may pass"),
            (
                dial(other, QuicError::Ended("x".to_owned())),
                "ask the relay",
            ),
            (
                Error::Tls {
                    relay: String::new(),
                    problem: String::new(),
                },
                "over TCP",
            ),
        ] {
            assert!(advice(&error).contains(words), "{error}");
        }
    }

    #[test]
    fn times_are_told_in_tenths_of_a_millisecond() {
        assert_eq!(milliseconds(Duration::from_micros(12_345)), "12.3 ms");
        assert_eq!(milliseconds(Duration::from_micros(45)), "0.0 ms");
    }

    #[tokio::test]
    async fn why_quic_is_not_tried_is_told() {
        let authority = rcgen::generate_simple_self_signed(["relay".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, authority.cert.pem()).unwrap();
        let relay = RelayUrl::parse("https://relay.invalid").unwrap();
        let proxies = Proxies::parse("http://proxy:3128").unwrap();
        let dialler = Dialler::new(relay, Some(&ca), &proxies).unwrap();
        let (check, connection) = beside(&dialler, true, true, 0).await;
        assert!(connection.is_none());
        let line = check.to_string();
        assert!(
            line.contains("not tried") && line.contains("http://proxy:3128"),
            "{line}"
        );
        let relay = RelayUrl::parse("wss://relay.invalid").unwrap();
        let dialler = Dialler::new(relay, Some(&ca), &proxies).unwrap();
        let line = beside(&dialler, true, true, 0).await.0.to_string();
        assert!(line.contains("a wss:// link does not use it"), "{line}");
    }

    #[test]
    fn buffers_that_are_too_small_are_a_warning_with_advice() {
        let check = untried(&Untried::Buffers { bytes: 4096 });
        assert_eq!(check.outcome, Outcome::Warning);
        let line = check.to_string();
        assert!(
            line.contains("4096 bytes") && line.contains("raise the limit"),
            "{line}"
        );
    }

    #[test]
    fn a_connection_with_small_buffers_is_a_warning() {
        let detail = || "QUIC version 1".to_owned();
        assert_eq!(connected(detail(), None).outcome, Outcome::Ok);
        let check = connected(detail(), Some("the buffers are small".to_owned()));
        assert_eq!(check.outcome, Outcome::Warning);
        let line = check.to_string();
        assert!(line.contains("1; the buffers are small"), "{line}");
    }

    #[test]
    fn links_are_promised_over_tcp_only_if_it_gets_through() {
        for (is_open, words) in [(true, "links go over TCP"), (false, "either")] {
            let check = beside_failed("the certificate is not trusted".to_owned(), is_open);
            assert_eq!(check.outcome, Outcome::Warning);
            let line = check.to_string();
            assert!(line.contains(words), "{line}");
            assert_eq!(line.contains("links go over"), is_open, "{line}");
        }
    }

    #[tokio::test]
    async fn without_an_address_nothing_is_dialled() {
        let relay = RelayUrl::parse("tcp://relay.invalid:1").unwrap();
        let dialler = Dialler::new(relay, None, &Proxies::Never).unwrap();
        let (check, connection) = connect(&dialler, false, 0).await;
        assert!(check.outcome == Outcome::NotApplicable && connection.is_none());
    }
}
