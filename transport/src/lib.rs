//! What lies between a socket's bytes and a stream's, for relay and agent alike: TLS. No runtime, no clock, and no socket
//! but through [`Socket`].

mod socket;
mod tls;

pub use crate::socket::{Received, Socket};
pub use crate::tls::{Agreed, Tls};
