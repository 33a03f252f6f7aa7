//! Tells from the first bytes of an agent's connection whether it is a link or a bulk lane.

use bytes::BytesMut;
use tieline_wire::BulkNonce;
use tieline_wire::limits::{LANE_HELLO_BYTES, LANE_PREFACE};

use crate::io::{Received, Socket};

/// Number of bytes that tell a lane (`TLA`) from a link (`TLI`). Both sides send their preface in one write, so
/// the bytes arrive together. A connection that sends fewer bytes is treated as a link, whose decoder checks
/// every byte.
const TELLING_BYTES: usize = 3;

/// Purpose of an agent's connection.
pub(crate) enum Opening {
    /// A link; no byte of it has been consumed.
    Link,
    /// A bulk lane; its hello has been read.
    Lane(BulkNonce),
}

/// Waits for the first bytes; `None` if the peer closed the connection or sent an invalid lane hello.
pub(crate) async fn opening(socket: &Socket) -> Option<Opening> {
    let mut first = [0; TELLING_BYTES];
    let seen = loop {
        socket.readable().await;
        match socket.peek(&mut first).ok()? {
            Received::Bytes(seen) => break seen,
            Received::End => return None,
            Received::Nothing => {}
        }
    };
    if seen < TELLING_BYTES || first != LANE_PREFACE[..TELLING_BYTES] {
        return Some(Opening::Link);
    }
    let mut hello = BytesMut::with_capacity(LANE_HELLO_BYTES);
    while hello.len() < LANE_HELLO_BYTES {
        let missing = LANE_HELLO_BYTES - hello.len();
        match socket.recv(&mut hello, missing).ok()? {
            Received::Bytes(_) => {}
            Received::Nothing => socket.readable().await,
            Received::End => return None,
        }
    }
    BulkNonce::from_lane_hello(&hello).map(Opening::Lane)
}
