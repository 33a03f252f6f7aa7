//! Origin of a relay's HTTP port.

use std::fmt;

use tieline_agent::HostPort;
use tieline_agent::plain::address_without_user;
use tieline_hop::rewrite::default_port;

use super::error::OutboundError;

/// Origin of the relay's HTTP port: scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayOrigin {
    /// Whether connections to the relay use TLS.
    pub https: bool,
    /// Host and port of the relay.
    pub address: HostPort,
}

impl RelayOrigin {
    /// Reads `http://host[:port]` or `https://host[:port]`.
    ///
    /// # Errors
    /// [`OutboundError::Relay`] says what is wrong with `text`.
    pub fn parse(text: &str) -> Result<Self, OutboundError> {
        let wrong = |problem| OutboundError::Relay {
            text: address_without_user(text),
            problem,
        };
        let Some((scheme, rest)) = text.split_once("://") else {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            return Err(wrong(match HostPort::of_relay("http://", text, Some(80)) {
                Ok(_) if is_number => {
                    format!(
                        "it is a number without a host: write http://HOST:{text} or https://HOST"
                    )
                }
                Ok(_) => format!("the scheme is missing: write http://{text} or https://{text}"),
                Err(_) => "the scheme is missing".to_owned(),
            }));
        };
        let (https, scheme) = match scheme.to_ascii_lowercase().as_str() {
            "https" => (true, "https://"),
            "http" => (false, "http://"),
            "tcp" | "tls" | "ws" | "wss" | "quic" => {
                return Err(wrong(format!(
                    "{scheme}:// is for agents; callers use https://, or http:// and the relay's HTTP port (9080 \
                     unless its operator says otherwise)"
                )));
            }
            _ => return Err(wrong("the scheme is unknown".to_owned())),
        };
        HostPort::of_relay(scheme, rest, Some(default_port(https)))
            .map(|address| Self { https, address })
            .map_err(wrong)
    }

    /// True if a token for the relay crosses a network in clear text.
    #[must_use]
    pub fn exposes_tokens(&self) -> bool {
        !self.https && !self.address.is_loopback()
    }

    /// Host and port as in a `Host` header: without the scheme's default port.
    #[must_use]
    pub fn authority(&self) -> String {
        let text = self.address.to_string();
        let port = default_port(self.https);
        match text.strip_suffix(&format!(":{port}")) {
            Some(host) if self.address.port() == port => host.to_owned(),
            _ => text,
        }
    }

    /// True if `authority`, from a URL with that scheme, names the relay. Behind a TLS terminator a relay
    /// may use `http` in its own URLs, so the default ports of both schemes count as equal.
    pub(crate) fn is_named(&self, https: bool, authority: &[u8]) -> bool {
        let Ok(authority) = str::from_utf8(authority) else {
            return false;
        };
        let Ok(named) = HostPort::parse(authority, Some(default_port(https))) else {
            return false;
        };
        let same_port = named.port() == self.address.port()
            || (named.port() == default_port(https)
                && self.address.port() == default_port(self.https));
        same_port && named.host() == self.address.host()
    }
}

impl fmt::Display for RelayOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_an_origin() {
        let shown = |text| RelayOrigin::parse(text).map(|relay| relay.to_string());
        assert_eq!(
            shown("https://Relay.example/").unwrap(),
            "https://relay.example"
        );
        assert_eq!(shown("http://h:9080").unwrap(), "http://h:9080");
        assert_eq!(shown("https://[::1]:443").unwrap(), "https://[::1]");
        assert_eq!(shown("http://h:443").unwrap(), "http://h:443");
        for wrong in [
            "relay.example",
            "tcp://relay.example:9001",
            "https://relay.example/w/maya",
            "https://user:secret@relay.example",
            "https://",
            "ftp://x",
        ] {
            let error = shown(wrong).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        }
        for (text, words) in [
            (
                "relay:9080",
                "write http://relay:9080 or https://relay:9080",
            ),
            (
                "http://relay:9080/w/x",
                "without the path: write http://relay:9080 ",
            ),
            ("https://user:secret@relay", "--token-file"),
            ("tcp://relay:9001", "9080"),
            ("quic://relay", "callers use https://"),
            ("9080", "write http://HOST:9080 or https://HOST"),
        ] {
            let message = shown(text).unwrap_err().to_string();
            assert!(message.contains(words), "{text}: {message}");
        }
    }
}
