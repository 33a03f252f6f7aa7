//! Tells from the first bytes of an agent's connection whether it is a link or a bulk lane.

use bytes::BytesMut;
use tieline_wire::BulkNonce;
use tieline_wire::limits::{LANE_HELLO_BYTES, LANE_PREFACE};

use crate::io::{Received, Stream};

/// Number of bytes that tell a lane (`TLA`) from a link (`TLI`). Both sides send their preface in one write, so
/// the bytes arrive together. A connection that sends fewer bytes is treated as a link, whose decoder checks
/// every byte.
const TELLING_BYTES: usize = 3;

/// Purpose of an agent's connection.
pub(crate) enum Opening {
    /// A link; its first bytes were read ahead.
    Link,
    /// A bulk lane; its hello has been read.
    Lane(BulkNonce),
}

/// Waits for the first bytes; `None` if the peer closed the connection or sent an invalid lane hello.
pub(crate) async fn opening(stream: &Stream) -> Option<Opening> {
    let first = loop {
        stream.readable().await;
        // Nothing behind a lane's hello is read, since the kernel moves what a lane carries.
        match stream.read_ahead(LANE_HELLO_BYTES).ok()? {
            (Received::Bytes(_), first) => break first,
            (Received::End, _) => return None,
            (Received::Nothing, _) => {}
        }
    };
    if !first.starts_with(&LANE_PREFACE[..TELLING_BYTES]) {
        return Some(Opening::Link);
    }
    let mut hello = BytesMut::with_capacity(LANE_HELLO_BYTES);
    while hello.len() < LANE_HELLO_BYTES {
        let missing = LANE_HELLO_BYTES - hello.len();
        match stream.recv(&mut hello, missing).ok()? {
            Received::Bytes(_) => {}
            Received::Nothing => stream.readable().await,
            Received::End => return None,
        }
    }
    BulkNonce::from_lane_hello(&hello).map(Opening::Lane)
}
