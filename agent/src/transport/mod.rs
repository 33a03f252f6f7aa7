//! The way to the relay: its URL, the dial, and the stream that a link reads and writes.
//!
//! A [`Dialler`] connects over TCP, straight or through a proxy ([`Proxies`]), then as the URL says over TLS and over a
//! WebSocket above it; the result is a [`Stream`], whose halves hide the difference from the link. Or it connects over
//! [`Quic`]. A [`Connection`] is one of both. HTTP clients of the program `tieline` trust the same certificates
//! ([`Trust`]), begin their handshakes alike ([`Hellos`]) and go the same [`Way`].

mod ask;
mod choice;
mod client_certificate;
mod connection;
mod dial;
mod gauge;
mod head;
mod heard;
mod hello;
mod lane;
mod logins;
mod proxy;
mod quic;
mod refusal;
pub mod server_kind;
mod stream;
mod talk;
#[cfg(test)]
pub(crate) mod tests;
mod tls;
mod untried;
mod upgrade;
mod url;
mod variables;
mod verifier;
mod way;
mod wire;

pub use self::choice::Proxies;
pub use self::client_certificate::client_certificate_problem;
pub use self::connection::Connection;
pub use self::dial::{Connected, DIAL_TIMEOUT, Dialler, Secured};
pub(crate) use self::gauge::Gauge;
pub use self::hello::{Hellos, Try};
pub(crate) use self::lane::{Lane, dial_lane};
pub use self::logins::Logins;
pub use self::proxy::Proxy;
pub use self::quic::{Quic, QuicError, QuicPath};
pub(crate) use self::quic::{alert_of, certificate_required};
pub use self::stream::{Reads, Stream, TlsDetails, Writes};
pub use self::talk::Talk;
pub use self::tls::{Trust, certificate_problem};
pub use self::untried::Untried;
pub use self::url::{RelayUrl, Transport};
pub use self::way::{Way, WayReason};
pub use tieline_transport::websocket::handshake::SUBPROTOCOL_AGENT;
