//! What wraps the bytes on the two outer hops of a path: TLS, WebSocket messages, both, QUIC or nothing.

use std::fmt;

use crate::socket::{Certificate, Wrap};

/// What wraps the bytes of one hop.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Wrapping {
    /// Nothing.
    Plain,
    /// TLS.
    Tls,
    /// WebSocket messages, which the relay unwraps.
    WebSocket,
    /// WebSocket messages over TLS.
    WebSocketTls,
    /// A WebSocket to the target, whose messages relay or proxy pass on as they are.
    PassedWebSocket,
    /// A stream of QUIC.
    Quic,
}

impl Wrapping {
    /// Whether the hop needs a certificate: it has TLS, or QUIC, whose handshake is that of TLS.
    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::WebSocketTls | Self::Quic)
    }

    /// Whether the hop carries WebSocket messages.
    pub(crate) fn is_websocket(self) -> bool {
        matches!(
            self,
            Self::WebSocket | Self::WebSocketTls | Self::PassedWebSocket
        )
    }

    /// What the client puts around its bytes on a hop with this wrapping; `certificate` is that of hops with TLS.
    pub(crate) fn wrap(self, certificate: Option<&Certificate>) -> Wrap {
        let certificate = certificate.filter(|_| self.is_tls());
        Wrap {
            tls: certificate.map(|certificate| certificate.client.clone()),
            is_websocket: self.is_websocket(),
            is_quic: self == Self::Quic,
        }
    }

    /// Wrapping of the direct path that a path with this wrapping is compared with.
    pub(crate) fn of_direct(self) -> Self {
        match self {
            Self::PassedWebSocket => Self::WebSocket,
            other => other,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "tls",
            Self::WebSocket => "ws",
            Self::WebSocketTls => "wss",
            Self::PassedWebSocket => "ws-passed",
            Self::Quic => "quic",
        }
    }
}

/// What wraps the hops of a path; the hop to the target is always plain.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Wrapped {
    /// From the client to the near hop.
    pub(crate) caller: Wrapping,
    /// Between near and far hop.
    pub(crate) link: Wrapping,
}

impl Wrapped {
    /// No wrapping at all.
    pub(crate) const PLAIN: Self = Self::new(Wrapping::Plain, Wrapping::Plain);

    /// TLS from the caller to the near hop only.
    pub(crate) const TLS_CALLER: Self = Self::new(Wrapping::Tls, Wrapping::Plain);

    /// TLS between the hops only.
    pub(crate) const TLS_LINK: Self = Self::new(Wrapping::Plain, Wrapping::Tls);

    /// TLS on both hops.
    pub(crate) const TLS: Self = Self::new(Wrapping::Tls, Wrapping::Tls);

    /// WebSocket over TLS between the hops only.
    pub(crate) const WSS_LINK: Self = Self::new(Wrapping::Plain, Wrapping::WebSocketTls);

    /// A WebSocket from the client to the target.
    pub(crate) const PASSED: Self = Self::new(Wrapping::PassedWebSocket, Wrapping::Plain);

    /// Whether a hop has QUIC.
    pub(crate) fn has_quic(self) -> bool {
        [self.caller, self.link].contains(&Wrapping::Quic)
    }

    /// Wrapping of the hop from the client, and of that between near and far hop.
    pub(crate) const fn new(caller: Wrapping, link: Wrapping) -> Self {
        Self { caller, link }
    }

    /// Whether any hop has TLS.
    pub(crate) fn has_tls(self) -> bool {
        self.caller.is_tls() || self.link.is_tls()
    }
}

impl fmt::Display for Wrapped {
    /// Formats as the end of a path's name: `-tls-caller`, `-wss-link`, `-tls`; empty if nothing is wrapped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (caller, link) = (self.caller.word(), self.link.word());
        match (self.caller, self.link) {
            (Wrapping::Plain, Wrapping::Plain) => Ok(()),
            (Wrapping::PassedWebSocket, _) => write!(f, "-{caller}"),
            (_, Wrapping::Plain) => write!(f, "-{caller}-caller"),
            (Wrapping::Plain, _) => write!(f, "-{link}-link"),
            _ if caller == link => write!(f, "-{caller}"),
            _ => write!(f, "-{caller}-caller-{link}-link"),
        }
    }
}
