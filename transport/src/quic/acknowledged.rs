//! How many of the bytes that QUIC was given the peer has not acknowledged yet, for each stream and for a whole link.
//!
//! `quinn_proto` reports that only for streams that end. It drops a chunk once all its bytes, and all before them, are
//! acknowledged, or the stream is reset; so a chunk that says when it is dropped says when it has arrived.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use tieline_wire::SendProgress;

/// How far the bytes of all streams of a link have come; clones show the same link, also to other threads.
///
/// Bytes of a stream that was reset count neither as acknowledged nor as waiting. A chunk counts as acknowledged once all of
/// it is.
#[derive(Clone, Debug, Default)]
pub struct LinkProgress(Arc<Totals>);

#[derive(Debug, Default)]
struct Totals {
    acked: AtomicU64,
    waiting: AtomicU64,
}

impl LinkProgress {
    /// Bytes that are acknowledged, and bytes that are not; a chunk that is acknowledged just now may count in neither.
    #[must_use]
    pub fn read(&self) -> SendProgress {
        SendProgress {
            acked: self.0.acked.load(Relaxed),
            waiting: self.0.waiting.load(Relaxed),
        }
    }

    fn given(&self, len: usize) {
        self.0.waiting.fetch_add(len as u64, Relaxed);
    }

    fn left(&self, len: usize, is_acked: bool) {
        self.0.waiting.fetch_sub(len as u64, Relaxed);
        if is_acked {
            self.0.acked.fetch_add(len as u64, Relaxed);
        }
    }
}

/// Number of bytes of one stream that are not acknowledged.
#[derive(Debug, Default)]
pub struct Unacknowledged(Arc<Stream>);

#[derive(Debug, Default)]
struct Stream {
    bytes: AtomicUsize,
    /// What is dropped was not acknowledged.
    is_abandoned: AtomicBool,
    /// The link that the stream is part of.
    link: Option<LinkProgress>,
}

impl Unacknowledged {
    /// The count of a stream of the link that `progress` is of.
    #[must_use]
    pub fn of(progress: &LinkProgress) -> Self {
        Self(Arc::new(Stream {
            link: Some(progress.clone()),
            ..Stream::default()
        }))
    }

    /// Counts `chunk` until all references to it are dropped. Does not copy it.
    #[must_use]
    pub fn count(&self, chunk: Bytes) -> Bytes {
        self.0.bytes.fetch_add(chunk.len(), Relaxed);
        if let Some(link) = &self.0.link {
            link.given(chunk.len());
        }
        Bytes::from_owner(Counted {
            chunk,
            stream: Arc::clone(&self.0),
        })
    }

    /// Bytes that are not acknowledged.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.bytes.load(Relaxed)
    }

    /// Notes that the stream is reset now, or was stopped by the peer: its bytes are dropped, acknowledged or not.
    pub fn abandon(&self) {
        self.0.is_abandoned.store(true, Relaxed);
    }
}

struct Counted {
    chunk: Bytes,
    stream: Arc<Stream>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.chunk
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let (stream, len) = (&self.stream, self.chunk.len());
        stream.bytes.fetch_sub(len, Relaxed);
        if let Some(link) = &stream.link {
            link.left(len, !stream.is_abandoned.load(Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_counts_until_its_last_part_is_dropped_and_is_not_copied() {
        let unacknowledged = Unacknowledged::default();
        let chunk = Bytes::from(vec![1; 100]);
        let at = chunk.as_ptr();
        let mut counted = unacknowledged.count(chunk);
        assert_eq!(counted.as_ptr(), at);
        let part = counted.split_to(60);
        assert_eq!(unacknowledged.bytes(), 100);
        drop(counted);
        assert_eq!(unacknowledged.bytes(), 100);
        drop(part);
        assert_eq!(unacknowledged.bytes(), 0);
    }

    #[test]
    fn a_link_counts_the_bytes_of_all_its_streams_and_a_reset_acknowledges_nothing() {
        const fn of(acked: u64, waiting: u64) -> SendProgress {
            SendProgress { acked, waiting }
        }

        let link = LinkProgress::default();
        let (one, other) = (Unacknowledged::of(&link), Unacknowledged::of(&link));
        let chunk = |len: usize| Bytes::from(vec![1; len]);
        let acked = one.count(chunk(100));
        let rest = one.count(chunk(50));
        let reset = other.count(chunk(30));
        assert_eq!(link.read(), of(0, 180));
        drop(acked);
        assert_eq!(link.read(), of(100, 80));
        other.abandon();
        drop(reset);
        assert_eq!(link.read(), of(100, 50));
        assert_eq!(other.bytes(), 0);
        // A stream may be forgotten before its last bytes are acknowledged.
        drop(one);
        drop(rest);
        assert_eq!(link.read(), of(150, 0));
    }
}
