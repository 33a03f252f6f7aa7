//! Who sends next: sessions by deficit round robin, so that one with large frames gets no more
//! than one with small ones.

use std::collections::VecDeque;

use super::sessions::{Chunk, End, SendHalf};
use crate::ids::SessionId;
use crate::limits::{DATA_BYTES_SENT_MAX, HEADER_BYTES};

/// Bytes that a session may send in one turn: one full frame.
const QUANTUM: usize = DATA_BYTES_SENT_MAX + HEADER_BYTES;

/// The sessions that have something to send, in the order of their turns.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    ready: VecDeque<SessionId>,
}

/// What a session sends next.
pub(super) enum Next {
    Data(Chunk),
    /// The marker after which the direction goes on over its lane, with the bytes before it.
    Bulk(u64),
    End(End),
    /// Its turn is over, and more waits.
    Yield,
    /// Nothing is left to send.
    Idle,
}

impl Schedule {
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.ready.len()
    }

    /// Gives a session a turn, if it has none yet.
    pub(super) fn add(&mut self, id: SessionId, send: &mut SendHalf) {
        if !send.scheduled {
            send.scheduled = true;
            send.deficit = QUANTUM;
            self.ready.push_back(id);
        }
    }

    /// The session whose turn it is.
    pub(super) fn front(&self) -> Option<SessionId> {
        self.ready.front().copied()
    }

    /// The front's turn is over; it waits behind the others.
    pub(super) fn rotate(&mut self) {
        if let Some(id) = self.ready.pop_front() {
            self.ready.push_back(id);
        }
    }

    /// Keeps only the sessions that `live` names.
    pub(super) fn retain(&mut self, live: impl FnMut(&SessionId) -> bool) {
        self.ready.retain(live);
    }

    /// The front has nothing more to send, or is gone.
    pub(super) fn drop_front(&mut self) {
        self.ready.pop_front();
    }
}

/// Takes the next frame of a session whose turn it is.
pub(super) fn next(send: &mut SendHalf) -> Next {
    if let Some(chunk) = send.queue.front() {
        let cost = chunk.cost();
        if send.deficit < cost {
            // For its next turn; less than one frame is left of this one, so nothing piles up.
            send.deficit += QUANTUM;
            return Next::Yield;
        }
        send.deficit -= cost;
        return send.pop().map_or(Next::Idle, Next::Data);
    }
    if let Some(bytes) = send.take_marker() {
        return Next::Bulk(bytes);
    }
    match send.end {
        Some(end) if !send.ended => {
            send.ended = true;
            Next::End(end)
        }
        _ => {
            send.scheduled = false;
            Next::Idle
        }
    }
}
