//! Order in which sessions send: deficit round robin, so that a session with large frames gets no
//! more bytes than one with small frames.

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

/// Next step of a session whose turn it is.
pub(super) enum Next {
    Data(Chunk),
    /// The marker after which the direction continues on its lane; carries the payload bytes before it.
    Bulk(u64),
    End(End),
    /// The turn is over, and more frames wait.
    Yield,
    /// The session has nothing left to send.
    Idle,
}

impl Schedule {
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.ready.len()
    }

    /// Gives a session a turn, unless it has one already.
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

    /// Ends the turn of the front session, which then waits behind the others.
    pub(super) fn rotate(&mut self) {
        if let Some(id) = self.ready.pop_front() {
            self.ready.push_back(id);
        }
    }

    /// Keeps only the sessions for which `live` is true.
    pub(super) fn retain(&mut self, live: impl FnMut(&SessionId) -> bool) {
        self.ready.retain(live);
    }

    /// Removes the front session: it has nothing more to send, or has ended.
    pub(super) fn drop_front(&mut self) {
        self.ready.pop_front();
    }
}

/// Takes the next frame of the session whose turn it is.
pub(super) fn next(send: &mut SendHalf) -> Next {
    if let Some(chunk) = send.queue.front() {
        let cost = chunk.cost();
        if send.deficit < cost {
            // Added for the next turn; less than one frame is left of this turn, so the deficit stays small.
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
