//! What lies between a socket and a link's bytes, for relay and agent alike: TLS, and WebSocket over TLS or over the plain
//! socket, below a byte stream; QUIC below the streams of a mux. Uses no runtime and no clock, and reaches sockets only
//! through [`Socket`], or not at all.

pub mod quic;
mod socket;
#[cfg(test)]
mod tests;
mod tls;
pub mod websocket;

pub use crate::socket::{Received, Socket};
pub use crate::tls::{Agreed, Tls};
