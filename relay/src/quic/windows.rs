//! What callers' connections of one shard may hold in the relay's memory: bytes that no target has read, and bytes that no
//! caller has acknowledged. Over TCP the kernel holds and bounds both; over QUIC the windows of the connection do. They
//! are small before the first session, and grow with each session out of the shard's common room.

use std::cell::Cell;
use std::rc::Rc;

use tieline_transport::quic::{STRANGER_WINDOW_BYTES, STREAM_WINDOW_BYTES};

use crate::config::QUIC_WINDOWS_PART;

/// Divisor of the room that is left, for the most that a connection gets at once: the last callers get some, too.
const LEFT_PART: u64 = 4;

/// Least that a connection gets, in bytes: it has as much without.
const PART_BYTES_MIN: u64 = STRANGER_WINDOW_BYTES as u64;

/// The room of one shard for the windows of its callers' connections.
pub(crate) struct Windows {
    left: Cell<u64>,
}

impl Windows {
    /// Room of a shard whose sessions may buffer `shard_budget_bytes` per direction.
    pub(crate) fn new(shard_budget_bytes: u64) -> Rc<Self> {
        Rc::new(Self {
            left: Cell::new(shard_budget_bytes / QUIC_WINDOWS_PART),
        })
    }
}

/// One connection's part of the room; dropping it gives the part back.
pub(super) struct Window {
    windows: Rc<Windows>,
    part: u64,
}

impl Window {
    /// Nothing of the room yet.
    pub(super) const fn new(windows: Rc<Windows>) -> Self {
        Self { windows, part: 0 }
    }

    /// Takes what `sessions` at a time lack, as far as there is room; false if that is not all. The part is kept when they
    /// end, because a caller that was allowed to send bytes cannot be told otherwise.
    pub(super) fn grow(&mut self, sessions: u32) -> bool {
        let wanted = u64::from(sessions) * u64::from(STREAM_WINDOW_BYTES);
        let missing = wanted.saturating_sub(self.part);
        let left = self.windows.left.get();
        let more = missing.min(left / LEFT_PART);
        if more < missing.min(PART_BYTES_MIN) {
            return false;
        }
        self.windows.left.set(left - more);
        self.part += more;
        more == missing
    }

    /// Bytes of each direction that the connection may hold, with those that it may without a session.
    pub(super) fn bytes(&self) -> u32 {
        let bytes = self.part + u64::from(STRANGER_WINDOW_BYTES);
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.windows.left.set(self.windows.left.get() + self.part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn a_connection_has_room_for_the_most_sessions_that_it_had_at_a_time() {
        let windows = Windows::new(2 * 128 * MIB);
        let mut window = Window::new(Rc::clone(&windows));
        assert_eq!(window.bytes(), STRANGER_WINDOW_BYTES);
        for (sessions, wanted) in [(1, 1), (2, 2), (1, 2), (2, 2), (4, 4)] {
            assert!(window.grow(sessions));
            let wanted = STRANGER_WINDOW_BYTES + wanted * STREAM_WINDOW_BYTES;
            assert_eq!(window.bytes(), wanted);
        }
        assert_eq!(windows.left.get(), 96 * MIB);
        drop(window);
        assert_eq!(windows.left.get(), 128 * MIB);
    }

    #[test]
    fn all_connections_together_have_no_more_than_the_room_and_the_first_leaves_some() {
        let windows = Windows::new(2 * 32 * MIB);
        let mut all: Vec<_> = (0..100).map(|_| Window::new(Rc::clone(&windows))).collect();
        let whole = all.iter_mut().map(|it| u32::from(it.grow(1)));
        assert_eq!(whole.sum::<u32>(), 1);
        assert_eq!(all[1].part, 6 * MIB);
        assert_eq!(all[99].part, 0);
        let given: u64 = all.iter().map(|it| it.part).sum();
        assert_eq!(given + windows.left.get(), 32 * MIB);
        // Once others have ended, the next session finds room.
        drop(all.drain(..99));
        assert!(all[0].grow(1));
    }
}
