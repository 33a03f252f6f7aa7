//! Why `tieline connect` cannot start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::error::TokenError;

/// Why the proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The relay's URL has no meaning.
    #[error("relay {text:?}: {problem} (expected https://host or http://host:port)")]
    Relay {
        /// What was given, without a user name and password.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A relay that there must be.
    #[error(
        "no relay: give its HTTP port with --relay, as in --relay http://host:9080, or set TIELINE_CONNECT_RELAY"
    )]
    NoRelay,
    /// The address to listen on has no meaning.
    #[error("listen {text:?}: an address is a host and a port, such as localhost:51822")]
    Listen {
        /// What was given.
        text: String,
    },
    /// Others could use the token.
    #[error(
        "listen {address}: any program on the network that reaches this address could use the tunnels \
         that your token opens: leave --listen out, which listens on localhost for this machine alone, \
         or accept it with --share-token-with-network"
    )]
    Exposed {
        /// What was given.
        address: SocketAddr,
    },
    /// A web origin has no meaning.
    #[error("allow-origin {text:?}: no origin (expected such as https://app.example)")]
    AllowOrigin {
        /// What was given.
        text: String,
    },
    /// A host to allow has no meaning.
    #[error("allow-host {text:?}: no host name (expected such as host.docker.internal)")]
    AllowHost {
        /// What was given.
        text: String,
    },
    /// The token file cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The file with certificates cannot be used.
    #[error("the file of --ca, {path}: {problem}")]
    Ca {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A setting without effect.
    #[error(
        "--ca (TIELINE_CA) names the certificates to check an https:// relay by, and this one is http://, \
         which has none to check: leave it out, or give the https:// address of the web server in front \
         of the relay"
    )]
    CaWithoutTls,
    /// Nothing to trust an `https` relay by.
    #[error(
        "this system has no certificates to check an https:// relay by{0}; name some with --ca"
    )]
    NoRoots(String),
    /// The cryptography has none of what TLS needs.
    #[error("TLS cannot start: {0}")]
    Tls(String),
    /// Somebody else listens there.
    #[error(
        "cannot listen on {address}: the port is taken; does another tieline connect run? \
         (--listen 127.0.0.1:0 takes a free one)"
    )]
    Taken {
        /// Which one.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Which one.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl ConnectError {
    /// The exit code that `tieline connect` ends with: 1 failed, 2 usage.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::NoRoots(_) | Self::Tls(_) | Self::Taken { .. } | Self::Bind { .. } => 1,
            _ => 2,
        }
    }
}
