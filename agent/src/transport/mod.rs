//! The way to the relay: its URL, the dial, and the stream that a link reads and writes.
//!
//! A [`Dialler`] connects over TCP, and over TLS above it for `tls://`; the result is a [`Stream`], whose halves hide the
//! difference from the link. TLS clients of the program `tieline` trust the same certificates ([`Trust`]).

mod client_certificate;
mod dial;
mod lane;
pub mod server_kind;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod tls;
mod url;

pub use self::client_certificate::client_certificate_problem;
pub use self::dial::{Connected, DIAL_TIMEOUT, Dialler};
pub(crate) use self::lane::{Lane, dial_lane};
pub use self::stream::{Reads, Stream, TlsDetails, Writes};
pub use self::tls::{Trust, certificate_problem};
pub use self::url::{RelayUrl, Transport};
