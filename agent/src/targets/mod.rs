//! The local server that sessions connect to.

mod health;
mod http;
mod tcp;

use std::fmt;
use std::io;
use std::time::Duration;

use tieline_wire::Scheme;
use tokio::net::TcpStream;

pub(crate) use self::health::WatchedTarget;
pub use self::health::{Health, HealthState};
pub use self::http::HttpTarget;
pub use self::tcp::{TargetFailure, TcpTarget};
use crate::error::ConfigError;
use crate::plain::address_without_user;
use crate::socket::CloseMode;

/// Time limit for a target to accept a connection.
///
/// Below the 15 s after which HTTP clients of MCP SDKs typically give up connecting.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The local server that an agent forwards to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Plain bytes to `host:port`.
    Tcp(TcpTarget),
    /// The same plain bytes, to an HTTP server under a base path.
    Http(HttpTarget),
}

impl Target {
    /// Parses a target as given on the command line: `host:port` or `http://host:port/path`.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong, or that this kind of target is not built yet.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let wrong = |problem| ConfigError::Target {
            text: address_without_user(text),
            problem,
        };
        if text.starts_with("stdio:") {
            return Err(not_built("a stdio: target"));
        }
        match text.split_once("://") {
            None => match web_form(text) {
                Some(instead) => Err(ConfigError::TargetForm {
                    text: address_without_user(text),
                    instead: address_without_user(&instead),
                }),
                None => TcpTarget::parse(text).map(Self::Tcp).map_err(wrong),
            },
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                // A host of digits alone is a port with its host left out.
                "http" if is_port(rest.split('/').next().unwrap_or_default()) => {
                    Err(ConfigError::TargetForm {
                        text: text.to_owned(),
                        instead: web_url(rest),
                    })
                }
                "http" => HttpTarget::parse(rest).map(Self::Http).map_err(wrong),
                "tcp" => TcpTarget::parse(rest).map(Self::Tcp).map_err(wrong),
                "https" => Err(not_built("an https:// target")),
                _ => Err(wrong("unknown scheme")),
            },
        }
    }

    /// Kind of target, as reported to the relay.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        match self {
            Self::Tcp(_) => Scheme::Tcp,
            Self::Http(_) => Scheme::Http,
        }
    }

    /// Host and port as a client of the target writes them in `Host`.
    #[must_use]
    pub fn authority(&self) -> String {
        match self {
            Self::Tcp(tcp) => tcp.address().to_string(),
            Self::Http(http) => http.authority(),
        }
    }

    /// Path of the server as it was written; empty for the root.
    #[must_use]
    pub fn base_path(&self) -> &str {
        match self {
            Self::Tcp(_) => "",
            Self::Http(http) => http.base_path(),
        }
    }

    /// Text that tells this target apart from others on the same host; it is part of the tunnel's derived name, so it
    /// must not change between starts.
    #[must_use]
    pub fn label(&self, dcc: &str) -> String {
        let address = self.tcp().address();
        let mut label = String::new();
        for part in [
            dcc,
            &if address.is_loopback() {
                String::new()
            } else {
                address.host()
            },
        ] {
            if !part.is_empty() {
                label.push_str(part);
                label.push('-');
            }
        }
        label.push_str(&address.port().to_string());
        // Without a slash at the end, so that the derived name is the same with and without the slash.
        label.push_str(self.base_path().trim_end_matches('/'));
        label
    }

    /// Connects to the target.
    ///
    /// # Errors
    /// How the connection failed, and the system's error.
    pub async fn connect(&self) -> Result<TcpStream, (TargetFailure, io::Error)> {
        self.connect_within(CONNECT_TIMEOUT, CloseMode::Ends).await
    }

    /// Connects to the target within `timeout`; `unfinished` decides what the target sees of a close before the
    /// orderly end.
    ///
    /// # Errors
    /// As of [`Target::connect`].
    pub async fn connect_within(
        &self,
        timeout: Duration,
        unfinished: CloseMode,
    ) -> Result<TcpStream, (TargetFailure, io::Error)> {
        self.tcp().connect(timeout, unfinished).await
    }

    const fn tcp(&self) -> &TcpTarget {
        match self {
            Self::Tcp(tcp) => tcp,
            Self::Http(http) => http.tcp(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(tcp) => write!(f, "{}", tcp.address()),
            Self::Http(http) => write!(f, "http://{}{}", http.authority(), http.base_path()),
        }
    }
}

/// The URL to write for a text with a path but without `http://`: only HTTP servers have paths.
fn web_form(text: &str) -> Option<String> {
    let rest = text.strip_prefix("http:").unwrap_or(text);
    let rest = rest.trim_start_matches('/');
    (rest.contains('/') || rest.len() < text.len()).then(|| web_url(rest))
}

/// Puts `http://` in front of a host and path, or `http://127.0.0.1:` in front of a port and path.
fn web_url(rest: &str) -> String {
    let host = rest.split('/').next().unwrap_or_default();
    match is_port(host) || host.is_empty() {
        true => format!("http://127.0.0.1:{rest}"),
        false => format!("http://{rest}"),
    }
}

/// True for digits alone.
fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn not_built(what: &str) -> ConfigError {
    ConfigError::NotBuilt {
        what: what.to_owned(),
        instead: "targets host:port and http://host:port/path",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_keep_what_the_relay_must_know() {
        let target = Target::parse("http://127.0.0.1:8765/mcp").unwrap();
        assert_eq!(target.scheme(), Scheme::Http);
        assert_eq!(target.authority(), "127.0.0.1:8765");
        assert_eq!(target.base_path(), "/mcp");
        assert_eq!(target.to_string(), "http://127.0.0.1:8765/mcp");
        let slash = Target::parse("http://127.0.0.1:8765/mcp/").unwrap();
        assert_eq!(slash.base_path(), "/mcp/");
        assert_eq!(slash.to_string(), "http://127.0.0.1:8765/mcp/");
        assert_eq!(slash.label(""), target.label(""));
        let target = Target::parse("localhost:7001").unwrap();
        assert_eq!(target.scheme(), Scheme::Tcp);
        assert_eq!(target.base_path(), "");
        assert_eq!(target, Target::parse("tcp://localhost:7001").unwrap());
    }

    #[test]
    fn a_bare_port_is_this_machines() {
        for text in ["8765", "tcp://8765"] {
            let target = Target::parse(text).unwrap();
            assert_eq!(target, Target::parse("127.0.0.1:8765").unwrap());
        }
        for text in ["0", "65536", "123456"] {
            let error = Target::parse(text).unwrap_err().to_string();
            assert!(error.contains("from 1 to 65535"), "{error}");
        }
    }

    #[test]
    fn a_path_without_a_scheme_is_told_the_url_to_write() {
        for (text, url) in [
            ("8765/mcp", "http://127.0.0.1:8765/mcp"),
            ("localhost:8765/mcp", "http://localhost:8765/mcp"),
            ("http:8765/mcp", "http://127.0.0.1:8765/mcp"),
            ("http:/localhost:1/x", "http://localhost:1/x"),
            ("http://8765/mcp", "http://127.0.0.1:8765/mcp"),
            ("http://8765", "http://127.0.0.1:8765"),
        ] {
            let error = Target::parse(text).unwrap_err().to_string();
            assert!(error.ends_with(&format!("write {url}")), "{error}");
        }
    }

    #[test]
    fn labels_differ_where_targets_do_and_read_well() {
        let label = |text: &str, dcc: &str| Target::parse(text).unwrap().label(dcc);
        assert_eq!(label("127.0.0.1:7001", "maya"), "maya-7001");
        assert_eq!(label("localhost:7001", "maya"), "maya-7001");
        assert_eq!(label("http://127.0.0.1:8765/mcp", ""), "8765/mcp");
        assert_eq!(
            label("http://render-01:8765/mcp", "nuke"),
            "nuke-render-01-8765/mcp"
        );
    }

    #[test]
    fn kinds_of_target_to_come_are_said_to_be_missing() {
        for text in ["https://h:1/mcp", "stdio:python server.py"] {
            let error = Target::parse(text).unwrap_err();
            assert!(matches!(error, ConfigError::NotBuilt { .. }), "{error}");
        }
        let error = Target::parse("ftp://h:1").unwrap_err();
        assert!(error.to_string().contains("unknown scheme"), "{error}");
    }
}
