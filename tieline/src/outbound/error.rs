//! Why a command cannot ask a relay as an HTTP caller.

use std::path::PathBuf;

use tieline_agent::TokenError;

/// Why no request can be made to a relay's HTTP port.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The relay's URL is invalid.
    #[error("relay {text:?}: {problem} (expected https://host or http://host:port)")]
    Relay {
        /// The URL as given, without user name and password.
        text: String,
        /// What is wrong with the URL.
        problem: String,
    },
    /// No relay was named.
    #[error(
        "no relay: give its HTTP port with --relay, as in --relay http://host:9080, or set TIELINE_CONNECT_RELAY"
    )]
    NoRelay,
    /// The token file cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The file of trusted certificates cannot be used.
    #[error("the file of --ca, {path}: {problem}")]
    Ca {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with the file.
        problem: String,
    },
    /// `--ca` has no effect with an `http` relay.
    #[error(
        "--ca (TIELINE_CA) names certificates to trust for an https:// relay, and this relay's URL is http://: \
         leave --ca out, or give the https:// address of the web server in front of the relay"
    )]
    CaWithoutTls,
    /// The system has no trusted certificates for an `https` relay.
    #[error(
        "this system has no trusted certificates for an https:// relay{0}; name a file of certificates with --ca"
    )]
    NoRoots(String),
    /// The TLS library cannot be set up.
    #[error("TLS cannot start: {0}")]
    Tls(String),
}

impl OutboundError {
    /// Exit code of the command: 1 if this machine lacks what TLS needs, 2 for wrong usage.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::NoRoots(_) | Self::Tls(_) => 1,
            _ => 2,
        }
    }
}
