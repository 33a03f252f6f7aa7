//! The layers between a socket and a byte stream, for relay and agent alike: TLS, and WebSocket over TLS or over the
//! plain socket. Uses no runtime and no clock, and reaches sockets only through [`Socket`].

mod socket;
#[cfg(test)]
mod tests;
mod tls;
pub mod websocket;

pub use crate::socket::{Received, Socket};
pub use crate::tls::{Agreed, Tls};
