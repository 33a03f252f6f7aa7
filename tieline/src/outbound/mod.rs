//! HTTP requests that commands make themselves: one request over a connection of its own, and the list of tunnels
//! that a relay gives a caller.

mod error;
pub(crate) mod known;
mod origin;
pub(crate) mod request;
pub(crate) mod tls;
mod token;
pub(crate) mod tunnels;

pub use self::error::OutboundError;
pub use self::origin::RelayOrigin;
pub(crate) use self::token::authorization;
