//! Memory for reads, reused once all payloads that were read into it are dropped.

use bytes::BytesMut;

/// Smallest room in the buffer for a read of the link; with less room, the read gets a new piece of memory.
pub(super) const READ_BYTES_MIN: usize = 64 * 1024;

/// Bytes after which a reader or writer that never waits lets other tasks run.
pub(super) const TURN_BYTES_MAX: usize = 1024 * 1024;

/// Size of a piece of memory; one read uses all that is left of the piece.
const PIECE_BYTES: usize = 256 * 1024;

/// Limit on used-up pieces that are kept for reuse until their last payload is dropped; further pieces are freed
/// with their last payload.
const PIECES_MAX: usize = 4;

/// Memory that reads append to, and that payloads are split off from.
///
/// A fresh piece from the system costs a page fault for every 4 KiB, as much as reading the bytes, so pieces are
/// reused.
#[derive(Debug, Default)]
pub(super) struct ReadBuffer {
    current: Option<BytesMut>,
    busy: Vec<BytesMut>,
}

impl ReadBuffer {
    /// Memory with room for at least `room` bytes.
    pub(super) fn with_room(&mut self, room: usize) -> &mut BytesMut {
        let mut current = self.current.take();
        let usable =
            |piece: &mut BytesMut| piece.capacity() >= room || piece.try_reclaim(PIECE_BYTES);
        let piece = match current.take_if(usable) {
            Some(piece) => piece,
            None => self.next_piece(current),
        };
        self.current.insert(piece)
    }

    fn next_piece(&mut self, used_up: Option<BytesMut>) -> BytesMut {
        let free = self
            .busy
            .iter_mut()
            .position(|piece| piece.try_reclaim(PIECE_BYTES));
        let next = match free {
            Some(index) => self.busy.swap_remove(index),
            None => BytesMut::with_capacity(PIECE_BYTES),
        };
        if self.busy.len() < PIECES_MAX {
            self.busy.extend(used_up);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(buffer: &mut ReadBuffer, len: usize) -> bytes::Bytes {
        let memory = buffer.with_room(len);
        memory.resize(len, 7);
        memory.split().freeze()
    }

    #[test]
    fn memory_goes_round_while_payloads_are_short_lived() {
        let mut buffer = ReadBuffer::default();
        let mut seen = std::collections::HashSet::new();
        let mut on_the_way = std::collections::VecDeque::new();
        for _ in 0..1_000 {
            let payload = read(&mut buffer, 64 * 1024);
            seen.insert(payload.as_ptr());
            on_the_way.push_back(payload);
            if on_the_way.len() > 8 {
                on_the_way.pop_front();
            }
        }
        // Four payloads fit into a piece.
        assert!(seen.len() <= 4 * (PIECES_MAX + 1), "{}", seen.len());
    }

    #[test]
    fn payloads_that_stay_keep_their_bytes() {
        let mut buffer = ReadBuffer::default();
        let kept: Vec<_> = (0..100).map(|_| read(&mut buffer, 100_000)).collect();
        assert!(
            kept.iter()
                .all(|payload| payload.iter().all(|byte| *byte == 7))
        );
        assert!(buffer.busy.len() <= PIECES_MAX);
    }
}
