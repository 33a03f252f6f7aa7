//! Why a command cannot ask a relay as an HTTP caller.

use tieline_agent::{ProxyError, TokenError, TrustError};

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
        "no relay: give its HTTP port with --relay, as in --relay https://host or --relay http://host:9080, or \
         set TIELINE_CONNECT_RELAY"
    )]
    NoRelay,
    /// The token file cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// TLS has no certificates to trust, or cannot be set up.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// `--ca` has no effect with an `http` relay.
    #[error(
        "--ca names certificates to trust for an https:// relay, and this relay's URL is http://: leave --ca out, or \
         give the relay's https:// address"
    )]
    CaWithoutTls,
    /// The proxy on the way to the relay cannot be used.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
}

impl OutboundError {
    /// Exit code of the command: 1 if this machine lacks what TLS needs, 2 for wrong usage.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Trust(error) => error.exit_code(),
            _ => 2,
        }
    }
}
