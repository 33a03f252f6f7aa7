//! Payload that arrived for a session and waits for the frontend's stream.

use std::rc::Rc;
use std::sync::Arc;

use tieline_wire::{Backlog, Charge, SessionEnd, SharedBudget};

use super::sink::Sink;

/// How the target's direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InboxEnd {
    Finished,
    Reset(SessionEnd),
}

/// Payload that waits for the frontend's stream; bounded by the session's window.
#[derive(Default)]
pub(super) struct Inbox {
    /// A copy of what no stream took at once, so that a stalled session does not pin the link's receive buffer.
    pub(super) queue: Backlog,
    pub(super) end: Option<InboxEnd>,
    /// Whether the target's direction goes on over the lane once the queue is empty.
    pub(super) moved: bool,
    /// The stream that payload goes to directly.
    pub(super) sink: Option<Rc<dyn Sink>>,
    /// Bytes in the queue.
    len: usize,
    /// Budget charge for the bytes left of an ended session, which no window counts any more.
    left: Option<Box<Charge>>,
}

impl Inbox {
    /// Delivers payload; returns how many bytes the stream took at once.
    pub(super) fn deliver(&mut self, payload: &[u8]) -> usize {
        let taken = match &self.sink {
            // An error recurs at the holder's next write and ends the session there.
            Some(stream) if self.queue.is_empty() => stream.send(payload).unwrap_or(0),
            _ => 0,
        };
        self.queue.push(&payload[taken..]);
        self.len += payload.len() - taken;
        taken
    }

    /// Removes `count` bytes that the frontend's stream took.
    pub(super) fn advance(&mut self, count: usize) {
        self.queue.advance(count);
        self.len -= count;
        if self.len == 0 {
            self.left = None;
        }
    }

    /// Records the end of the target's direction. The first end counts, except that a reset may follow a finish.
    pub(super) fn finish(&mut self, end: InboxEnd, budget: &Arc<SharedBudget>) {
        if self.len > 0 && self.left.is_none() {
            self.left = Some(Box::new(budget.charge(self.len as u64)));
        }
        if !matches!(self.end, Some(InboxEnd::Reset(_))) {
            self.end = Some(end);
        }
    }

    /// Whether the target's direction is over and its last byte was taken.
    pub(super) fn is_drained_to_the_end(&self) -> bool {
        self.end.is_some() && self.queue.is_empty()
    }
}
