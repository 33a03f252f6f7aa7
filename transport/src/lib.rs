//! What lies between a socket's bytes and a stream's, for relay and agent alike: TLS, and WebSocket above it or without
//! it. No runtime, no clock, and no socket but through [`Socket`].

mod socket;
#[cfg(test)]
mod tests;
mod tls;
pub mod websocket;

pub use crate::socket::{Received, Socket};
pub use crate::tls::{Agreed, Tls};
