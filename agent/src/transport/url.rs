//! The URL of a relay's port for agents, and the transport that it names.

use std::fmt;

use crate::address::HostPort;
use crate::error::ConfigError;
use crate::plain::address_without_user;

/// Port of `tls://` where the URL names none.
const TLS_PORT: u16 = 443;

/// How bytes travel to the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, not encrypted.
    Tcp,
    /// TLS over TCP.
    Tls,
}

impl Transport {
    /// The transport as one stable word, which is the scheme of its URLs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// Address of the relay's port for agents, and the transport to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayUrl {
    transport: Transport,
    address: HostPort,
}

impl RelayUrl {
    /// Parses a relay's address as given on the command line.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong, or that this transport is not built yet.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let wrong = |problem| ConfigError::Relay {
            text: address_without_user(text),
            problem,
        };
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(wrong(match HostPort::of_relay("tcp://", text, None) {
                Ok(address) => format!(
                    "the scheme is missing: write tcp://{address} or, if the relay has TLS there, tls://{address}"
                ),
                Err(_) => "the scheme is missing".to_owned(),
            }));
        };
        let (transport, port) = match scheme.to_ascii_lowercase().as_str() {
            "tcp" => (Transport::Tcp, None),
            "tls" => (Transport::Tls, Some(TLS_PORT)),
            "ws" | "wss" | "quic" | "https" => {
                return Err(ConfigError::NotBuilt {
                    what: format!("the transport {scheme}://"),
                    instead: "tls://host:port (443 if no port is given), and tcp://host:port without encryption \
                              (9001 unless the relay's operator says otherwise)",
                });
            }
            "http" => {
                return Err(wrong(
                    "http:// is for callers; agents dial the relay's port for agents (9001 unless \
                     its operator says otherwise)"
                        .to_owned(),
                ));
            }
            _ => {
                return Err(wrong(
                    "agents dial a relay over tls:// or tcp:// alone".to_owned(),
                ));
            }
        };
        let address = HostPort::of_relay(&format!("{}://", transport.word()), rest, port);
        address
            .map(|address| Self { transport, address })
            .map_err(|problem| {
                let is_port = problem == "the port is missing";
                wrong(match is_port {
                    true => problem + " (9001 unless the relay's operator says otherwise)",
                    false => problem,
                })
            })
    }

    /// The relay's name, which the agent signs so that its proof cannot be replayed to another relay.
    #[must_use]
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// True if a token for the relay crosses a network in clear text.
    #[must_use]
    pub fn exposes_tokens(&self) -> bool {
        self.transport == Transport::Tcp && !self.address.is_loopback()
    }

    /// Host and port of the relay.
    #[must_use]
    pub const fn address(&self) -> &HostPort {
        &self.address
    }

    /// The transport to the relay.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        self.transport
    }
}

impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.transport.word(), self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_a_scheme_a_host_and_a_port() {
        let relay = RelayUrl::parse("tcp://Relay.studio:9001/").unwrap();
        assert_eq!(relay.to_string(), "tcp://relay.studio:9001");
        assert_eq!(relay.name(), "relay.studio:9001");
        let relay = RelayUrl::parse("TLS://Relay.studio").unwrap();
        assert_eq!(relay.to_string(), "tls://relay.studio:443");
        assert_eq!(relay.name(), "relay.studio:443");
        for wrong in [
            "relay:9001",
            "tcp://relay",
            "tcp://",
            "ftp://relay:1",
            "tcp://relay:1/x",
            "tls://",
            "tls://relay/x",
            "tcp://ada:secret@relay:1",
            "http://relay:9080",
        ] {
            let error = RelayUrl::parse(wrong).unwrap_err();
            assert!(
                matches!(error, ConfigError::Relay { .. }),
                "{wrong}: {error}"
            );
        }
    }

    #[test]
    fn what_is_wrong_with_a_relay_is_named_with_the_form_to_write() {
        for (text, words) in [
            ("relay:9001", "write tcp://relay:9001 "),
            (
                "tcp://relay:9001/x",
                "without the path: write tcp://relay:9001 ",
            ),
            (
                "tcp://relay:9001?x",
                "without the path: write tcp://relay:9001 ",
            ),
            ("tcp://ada:secret@relay:9001", "--token-file"),
            ("tcp://ada:sec/ret@relay:9001", "--token-file"),
            ("ada:secret@relay:9001", "scheme"),
            ("http://relay:9080", "9001"),
            ("tls://relay/x", "without the path: write tls://relay "),
            ("gopher://relay:9001", "tls:// or tcp:// alone"),
            ("https://ada:secret@relay", "9001"),
        ] {
            let error = RelayUrl::parse(text).unwrap_err();
            let message = error.to_string();
            assert!(message.contains(words), "{text}: {message}");
            assert!(!format!("{message} {error:?}").contains("sec"), "{message}");
        }
    }

    #[test]
    fn transports_to_come_are_said_to_be_missing() {
        for scheme in ["ws", "wss", "quic", "https"] {
            let error = RelayUrl::parse(&format!("{scheme}://relay:1")).unwrap_err();
            assert!(error.to_string().contains("not built yet"), "{error}");
        }
    }

    #[test]
    fn tokens_are_exposed_on_a_network_without_tls_alone() {
        for (text, is_exposed) in [
            ("tcp://relay:9001", true),
            ("tcp://127.0.0.1:9001", false),
            ("tls://relay", false),
        ] {
            let relay = RelayUrl::parse(text).unwrap();
            assert_eq!(relay.exposes_tokens(), is_exposed, "{text}");
        }
    }
}
