//! Bytes that a session's receiving socket did not take at once, copied out of the link's receive buffer.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BytesMut};

/// Smallest chunk that a slow session allocates, in bytes.
const CHUNK_BYTES_MIN: usize = 1024;

/// Largest chunk, in bytes; the largest window fills 256 of them.
const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// A queue of bytes, bounded by the session's credit.
///
/// Made of chunks, so that it is never copied to grow, and frees memory as bytes leave. Small frames share a
/// chunk, so a peer that sends single bytes cannot cause more bookkeeping than payload.
#[derive(Debug, Default)]
pub struct Backlog {
    chunks: VecDeque<BytesMut>,
    len: usize,
}

impl Backlog {
    /// True if no bytes wait.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a copy of `bytes`.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let spare = match self.chunks.back_mut() {
                Some(chunk) => chunk.capacity() - chunk.len(),
                None => 0,
            };
            if spare == 0 {
                // A chunk as long as the queue: few chunks when the queue is long, little memory when it is short.
                let size = self
                    .len
                    .max(bytes.len())
                    .clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
                self.chunks.push_back(BytesMut::with_capacity(size));
                continue;
            }
            let (now, later) = bytes.split_at(spare.min(bytes.len()));
            if let Some(chunk) = self.chunks.back_mut() {
                chunk.extend_from_slice(now);
            }
            self.len += now.len();
            bytes = later;
        }
    }

    /// The first chunk of the queue; empty if no bytes wait.
    #[must_use]
    pub fn front(&self) -> &[u8] {
        self.chunks.front().map_or(&[], |chunk| chunk)
    }

    /// Fills `slices` from the front of the queue, for a gathered write; returns how many it filled.
    pub fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        slices
            .iter_mut()
            .zip(&self.chunks)
            .map(|(slot, chunk)| *slot = IoSlice::new(chunk))
            .count()
    }

    /// Drops the first `count` bytes.
    ///
    /// # Panics
    /// If fewer than `count` bytes wait.
    pub fn advance(&mut self, mut count: usize) {
        self.len -= count;
        while let Some(chunk) = self.chunks.front_mut() {
            if count < chunk.len() {
                chunk.advance(count);
                break;
            }
            count -= chunk.len();
            self.chunks.pop_front();
        }
    }

    /// Drops all bytes and frees their memory.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in_whatever_the_pieces(
            steps in prop::collection::vec((any::<bool>(), 0..3_000_usize), 0..500),
        ) {
            let mut backlog = Backlog::default();
            let (mut put, mut taken) = (0_usize, 0_usize);
            let byte_at = |at: usize| at.to_le_bytes()[0] ^ at.to_le_bytes()[1];
            for (is_push, len) in steps {
                if is_push {
                    let bytes: Vec<u8> = (put..put + len).map(byte_at).collect();
                    backlog.push(&bytes);
                    put += len;
                } else {
                    let mut slices = [IoSlice::new(&[]); 4];
                    let filled = backlog.fill(&mut slices);
                    let seen: Vec<u8> = slices[..filled].iter().flat_map(|s| s.to_vec()).collect();
                    prop_assert!(seen.starts_with(backlog.front()));
                    let take = len.min(seen.len());
                    for (index, byte) in seen[..take].iter().enumerate() {
                        prop_assert_eq!(*byte, byte_at(taken + index));
                    }
                    backlog.advance(take);
                    taken += take;
                }
                prop_assert_eq!(backlog.is_empty(), put == taken);
                prop_assert_eq!(backlog.front().is_empty(), put == taken);
                prop_assert_eq!(backlog.len, put - taken);
            }
        }
    }

    #[test]
    fn single_bytes_share_memory() {
        let mut backlog = Backlog::default();
        for _ in 0..16_384 {
            backlog.push(b"x");
        }
        let held: usize = backlog.chunks.iter().map(BytesMut::capacity).sum();
        assert!(held <= 2 * 16_384, "{held}");
        backlog.advance(16_384);
        assert!(backlog.chunks.is_empty());
    }
}
