//! Connects to the relay, and sets the socket options of a link.

use std::fmt;
use std::time::Duration;

#[cfg(any(target_os = "linux", target_os = "android"))]
use tieline_wire::limits::STALE_TIMEOUT;
use tokio::net::TcpStream;

use crate::address::{HostPort, deadline_in};
use crate::error::{ConfigError, Error};
use crate::plain::address_without_user;

/// Time limit for connecting to the relay, name lookup included.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Limit on unsent bytes in the kernel: a link at the limit counts as busy.
///
/// Small, so that a heartbeat or a small session does not wait behind megabytes of one large session; large
/// enough for one gathered send.
#[cfg(any(target_os = "linux", target_os = "android"))]
const NOTSENT_BYTES_MAX: u32 = 256 * 1024;

/// Address of the relay's port for agents, and the transport to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayUrl {
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
                Ok(address) => format!("the scheme is missing: write tcp://{address}"),
                Err(_) => "the scheme is missing".to_owned(),
            }));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "tcp" => {}
            "tls" | "ws" | "wss" | "quic" | "https" => {
                return Err(ConfigError::NotBuilt {
                    what: format!("the transport {scheme}://"),
                    instead: "tcp://host:port, the relay's port for agents (9001 unless its operator \
                              says otherwise)",
                });
            }
            "http" => {
                return Err(wrong(
                    "http:// is for callers; agents dial the relay's port for agents (9001 unless \
                     its operator says otherwise)"
                        .to_owned(),
                ));
            }
            _ => return Err(wrong("agents dial a relay over tcp:// alone".to_owned())),
        }
        let address = HostPort::of_relay("tcp://", rest, None);
        address.map(|address| Self { address }).map_err(|problem| {
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
        // TCP is the only transport, and is not encrypted.
        !self.address.is_loopback()
    }

    /// Host and port of the relay.
    #[must_use]
    pub const fn address(&self) -> &HostPort {
        &self.address
    }

    /// Connects to the relay.
    ///
    /// # Errors
    /// [`Error::Dial`] with the system's error.
    pub async fn dial(&self) -> Result<TcpStream, Error> {
        let failed = |source| Error::Dial {
            relay: self.to_string(),
            source,
        };
        let stream = self
            .address
            .connect(deadline_in(DIAL_TIMEOUT))
            .await
            .map_err(failed)?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        prepare(&stream).map_err(failed)?;
        Ok(stream)
    }
}

impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tcp://{}", self.address)
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    // The kernel ends a connection whose data stays unacknowledged for this long.
    socket.set_tcp_user_timeout(Some(STALE_TIMEOUT))?;
    socket.set_tcp_notsent_lowat(NOTSENT_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_a_scheme_a_host_and_a_port() {
        let relay = RelayUrl::parse("tcp://Relay.studio:9001/").unwrap();
        assert_eq!(relay.to_string(), "tcp://relay.studio:9001");
        assert_eq!(relay.name(), "relay.studio:9001");
        for wrong in [
            "relay:9001",
            "tcp://relay",
            "tcp://",
            "ftp://relay:1",
            "tcp://relay:1/x",
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
            ("gopher://relay:9001", "tcp:// alone"),
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
        for scheme in ["tls", "ws", "wss", "quic", "https"] {
            let error = RelayUrl::parse(&format!("{scheme}://relay:1")).unwrap_err();
            assert!(error.to_string().contains("not built yet"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_relay_that_is_not_there_is_named() {
        let port = {
            let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            server.local_addr().unwrap().port()
        };
        let relay = RelayUrl::parse(&format!("tcp://127.0.0.1:{port}")).unwrap();
        let error = relay.dial().await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("tcp://127.0.0.1:{port}")),
            "{error}"
        );
        assert!(!error.is_final());
    }
}
