//! A connection to the relay, over any transport.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tieline_wire::{Moment, Mux, Settings};

use super::quic::Quic;
use super::stream::Stream;

/// A connection to the relay that is ready for a link.
pub enum Connection {
    /// A stream of bytes.
    Bytes(Stream),
    /// QUIC, with a stream for each session.
    Quic(Box<Quic>),
}

impl Connection {
    /// The agent's end of a link over this connection, which begins its time at 0.
    #[must_use]
    pub fn mux(&self) -> Mux {
        let mux = Mux::agent(Settings::default(), Moment::from_micros(0));
        match self {
            Self::Bytes(_) => mux,
            Self::Quic(_) => mux.over_streams(),
        }
    }

    /// True over QUIC.
    #[must_use]
    pub const fn is_over_quic(&self) -> bool {
        matches!(self, Self::Quic(_))
    }

    /// Exporter of the TLS connection, for channel binding; `None` without TLS, and below TLS 1.3.
    #[must_use]
    pub fn exporter(&self) -> Option<[u8; 32]> {
        match self {
            Self::Bytes(stream) => stream.exporter(),
            Self::Quic(quic) => quic.exporter(),
        }
    }

    /// The relay's address for bulk lanes; `None` over a connection that has none.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn lane_address(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Self::Bytes(stream) => stream.lane_address(),
            Self::Quic(_) => Ok(None),
        }
    }

    /// This machine's address that the connection cannot do without; `None` for one that goes on from any address, or if
    /// the address is unknown.
    pub(crate) fn fixed_address(&self) -> Option<IpAddr> {
        match self {
            Self::Bytes(stream) => stream.local_addr().ok().map(|address| address.ip()),
            Self::Quic(_) => None,
        }
    }

    /// True if the handshake has shown that a relay's port for agents answers, so that the relay's bytes need no
    /// explanation.
    pub(crate) fn is_surely_relay(&self) -> bool {
        match self {
            Self::Bytes(stream) => stream.is_websocket(),
            // It has agreed to the protocol of agents.
            Self::Quic(_) => true,
        }
    }
}
