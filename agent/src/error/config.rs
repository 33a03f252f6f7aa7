//! What is wrong with a setting.

use tieline_wire::{FieldError, NameError};

use super::{ProxyError, TokenError, TrustError};

/// An invalid setting.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The relay's address cannot be parsed.
    #[error(
        "relay {text:?}: {problem} (expected https://host, wss://host, tls://host, quic://host, ws://host or \
         tcp://host:port)"
    )]
    Relay {
        /// The given address, without a user name and password.
        text: String,
        /// What is wrong with the address.
        problem: String,
    },
    /// A target cannot be parsed.
    #[error(
        "target {text:?}: {problem} (expected PORT, host:port, http://host:port/path or stdio:COMMAND)"
    )]
    Target {
        /// The given target.
        text: String,
        /// What is wrong with the target.
        problem: &'static str,
    },
    /// The command of a program cannot be used.
    #[error("target {text:?}: {problem}")]
    Command {
        /// Beginning of the given target.
        text: String,
        /// What is wrong with the command.
        problem: String,
    },
    /// An environment variable of a program cannot be set.
    #[error("{problem}")]
    Environment {
        /// What is wrong with the variable, without its value.
        problem: String,
    },
    /// The word for which callers share a process is unknown.
    #[error(
        "{text:?} does not say which callers share a process: expected never, caller or always"
    )]
    Share {
        /// The given word.
        text: String,
    },
    /// The number of a program's processes is outside its range.
    #[error("a program has 1 to {max} processes at a time, not {given}")]
    Children {
        /// Largest number of processes.
        max: u16,
        /// Number of processes given.
        given: u16,
    },
    /// The time after which unused processes end is outside its range.
    #[error("the time after which unused processes of a program end is {min_s} s to {max_h} h")]
    Idle {
        /// Shortest time, in seconds.
        min_s: u64,
        /// Longest time, in hours.
        max_h: u64,
    },
    /// All paths were to be exposed, but the target is a program.
    #[error("target {target:?} is a program, which has a single path: leave out --expose-all")]
    OnePath {
        /// The target.
        target: String,
    },
    /// Settings of a program were given for a server at an address.
    #[error(
        "target {target:?} is a server at an address: an environment, a folder and the like are for a program"
    )]
    NotProgram {
        /// The target.
        target: String,
    },
    /// A flag for programs was given, but no target of the command line is one.
    #[error(
        "{flag} is for a program, and no target of the command line is one: give --to stdio:COMMAND, or the command \
         behind --"
    )]
    NoProgram {
        /// The flag.
        flag: &'static str,
    },
    /// A target with a path but without `http://`.
    #[error("target {text:?}: a path belongs to an HTTP server: write {instead}")]
    TargetForm {
        /// The given target.
        text: String,
        /// The URL to write instead.
        instead: String,
    },
    /// A planned transport or kind of target that this build lacks.
    #[error("{what} is not built yet; this version has {instead}")]
    NotBuilt {
        /// The missing transport or kind of target.
        what: String,
        /// What this build has instead.
        instead: &'static str,
    },
    /// A tunnel's name is invalid.
    #[error("name {text:?}: {source}")]
    Name {
        /// The given name.
        text: String,
        /// What is wrong with the name.
        #[source]
        source: NameError,
    },
    /// A text or list exceeds a limit of the protocol.
    #[error("{field} is too long: at most {limit} {unit}")]
    TooLong {
        /// The setting.
        field: &'static str,
        /// The limit, in `unit`.
        limit: usize,
        /// Unit of the limit, such as bytes.
        unit: &'static str,
    },
    /// A text that the protocol does not allow.
    #[error("{0}")]
    Text(#[from] FieldError),
    /// No target was given, or more than the limit.
    #[error("{given} targets: an agent publishes 1 to {max}")]
    Targets {
        /// Largest number of targets.
        max: usize,
        /// Number of targets given.
        given: usize,
    },
    /// Two targets would share one tunnel.
    #[error("two targets have {what}: give each a name of its own (--to NAME=TARGET)")]
    Twice {
        /// What the two targets have in common, in words.
        what: String,
    },
    /// A settings file cannot be used.
    #[error("{place}: {problem}")]
    File {
        /// Path of the file, and the line if known.
        place: String,
        /// What is wrong with the file, and what to do.
        problem: String,
    },
    /// A required setting is missing.
    #[error("no {what}: give {flag}, set {variable} or write `{key}` into tieline.toml")]
    Missing {
        /// Name of the setting, in words.
        what: &'static str,
        /// Flag for the setting.
        flag: &'static str,
        /// Environment variable for the setting.
        variable: &'static str,
        /// Key for the setting in the settings file.
        key: &'static str,
    },
    /// A flag for one target was given beside several targets.
    #[error("{flag} is for one target, and there are several: name each with {instead}")]
    OneTarget {
        /// The flag.
        flag: &'static str,
        /// What to write instead of the flag.
        instead: &'static str,
    },
    /// A target has two names: from `--to` and from `--name`.
    #[error("the target has a name in --to NAME=TARGET and another in --name: leave one out")]
    NamedTwice,
    /// All paths were to be exposed, but the target has no paths.
    #[error("target {target:?} has no paths to expose: write it as http://host:port/path")]
    NoPaths {
        /// The target.
        target: String,
    },
    /// The number of links is outside its range.
    #[error("links must be 1 to {max}, not {given}")]
    Links {
        /// Largest number of links.
        max: u16,
        /// Number of links given.
        given: u16,
    },
    /// The drain timeout exceeds its limit.
    #[error("the drain timeout is at most {max_s} s")]
    DrainTimeout {
        /// The limit, in seconds.
        max_s: u64,
    },
    /// The token file cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// TLS has no certificates to trust, or cannot be set up.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// `--ca` has no effect with a relay without TLS.
    #[error(
        "--ca (`ca` in tieline.toml) names certificates to trust for an https://, tls:// or quic:// relay, and this \
         relay's URL is tcp:// or ws://: leave --ca out, or dial tls:// if the relay has TLS there"
    )]
    CaWithoutTls,
    /// A client certificate has no effect with a relay without TLS.
    #[error(
        "--client-cert (TIELINE_CLIENT_CERT, `client_cert` in tieline.toml) names a certificate to show to an https://, \
         tls:// or quic:// relay, and this relay's URL is tcp:// or ws://: leave it out, or dial tls:// if the relay has TLS \
         there"
    )]
    ClientCertWithoutTls,
    /// A client certificate and its key belong together.
    #[error("{given} does nothing alone: give {missing}, too")]
    ClientCertAlone {
        /// Flag of the file that is given.
        given: &'static str,
        /// Flag of the file that is missing.
        missing: &'static str,
    },
    /// The proxy on the way to the relay cannot be used.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// No directory for the agent's key is known.
    #[error("no place for the agent's key: set --state-dir, or the variable HOME")]
    NoStateDir,
}

impl ConfigError {
    /// Exit code of a command: 1 if this machine lacks what TLS needs, 2 for wrong usage.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Trust(error) => error.exit_code(),
            _ => 2,
        }
    }
}
