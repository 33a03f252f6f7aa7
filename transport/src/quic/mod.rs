//! Links over QUIC, for relay and agent alike, on `quinn_proto`: no socket and no clock here either.
//!
//! The owner of a connection feeds it datagrams and hands its stream events to [`LinkStreams`], which moves bytes between
//! the connection's streams and the link's [`Mux`](tieline_wire::Mux): the control frames on the agent's first stream,
//! each session on a stream of the relay. `config` has every limit of a connection, `ends` translates reasons. A caller's
//! stream at a relay carries one session and no link; the relay moves its bytes itself.

mod acknowledged;
mod config;
mod ends;
mod input;
mod link;
mod varint;

#[cfg(test)]
mod tests;

pub use acknowledged::{LinkProgress, Unacknowledged};
pub use config::{
    ALPN_AGENT, IDLE_TIMEOUT_MAX, SEND_WINDOW_BYTES, STRANGER_WINDOW_BYTES, STREAM_WINDOW_BYTES,
    client, endpoint, server,
};
pub use ends::{close_code, link_end, lost, session_code, session_end};
pub use input::{SESSION_STREAM, SessionInput};
pub use link::LinkStreams;

use quinn_proto::Connection;

use crate::tls::EXPORTER_LABEL;

/// The connection's exporter, for channel binding (RFC 9266), once its handshake is over; see
/// [`Tls::exporter`](crate::Tls::exporter).
#[must_use]
pub fn exporter(connection: &Connection) -> Option<[u8; 32]> {
    let mut exporter = [0; 32];
    let session = connection.crypto_session();
    let exported = session.export_keying_material(&mut exporter, EXPORTER_LABEL, &[]);
    exported.is_ok().then_some(exporter)
}
