//! How many of the bytes that QUIC was given the peer has not acknowledged yet.
//!
//! `quinn_proto` reports that only for streams that end. It drops a chunk once all its bytes, and all before them, are
//! acknowledged, or the stream is reset; so a chunk that says when it is dropped says when it has arrived.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;

/// Number of bytes of one stream that are not acknowledged.
#[derive(Debug, Default)]
pub struct Unacknowledged(Arc<AtomicUsize>);

impl Unacknowledged {
    /// Counts `chunk` until all references to it are dropped. Does not copy it.
    #[must_use]
    pub fn count(&self, chunk: Bytes) -> Bytes {
        self.0.fetch_add(chunk.len(), Relaxed);
        Bytes::from_owner(Counted {
            chunk,
            sum: Arc::clone(&self.0),
        })
    }

    /// Bytes that are not acknowledged.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.load(Relaxed)
    }
}

struct Counted {
    chunk: Bytes,
    sum: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.chunk
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.sum.fetch_sub(self.chunk.len(), Relaxed);
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
}
