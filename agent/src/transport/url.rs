//! The URL of a relay's port for agents, and the transport that it names.

use std::fmt;

use rustls::pki_types::ServerName;

use crate::address::HostPort;
use crate::error::ConfigError;
use crate::plain::address_without_user;

/// Port of `tls://`, `wss://`, `https://` and `quic://` where the URL names none.
const TLS_PORT: u16 = 443;

/// Port of `ws://` where the URL names none.
const HTTP_PORT: u16 = 80;

/// How bytes travel to the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, not encrypted.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// A WebSocket over TCP, not encrypted.
    Ws,
    /// A WebSocket over TLS.
    Wss,
    /// QUIC, which has TLS inside.
    Quic,
}

impl Transport {
    /// The transport as one stable word, which is a scheme of its URLs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Quic => "quic",
        }
    }

    /// True if TLS encrypts what goes over the transport.
    #[must_use]
    pub const fn is_encrypted(self) -> bool {
        match self {
            Self::Tls | Self::Wss | Self::Quic => true,
            Self::Tcp | Self::Ws => false,
        }
    }

    /// True if the relay's HTTP port takes the link, as a WebSocket.
    #[must_use]
    pub const fn is_websocket(self) -> bool {
        match self {
            Self::Ws | Self::Wss => true,
            Self::Tcp | Self::Tls | Self::Quic => false,
        }
    }
}

/// Address of the relay's port for agents, and the transport to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayUrl {
    /// The scheme to show: the transport's word, or `https`.
    scheme: &'static str,
    transport: Transport,
    address: HostPort,
}

impl RelayUrl {
    /// Parses a relay's address as given on the command line; a host alone means `https://`.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let wrong = |problem| ConfigError::Relay {
            text: address_without_user(text),
            problem,
        };
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
            None if is_number(text) => {
                return Err(wrong(format!(
                    "it is a number without a host: write tcp://HOST:{text} or https://HOST"
                )));
            }
            None if is_host_alone(text) => ("https".to_owned(), text),
            None => return Err(wrong(scheme_missing(text))),
        };
        let (scheme, transport, port) = match scheme.as_str() {
            "tcp" => ("tcp", Transport::Tcp, None),
            "tls" => ("tls", Transport::Tls, Some(TLS_PORT)),
            "ws" => ("ws", Transport::Ws, Some(HTTP_PORT)),
            "wss" => ("wss", Transport::Wss, Some(TLS_PORT)),
            "https" => ("https", Transport::Wss, Some(TLS_PORT)),
            "quic" => ("quic", Transport::Quic, Some(TLS_PORT)),
            "http" => {
                return Err(wrong(
                    "http:// is for callers; agents dial https://, or without encryption ws:// and the relay's HTTP \
                     port, or tcp:// and its port for agents (9001 unless its operator says otherwise)"
                        .to_owned(),
                ));
            }
            _ => {
                return Err(wrong(
                    "agents dial a relay over https://, wss://, tls://, quic://, ws:// or tcp:// alone"
                        .to_owned(),
                ));
            }
        };
        let address = HostPort::of_relay(&format!("{scheme}://"), rest, port);
        let address = address.and_then(|address| checked(address, transport));
        address
            .map(|address| Self {
                scheme,
                transport,
                address,
            })
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
        !self.transport.is_encrypted() && !self.address.is_loopback()
    }

    /// Host and port of the relay.
    #[must_use]
    pub const fn address(&self) -> &HostPort {
        &self.address
    }

    /// The transport to the relay; [`Transport::Wss`] if the URL leaves the choice open.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        self.transport
    }

    /// True if the URL leaves the choice to the agent: QUIC where it gets through, else a WebSocket over TLS.
    #[must_use]
    pub fn chooses(&self) -> bool {
        self.scheme == "https"
    }

    /// Host and port as in a `Host` header field: without the port of the scheme.
    pub(super) fn authority(&self) -> String {
        let text = self.address.to_string();
        let usual = match self.transport.is_encrypted() {
            true => TLS_PORT,
            false => HTTP_PORT,
        };
        match text.strip_suffix(&format!(":{usual}")) {
            Some(host) if self.address.port() == usual => host.to_owned(),
            _ => text,
        }
    }
}

/// `address`, unless the transport has TLS and no certificate can be for the host: `127.1` is neither an address nor a
/// name in DNS, although the system finds an address for it.
fn checked(address: HostPort, transport: Transport) -> Result<HostPort, String> {
    match !transport.is_encrypted() || ServerName::try_from(address.host()).is_ok() {
        true => Ok(address),
        false => Err("the host is not a valid name or address".to_owned()),
    }
}

/// True for a number alone, which is a port most likely; as a host it would be an address, such as 0.0.35.41 for 9001.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// True for a host without scheme, port, path or user name.
fn is_host_alone(text: &str) -> bool {
    let host = text.strip_suffix('/').unwrap_or(text);
    let (has_port, lacks_port) = (
        HostPort::parse(host, None).is_ok(),
        HostPort::parse(host, Some(TLS_PORT)).is_ok(),
    );
    lacks_port && !has_port
}

/// What is wrong with a text without a scheme that is more than a host.
fn scheme_missing(text: &str) -> String {
    match HostPort::of_relay("https://", text, None) {
        Ok(address) => format!(
            "the scheme is missing: write https://{address} or tls://{address} or, without encryption, \
             tcp://{address} or ws://{address}"
        ),
        Err(_) => "the scheme is missing".to_owned(),
    }
}

impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.address)
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
            ("relay:9001", "tcp://relay:9001 "),
            ("relay:9443", "write https://relay:9443 "),
            ("wss://relay/agent", "without the path: write wss://relay"),
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
            ("gopher://relay:9001", "ws:// or tcp:// alone"),
            ("https://ada:secret@relay", "--token-file"),
            ("ada:secret@relay", "scheme"),
            ("9001", "write tcp://HOST:9001 or https://HOST"),
            ("quic://127.1:443", "not a valid name or address"),
            ("tls://127.1", "not a valid name or address"),
            ("wss://127.1", "not a valid name or address"),
            ("https://127.1", "not a valid name or address"),
            ("quic://localhost:+443", "not a number from 1 to 65535"),
            (
                "quic://relay/x",
                "quic://host, ws://host or tcp://host:port",
            ),
        ] {
            let error = RelayUrl::parse(text).unwrap_err();
            let message = error.to_string();
            assert!(message.contains(words), "{text}: {message}");
            assert!(!format!("{message} {error:?}").contains("sec"), "{message}");
        }
    }

    #[test]
    fn each_scheme_has_its_transport_and_port() {
        for (text, shown, transport, authority) in [
            (
                "https://Relay",
                "https://relay:443",
                Transport::Wss,
                "relay",
            ),
            (
                "relay.studio",
                "https://relay.studio:443",
                Transport::Wss,
                "relay.studio",
            ),
            (
                "10.0.0.7",
                "https://10.0.0.7:443",
                Transport::Wss,
                "10.0.0.7",
            ),
            (
                "wss://relay:8443/",
                "wss://relay:8443",
                Transport::Wss,
                "relay:8443",
            ),
            ("WS://relay", "ws://relay:80", Transport::Ws, "relay"),
            (
                "ws://[::1]:9080",
                "ws://[::1]:9080",
                Transport::Ws,
                "[::1]:9080",
            ),
            (
                "ws://relay:443",
                "ws://relay:443",
                Transport::Ws,
                "relay:443",
            ),
            ("tls://relay", "tls://relay:443", Transport::Tls, "relay"),
            (
                "QUIC://Relay/",
                "quic://relay:443",
                Transport::Quic,
                "relay",
            ),
            (
                "quic://[::1]:1",
                "quic://[::1]:1",
                Transport::Quic,
                "[::1]:1",
            ),
            ("tcp://relay:1", "tcp://relay:1", Transport::Tcp, "relay:1"),
        ] {
            let relay = RelayUrl::parse(text).unwrap();
            assert_eq!(relay.to_string(), shown, "{text}");
            assert_eq!(relay.transport(), transport, "{text}");
            assert_eq!(relay.chooses(), shown.starts_with("https"), "{text}");
            assert_eq!(relay.authority(), authority, "{text}");
        }
    }

    #[test]
    fn tokens_are_exposed_on_a_network_without_tls_alone() {
        for (text, is_exposed) in [
            ("tcp://relay:9001", true),
            ("tcp://127.0.0.1:9001", false),
            ("tls://relay", false),
            ("quic://relay", false),
            ("https://relay", false),
            ("wss://relay", false),
            ("ws://relay", true),
            ("ws://localhost", false),
        ] {
            let relay = RelayUrl::parse(text).unwrap();
            assert_eq!(relay.exposes_tokens(), is_exposed, "{text}");
        }
    }
}
