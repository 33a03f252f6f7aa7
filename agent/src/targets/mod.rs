//! The local server that sessions connect to: at an address, or a program behind `stdio:`.

mod health;
mod options;
mod program;

use std::fmt;
use std::io;
use std::time::Duration;

use tieline_wire::{Register, Scheme, SessionEnd};
use tokio::net::TcpStream;

pub(crate) use self::health::WatchedTarget;
pub use self::health::{Health, HealthState};
pub use self::options::{
    CHILDREN, CHILDREN_MAX, IDLE, IDLE_MAX, IDLE_MIN, StdioOptions, StdioShare,
};
pub use self::program::ProgramError;
pub(crate) use self::program::find as find_program;
use crate::address::{HostPort, deadline_in};
use crate::error::ConfigError;
use crate::plain::address_without_user;
use crate::socket::CloseMode;
use crate::stdio::{Command, CommandError};

/// Time limit for a target to accept a connection.
///
/// Below the 15 s after which HTTP clients of MCP SDKs typically give up connecting.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Port of an HTTP target that names none.
const HTTP_PORT: u16 = 80;

/// Beginning of a target that is a program.
const STDIO: &str = "stdio:";

/// Host that the server of a program has for its callers.
const STDIO_AUTHORITY: &str = "localhost";

/// Path that the server of a program has.
const STDIO_PATH: &str = "/mcp";

/// Most characters of a command that an error quotes.
const QUOTE_CHARS_MAX: usize = 100;

/// The local server that an agent forwards plain bytes to, or a program that the agent starts and serves over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A server at an address.
    Server {
        address: HostPort,
        /// Base path of an HTTP server as it was written, empty for the root; `None` for a target of raw bytes.
        http_path: Option<String>,
    },
    /// A program that speaks MCP over standard input and output.
    Program(Command),
}

impl Target {
    /// Parses a target as given on the command line: `host:port`, `http://host:port/path` or `stdio:COMMAND`.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong, or that this kind of target is not built yet.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let wrong = |problem| ConfigError::Target {
            text: address_without_user(text),
            problem,
        };
        if let Some(command) = text.strip_prefix(STDIO) {
            return Self::program(Command::parse(command), text);
        }
        match text.split_once("://") {
            None => match web_form(text) {
                Some(instead) => Err(ConfigError::TargetForm {
                    text: address_without_user(text),
                    instead: address_without_user(&instead),
                }),
                None => Self::raw(text).map_err(wrong),
            },
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                // A host of digits alone is a port with its host left out.
                "http" if is_port(rest.split('/').next().unwrap_or_default()) => {
                    Err(ConfigError::TargetForm {
                        text: text.to_owned(),
                        instead: web_url(rest),
                    })
                }
                "http" => Self::http(rest).map_err(wrong),
                "tcp" => Self::raw(rest).map_err(wrong),
                "https" => Err(not_built("an https:// target")),
                _ => Err(wrong("unknown scheme")),
            },
        }
    }

    /// A program with its arguments, each word taken as it is.
    ///
    /// # Errors
    /// [`ConfigError::Command`] says what is wrong with the words.
    pub fn of_command(words: &[String]) -> Result<Self, ConfigError> {
        Self::program(Command::of_words(words), &words.join(" "))
    }

    /// The target of a command that was written as `text`.
    fn program(command: Result<Command, CommandError>, text: &str) -> Result<Self, ConfigError> {
        let command = command.map_err(|error| ConfigError::Command {
            text: text.chars().take(QUOTE_CHARS_MAX).collect(),
            problem: error.to_string(),
        })?;
        Ok(Self {
            place: Place::Program(command),
        })
    }

    /// Parses `host:port`; a number alone is a port of this machine.
    fn raw(text: &str) -> Result<Self, &'static str> {
        let address = match is_port(text) {
            true => HostPort::parse(&format!("127.0.0.1:{text}"), None)?,
            false => HostPort::parse(text, None)?,
        };
        let http_path = None;
        Ok(Self {
            place: Place::Server { address, http_path },
        })
    }

    /// Parses the part of a target after `http://`.
    fn http(text: &str) -> Result<Self, &'static str> {
        if text.contains(['?', '#']) {
            return Err("a target must not have a query or fragment");
        }
        let (authority, path) = text.find('/').map_or((text, ""), |at| text.split_at(at));
        if authority.contains('@') {
            return Err("a target must not have a user name or password");
        }
        if !Register::is_base_path(path) {
            return Err("a path must not have spaces or `..`; write special characters as %XX");
        }
        // A server may answer at `/mcp/` only; an empty path and `/` are the same (RFC 3986, section 6.2.3).
        let base_path = match path.trim_end_matches('/') {
            "" => "",
            _ => path,
        };
        let (address, path) = (HostPort::parse(authority, Some(HTTP_PORT))?, base_path);
        let http_path = Some(path.to_owned());
        Ok(Self {
            place: Place::Server { address, http_path },
        })
    }

    /// True for a target that callers reach over HTTP: an HTTP server, or a program.
    #[must_use]
    pub const fn is_http(&self) -> bool {
        match &self.place {
            Place::Server { http_path, .. } => http_path.is_some(),
            Place::Program(_) => true,
        }
    }

    /// True for a program, which the agent starts when a caller needs it.
    #[must_use]
    pub const fn is_stdio(&self) -> bool {
        matches!(self.place, Place::Program(_))
    }

    /// True for an HTTP server at an address, which may have other paths than the target's own.
    #[must_use]
    pub const fn has_paths(&self) -> bool {
        self.is_http() && !self.is_stdio()
    }

    /// The program and its arguments, for a target that is one.
    pub(crate) const fn command(&self) -> Option<&Command> {
        match &self.place {
            Place::Server { .. } => None,
            Place::Program(command) => Some(command),
        }
    }

    /// Kind of target, as reported to the relay.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        match &self.place {
            Place::Server { http_path, .. } if http_path.is_some() => Scheme::Http,
            Place::Server { .. } => Scheme::Tcp,
            Place::Program(_) => Scheme::Stdio,
        }
    }

    /// Host and port as a client of the target writes them in `Host`: without the default port of HTTP.
    #[must_use]
    pub fn authority(&self) -> String {
        let Place::Server { address, .. } = &self.place else {
            return STDIO_AUTHORITY.to_owned();
        };
        let full = address.to_string();
        match self.is_http() && address.port() == HTTP_PORT {
            true => full.trim_end_matches(":80").to_owned(),
            false => full,
        }
    }

    /// Path of the server as it was written; empty for the root.
    #[must_use]
    pub fn base_path(&self) -> &str {
        match &self.place {
            Place::Server { http_path, .. } => http_path.as_deref().unwrap_or_default(),
            Place::Program(_) => STDIO_PATH,
        }
    }

    /// Text that tells this target apart from others on the same host; it is part of the tunnel's derived name, so it
    /// must not change between starts.
    #[must_use]
    pub fn label(&self, dcc: &str) -> String {
        let (host, rest) = match &self.place {
            Place::Server { address, .. } => {
                let host = match address.is_loopback() {
                    true => String::new(),
                    false => address.host(),
                };
                // Without a slash at the end, so that the derived name is the same with and without the slash.
                let path = self.base_path().trim_end_matches('/');
                (host, format!("{}{path}", address.port()))
            }
            Place::Program(command) => (String::new(), program::label(command)),
        };
        let mut label = String::new();
        for part in [dcc, &host] {
            if !part.is_empty() {
                label.push_str(part);
                label.push('-');
            }
        }
        label.push_str(&rest);
        label
    }

    /// Connects to the target within `timeout`; `unfinished` decides what the target sees of a close before the
    /// orderly end.
    ///
    /// # Errors
    /// How the connection failed, and the system's error; for a program always, because it has no address.
    pub async fn connect_within(
        &self,
        timeout: Duration,
        unfinished: CloseMode,
    ) -> Result<TcpStream, (TargetFailure, io::Error)> {
        let connected = match &self.place {
            Place::Server { address, .. } => {
                let connecting = address.connect_with(deadline_in(timeout), unfinished);
                connecting.await
            }
            Place::Program(_) => Err(io::ErrorKind::Unsupported.into()),
        };
        connected.map_err(|error| (TargetFailure::of(&error), error))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Server {
                address,
                http_path: None,
            } => write!(f, "{address}"),
            Place::Server {
                http_path: Some(path),
                ..
            } => write!(f, "http://{}{path}", self.authority()),
            Place::Program(command) => write!(f, "{STDIO}{command}"),
        }
    }
}

/// Why a target did not take a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetFailure {
    /// The connection was refused: no server listens at the address.
    Refused,
    /// There is no route to the host, or no such host.
    Unreachable,
    /// The target did not answer in time.
    Timeout,
    /// The connection was reset before it stood.
    Reset,
}

impl TargetFailure {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Self::Reset,
            _ => Self::Unreachable,
        }
    }
}

impl From<TargetFailure> for SessionEnd {
    fn from(failure: TargetFailure) -> Self {
        match failure {
            TargetFailure::Refused => Self::TargetRefused,
            TargetFailure::Unreachable => Self::TargetUnreachable,
            TargetFailure::Timeout => Self::TargetTimeout,
            TargetFailure::Reset => Self::TargetReset,
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
        instead: "targets host:port, http://host:port/path and stdio:COMMAND",
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
    fn a_program_looks_like_an_http_server_to_the_relay() {
        let target = Target::parse("stdio:npx -y '@scope/server' \"a b\"").unwrap();
        assert!(target.is_http() && target.is_stdio() && !target.has_paths());
        assert_eq!(target.scheme(), Scheme::Stdio);
        assert_eq!(
            (&*target.authority(), target.base_path()),
            ("localhost", "/mcp")
        );
        let shown = target.to_string();
        assert_eq!(shown, "stdio:npx -y @scope/server 'a b'");
        assert_eq!(Target::parse(&shown).unwrap(), target);
        let words = ["npx", "-y", "@scope/server", "a b"].map(str::to_owned);
        assert_eq!(Target::of_command(&words).unwrap(), target);
        let label = target.label("");
        assert!(label.starts_with("npx-"), "{label}");
        assert_eq!(target.label("maya"), format!("maya-{label}"));
        let server = Target::parse("http://127.0.0.1:1").unwrap();
        assert!(server.has_paths() && !server.is_stdio());
    }

    #[test]
    fn a_command_that_cannot_be_one_is_told_its_reason() {
        for (text, word) in [
            ("stdio:", "the command is missing"),
            ("stdio:  ", "the command is missing"),
            ("stdio:'' x", "names no program"),
            ("stdio:server 'x", "opens a quote"),
        ] {
            let error = Target::parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(Target::of_command(&[]).is_err());
        let long = format!("stdio:'{}", "x".repeat(500));
        let error = Target::parse(&long).unwrap_err().to_string();
        assert!(error.len() < 200, "{error}");
    }

    #[tokio::test]
    async fn a_program_has_no_address_to_connect_to() {
        let target = Target::parse("stdio:server").unwrap();
        let connected = target.connect_within(Duration::from_secs(5), CloseMode::Ends);
        assert_eq!(connected.await.unwrap_err().0, TargetFailure::Unreachable);
    }

    #[test]
    fn kinds_of_target_to_come_are_said_to_be_missing() {
        let error = Target::parse("https://h:1/mcp").unwrap_err();
        assert!(matches!(error, ConfigError::NotBuilt { .. }), "{error}");
        let error = Target::parse("ftp://h:1").unwrap_err();
        assert!(error.to_string().contains("unknown scheme"), "{error}");
    }

    #[test]
    fn the_default_port_is_left_out_of_the_authority() {
        let target = Target::parse("http://Studio.example/mcp/").unwrap();
        assert_eq!(target.authority(), "studio.example");
        assert_eq!(target.base_path(), "/mcp/");
        let authority = |text| Target::parse(text).unwrap().authority();
        assert_eq!(authority("http://[::1]:8080"), "[::1]:8080");
        assert_eq!(authority("h:80"), "h:80");
        assert_eq!(Target::parse("http://h:8080/").unwrap().base_path(), "");
    }

    #[test]
    fn what_cannot_be_part_of_a_target_is_refused() {
        for text in [
            "",
            "/mcp",
            "h:1/a?b",
            "h:1/#a",
            "u:p@h:1/",
            "h:1/a b",
            "h:x/",
            "h:1/a/../b",
            "h:1/\\\\x",
        ] {
            assert!(Target::parse(&format!("http://{text}")).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_told_apart_from_an_unknown_host() {
        let port = {
            let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            server.local_addr().unwrap().port()
        };
        let reason = |text: String| async move {
            let target = Target::parse(&text).unwrap();
            let connecting = target.connect_within(Duration::from_secs(5), CloseMode::Ends);
            connecting.await.unwrap_err().0
        };
        assert_eq!(
            reason(format!("127.0.0.1:{port}")).await,
            TargetFailure::Refused
        );
        // RFC 6761, 6.4: `invalid` never resolves.
        assert!(matches!(
            reason("nowhere.invalid:1".to_owned()).await,
            TargetFailure::Unreachable | TargetFailure::Timeout
        ));
    }
}
