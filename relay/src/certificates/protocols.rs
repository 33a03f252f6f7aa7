//! The protocols above TLS (ALPN, RFC 7301): their names, and what a client is served by the one that was agreed on.
//! They are the same at every address.

use crate::error::ListenKind;

/// Protocol of HTTP/2 callers.
pub(crate) const HTTP2: &[u8] = b"h2";

/// Protocol of HTTP/1.1 callers.
pub(super) const HTTP1: &[u8] = b"http/1.1";

/// Protocol of HTTP/1.0 callers.
pub(super) const HTTP10: &[u8] = b"http/1.0";

/// Protocol of agents.
pub(super) const AGENT: &[u8] = b"tieline-agent/1";

/// Protocol of raw callers, which begin with a preamble.
pub(super) const RAW: &[u8] = b"tieline";

/// Protocol of a CA that checks a name (TLS-ALPN-01, RFC 8737); it ends with the handshake.
pub(super) const ACME_TLS: &[u8] = b"acme-tls/1";

/// What a connection is served as after its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// Like one that came without TLS to an address of this kind.
    As(ListenKind),
    /// Not at all: a CA that checks a name has seen what it wants to see, and sends nothing (RFC 8737).
    Check,
}

impl Served {
    /// By the protocol that was agreed on, at an address of kind `listener`, which decides without one.
    pub(super) fn by(agreed: Option<&[u8]>, listener: ListenKind) -> Self {
        match agreed {
            Some(HTTP2 | HTTP1 | HTTP10) => Self::As(ListenKind::Http),
            Some(AGENT) => Self::As(ListenKind::Agent),
            Some(RAW) => Self::As(ListenKind::Tcp),
            Some(ACME_TLS) => Self::Check,
            // No configuration offers another one.
            Some(_) | None => Self::As(listener),
        }
    }
}

/// Whether a client with these protocols becomes an agent: it offers that of agents, and none that the relay prefers.
/// A CA that checks a name does not.
pub(super) fn is_agents<'a>(offered: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut is_agent = false;
    for protocol in offered {
        if [HTTP2, HTTP1, HTTP10].contains(&protocol) {
            return false;
        }
        is_agent |= protocol == AGENT;
    }
    is_agent
}
