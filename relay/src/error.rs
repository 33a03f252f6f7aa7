//! What can go wrong before a relay runs, in words that name the setting, file or address.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Exit code of a program that failed.
pub const EXIT_FAILED: u8 = 1;
/// Exit code of a program that was called, or configured, in a wrong way.
pub const EXIT_USAGE: u8 = 2;

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenKind {
    /// Links of agents.
    Agent,
    /// Frontends that speak raw TCP.
    Tcp,
    /// Frontends that speak HTTP.
    Http,
    /// Operators and their tools.
    Admin,
}

impl ListenKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Agent, Self::Tcp, Self::Http, Self::Admin];

    /// The kind with that word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// Its word in output and settings.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Admin => "admin",
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
    /// A file that is named but cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A name that may be a secret; it is not kept here, so that nothing shows it.
    #[error(
        "{origin}: names no file; it is not shown here, since it may be the secret itself: write the secret \
         into a file of mode 0600, and give the path of that file"
    )]
    Pasted {
        /// The setting, and where it was given.
        origin: String,
    },
    /// A configuration file that is not TOML.
    #[error("{}, line {line}: {message}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where in it, counted from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// A setting that does not exist.
    #[error("{origin}: unknown setting; {hint}")]
    Unknown {
        /// What was written, and where.
        origin: String,
        /// Which one may be meant, or which ones there are.
        hint: String,
    },
    /// A value that its setting cannot take.
    #[error("{origin}: {value:?} is not {expected}")]
    Value {
        /// What was written, and where.
        origin: String,
        /// The value.
        value: String,
        /// What would do.
        expected: &'static str,
    },
    /// A value with a fault of its own.
    #[error("{origin}: {value} {problem}")]
    Unfit {
        /// What was written, and where.
        origin: String,
        /// The value, in quotes if it is a text.
        value: String,
        /// What is wrong with it and what would do, as the end of the sentence.
        problem: String,
    },
    /// A setting of the agreed command line that this version lacks.
    #[error("{origin}: {what} is not built yet")]
    NotBuilt {
        /// What was written, and where.
        origin: String,
        /// What is missing.
        what: &'static str,
    },
    /// Settings that are fine alone and wrong together.
    #[error("{0}")]
    Conflict(String),
    /// A file that is read and cannot be used.
    #[error("{}: {problem}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        problem: String,
    },
    /// A secret that must not be used.
    #[error("{}: {problem}", path.display())]
    Secret {
        /// The file that holds it.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        problem: String,
    },
}

/// Why a relay did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is at fault.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address that cannot be listened on.
    #[error("cannot listen on {address} ({kind}): {source}{}", listen_hint(source, *address))]
    Listen {
        /// What for.
        kind: ListenKind,
        /// Where.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// A driver that was asked for by name and that this machine refuses.
    #[error("cannot use --driver {driver}: {reason} (--driver auto falls back to epoll)")]
    Driver {
        /// Which one.
        driver: &'static str,
        /// The refusal and its likely cause.
        reason: String,
    },
    /// A thread or its runtime that could not be made.
    #[error("cannot start {what}: {source}{}", thread_hint(source))]
    Thread {
        /// Which one.
        what: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The state folder, or a file in it, cannot be used now.
    #[error("state_dir: {} {problem}", path.display())]
    State {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        problem: String,
    },
    /// The relay that runs goes on.
    #[error("cannot take over from the relay that runs: {0}")]
    TakeOver(String),
    /// A signal came before it served.
    #[error("told to stop before it served")]
    Cancelled,
    /// Nothing to make secrets from.
    #[error("cannot start: the kernel gives no random numbers (getrandom, /dev/urandom)")]
    Randomness,
}

impl StartError {
    /// Whether another process has an address.
    pub(crate) fn is_address_taken(&self) -> bool {
        matches!(self, Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }

    /// The exit code for it: [`EXIT_USAGE`] if the configuration is at fault.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => EXIT_USAGE,
            Self::TakeOver(_)
            | Self::Listen { .. }
            | Self::Driver { .. }
            | Self::Thread { .. }
            | Self::State { .. }
            | Self::Cancelled
            | Self::Randomness => EXIT_FAILED,
        }
    }
}

fn listen_hint(error: &io::Error, address: SocketAddr) -> String {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "; is another tieline-relay running? `ss -ltnp 'sport = :{port}'` shows who has it"
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
