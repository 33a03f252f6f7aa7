//! What an agent's connection is for, from its first bytes.

use bytes::BytesMut;
use tieline_wire::BulkNonce;
use tieline_wire::limits::{LANE_HELLO_BYTES, LANE_PREFACE};

use crate::io::{Received, Socket};

/// Bytes that tell a lane from a link: `TLA`, not `TLI`. They come in one piece, since both sides
/// write their first bytes at once; a connection that sends fewer is taken for a link, where every
/// byte is looked at.
const TELLING_BYTES: usize = 3;

/// What a connection is for.
pub(crate) enum Opening {
    /// A link, nothing read from it yet.
    Link,
    /// A lane, its hello read.
    Lane(BulkNonce),
}

/// Waits for the first bytes; `None` if the peer went away, or said something else.
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
