//! Errors that keep a relay from starting, with messages that name the setting, file or address.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::io::Unfinished;

/// Exit code after a failure.
pub const EXIT_FAILED: u8 = 1;
/// Exit code for wrong usage or a wrong configuration.
pub const EXIT_USAGE: u8 = 2;

/// Kind of a listener, by its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenKind {
    /// Agents, for links.
    Agent,
    /// Callers over raw TCP.
    Tcp,
    /// Callers over HTTP.
    Http,
    /// Agents and callers over QUIC.
    Quic,
    /// Operators and their tools.
    Admin,
}

impl ListenKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Agent, Self::Tcp, Self::Http, Self::Quic, Self::Admin];

    /// The kind with this word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// The kind's word in output and settings.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Quic => "quic",
            Self::Admin => "admin",
        }
    }

    /// How connections of this kind end if they break off. Links, admin answers and QUIC mark their own ends; others must
    /// be reset.
    pub(crate) const fn unfinished(self) -> Unfinished {
        match self {
            Self::Agent | Self::Quic | Self::Admin => Unfinished::Ends,
            Self::Tcp | Self::Http => Unfinished::Resets,
        }
    }
}

impl fmt::Display for ListenKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A configured file that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A value that may be a secret instead of a file's name; the value is not stored, so that nothing shows it.
    #[error(
        "{origin}: the value names no file and is not shown, since it may be the secret itself: write the secret \
         into a file of mode 0600, and give the path of that file"
    )]
    Pasted {
        /// The setting, with its source.
        origin: String,
    },
    /// A configuration file that is not TOML.
    #[error("{}, line {line}: {message}", path.display())]
    Syntax {
        /// Path of the file.
        path: PathBuf,
        /// Line of the error, counted from 1.
        line: usize,
        /// Message of the parser.
        message: String,
    },
    /// A setting that does not exist.
    #[error("{origin}: unknown setting; {hint}")]
    Unknown {
        /// The setting as written, with its source.
        origin: String,
        /// The setting that may be meant, or all settings.
        hint: String,
    },
    /// A value that its setting does not accept.
    #[error("{origin}: {value} {problem}")]
    Unfit {
        /// The setting, with its source.
        origin: String,
        /// The value, in quotes if it is a text.
        value: String,
        /// What is wrong with the value, and the remedy; follows the value in the sentence.
        problem: String,
    },
    /// Settings that contradict each other.
    #[error("{0}")]
    Conflict(String),
    /// A file whose content or protection is wrong, such as a secret that others can read.
    #[error("{}: {problem}", path.display())]
    Content {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with the file, and the remedy.
        problem: String,
    },
}

impl ConfigError {
    pub(crate) fn content(path: &Path, problem: impl Into<String>) -> Self {
        Self::Content {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }

    /// The file that the error is about, if it is about one.
    fn path(&self) -> Option<&Path> {
        match self {
            Self::Read { path, .. } | Self::Syntax { path, .. } | Self::Content { path, .. } => {
                Some(path)
            }
            _ => None,
        }
    }
}

/// What is wrong with a file that is read while the relay runs, and what the relay does about it.
#[derive(Debug)]
pub(crate) struct FileProblem {
    error: ConfigError,
    outcome: &'static str,
}

impl FileProblem {
    /// A file that is read again: what was read from it before goes on.
    pub(crate) const fn of_changed(error: ConfigError) -> Self {
        Self {
            error,
            outcome: "the content read before stays in force",
        }
    }

    /// The file of the ordered certificate, of which one is in use if `has_other` is true.
    pub(crate) const fn of_ordered(error: ConfigError, has_other: bool) -> Self {
        let outcome = match has_other {
            true => "the certificate read before stays in use, and another one is ordered",
            false => "another certificate is ordered",
        };
        Self { error, outcome }
    }

    /// The file, or the folder that it lies in.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.error.path()
    }
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.error, self.outcome)
    }
}

/// Why a relay did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address that cannot be listened on.
    #[error("cannot listen on {address} ({kind}): {source}{}", listen_hint(*kind, source, *address))]
    Listen {
        /// Kind of the listener.
        kind: ListenKind,
        /// Address that was to be listened on.
        address: SocketAddr,
        /// Error of the kernel.
        source: io::Error,
    },
    /// The configured driver is not available on this machine: the kernel's refusal, and its likely cause.
    #[error("cannot use --driver uring: {0} (--driver auto falls back to epoll)")]
    Driver(String),
    /// A thread, or its runtime, that could not be started.
    #[error("cannot start {what}: {source}{}", thread_hint(source))]
    Thread {
        /// Name of the thread or its purpose.
        what: String,
        /// Error of the kernel.
        source: io::Error,
    },
    /// The state folder, or a file in it, cannot be used now.
    #[error("state_dir: {} {problem}", path.display())]
    State {
        /// Path of the folder or file.
        path: PathBuf,
        /// What is wrong with the folder or file, and the remedy.
        problem: String,
    },
    /// A take-over failed, and the running relay goes on.
    #[error("cannot take over from the running relay: {0}")]
    TakeOver(String),
    /// A signal arrived before the relay served.
    #[error("stopped by a signal before it served")]
    Cancelled,
    /// The kernel gives no random numbers, which secrets are made from.
    #[error("cannot start: the kernel gives no random numbers (getrandom, /dev/urandom)")]
    Randomness,
}

impl StartError {
    /// The state folder, or a file in it, cannot be used now.
    pub(crate) fn state(path: &Path, problem: impl Into<String>) -> Self {
        Self::State {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }

    /// True if another process listens on the address.
    pub(crate) fn is_address_taken(&self) -> bool {
        matches!(self, Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }

    /// Exit code for this error: [`EXIT_USAGE`] if the configuration is wrong.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => EXIT_USAGE,
            Self::Listen { .. }
            | Self::Driver(_)
            | Self::Thread { .. }
            | Self::State { .. }
            | Self::TakeOver(_)
            | Self::Cancelled
            | Self::Randomness => EXIT_FAILED,
        }
    }
}

fn listen_hint(kind: ListenKind, error: &io::Error, address: SocketAddr) -> String {
    let port = address.port();
    // A relay that stops keeps its UDP port for the connections that it has.
    let (protocol, ends) = match kind {
        ListenKind::Quic => (
            'u',
            ", or one that stops and has sessions over QUIC (--take-over does not wait for it)",
        ),
        _ => ('t', ""),
    };
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "; is another tieline-relay running{ends}? `ss -l{protocol}np 'sport = :{port}'` shows who has it"
        ),
        io::ErrorKind::PermissionDenied if port < 1024 => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "; no interface of this machine has it, see `ip address`".to_owned()
        }
        _ => no_more_files(error).to_owned(),
    }
}

fn thread_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::WouldBlock => "; the limit of tasks is reached, see `ulimit -u`",
        io::ErrorKind::OutOfMemory => "; too little memory, or locked memory, see `ulimit -l`",
        _ => no_more_files(error),
    }
}

fn no_more_files(error: &io::Error) -> &'static str {
    match error
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error)
    {
        Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => {
            "; the limit of open files is reached, see `ulimit -n`"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_likely_cause() {
        let address: SocketAddr = "127.0.0.1:9001".parse().unwrap();
        let error = StartError::Listen {
            kind: ListenKind::Agent,
            address,
            source: io::Error::from(io::ErrorKind::AddrInUse),
        };
        let text = error.to_string();
        assert!(
            text.starts_with("cannot listen on 127.0.0.1:9001 (agent): "),
            "{text}"
        );
        assert!(
            text.contains("another tieline-relay") && text.contains("ss -ltnp"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1);
        assert_eq!(error.exit_code(), EXIT_FAILED);
        let error = StartError::Listen {
            kind: ListenKind::Quic,
            address,
            source: io::Error::from(io::ErrorKind::AddrInUse),
        };
        let text = error.to_string();
        assert!(
            text.contains("--take-over") && text.contains("ss -lunp"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn a_lack_of_files_is_named() {
        let source = io::Error::from(rustix::io::Errno::MFILE);
        let error = StartError::Thread {
            what: "shard 0".to_owned(),
            source,
        };
        assert!(error.to_string().ends_with("see `ulimit -n`"), "{error}");
    }

    #[test]
    fn a_wrong_configuration_has_its_own_exit_code() {
        let error = StartError::from(ConfigError::Conflict("x".to_owned()));
        assert_eq!(
            (error.to_string().as_str(), error.exit_code()),
            ("x", EXIT_USAGE)
        );
    }
}
