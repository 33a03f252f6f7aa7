//! Why `tieline connect` cannot start.

use std::io;
use std::net::SocketAddr;

use tieline_agent::TokenError;

use crate::outbound::OutboundError;

/// Why the proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The relay cannot be asked.
    #[error(transparent)]
    Relay(#[from] OutboundError),
    /// The token file cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The address to listen on is invalid.
    #[error("listen {text:?}: an address is a host and a port, such as localhost:51822")]
    Listen {
        /// The address as given.
        text: String,
    },
    /// Programs on the network could use the token through the address to listen on.
    #[error(
        "listen {address}: any program on the network that reaches this address could use the tunnels \
         that your token opens: leave --listen out, which listens on localhost for this machine alone, \
         or accept it with --share-token-with-network"
    )]
    Exposed {
        /// The address as given.
        address: SocketAddr,
    },
    /// A web origin to allow is invalid.
    #[error("allow-origin {text:?}: not a web origin (expected, for example, https://app.example)")]
    AllowOrigin {
        /// The origin as given.
        text: String,
    },
    /// A host to allow is invalid.
    #[error("allow-host {text:?}: not a host name (expected, for example, host.docker.internal)")]
    AllowHost {
        /// The host as given.
        text: String,
    },
    /// Another program listens on the address.
    #[error(
        "cannot listen on {address}: the port is taken; does another tieline connect run? \
         (--listen 127.0.0.1:0 takes a free one)"
    )]
    Taken {
        /// The taken address.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address that cannot be listened on.
        address: SocketAddr,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
}

impl ConnectError {
    /// Exit code of `tieline connect`: 1 if the start failed, 2 for wrong usage.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Relay(error) => error.exit_code(),
            Self::Taken { .. } | Self::Bind { .. } => 1,
            _ => 2,
        }
    }
}
