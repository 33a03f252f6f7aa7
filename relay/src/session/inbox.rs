//! What arrived for a session and waits for its last socket.

use std::rc::Rc;
use std::sync::Arc;

use tieline_wire::{Backlog, Charge, Reason, SharedBudget};

use crate::io::Socket;

/// How the target's direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InboxEnd {
    Finished,
    Reset(Reason),
}

/// Bounded by the session's window: the peer cannot send more than it has credit for.
#[derive(Default)]
pub(super) struct Inbox {
    /// A copy of what no socket took at once, so that a stalled session never pins the link's
    /// receive buffer.
    pub(super) queue: Backlog,
    pub(super) end: Option<InboxEnd>,
    /// The target's direction goes on over the lane, behind the queue.
    pub(super) moved: bool,
    /// Where payload may go directly.
    pub(super) sink: Option<Rc<Socket>>,
    /// Bytes of the queue.
    len: usize,
    /// What is left of an ended session, which has no window any more to count it in.
    left: Option<Box<Charge>>,
}

impl Inbox {
    /// Takes payload in; returns how much of it the last socket took at once.
    pub(super) fn deliver(&mut self, payload: &[u8]) -> usize {
        let taken = match &self.sink {
            // An error shows again at the holder's next write, and ends the session there.
            Some(socket) if self.queue.is_empty() => socket.send(payload).unwrap_or(0),
            _ => 0,
        };
        self.queue.push(&payload[taken..]);
        self.len += payload.len() - taken;
        taken
    }

    /// A socket took `count` bytes of the queue.
    pub(super) fn advance(&mut self, count: usize) {
        self.queue.advance(count);
        self.len -= count;
        if self.len == 0 {
            self.left = None;
        }
    }

    /// The first end counts, but a reset may follow a finish.
    pub(super) fn finish(&mut self, end: InboxEnd, budget: &Arc<SharedBudget>) {
        if self.len > 0 && self.left.is_none() {
            self.left = Some(Box::new(budget.charge(self.len as u64)));
        }
        if !matches!(self.end, Some(InboxEnd::Reset(_))) {
            self.end = Some(end);
        }
    }

    /// True once the target's direction is over and its last byte was taken.
    pub(super) fn is_drained_to_the_end(&self) -> bool {
        self.end.is_some() && self.queue.is_empty()
    }
}
