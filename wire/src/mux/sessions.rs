//! The sessions of one link, and the state of each direction.

use std::collections::VecDeque;

use bytes::Bytes;

use super::budget::Budget;
use super::credit::{RecvCredit, SendCredit};
use super::lane::{RecvLane, Run, SendLane};
use crate::ids::{Moment, SessionId, SessionMap};
use crate::limits::{HEADER_BYTES, SESSION_CREDIT_BYTES, SESSION_QUEUE_BYTES_MAX};
use crate::reason::SessionEnd;

/// Slots that an empty queue of a session keeps; a burst of tiny frames needs thousands.
const QUEUE_SLOTS_KEPT: usize = 16;

/// How the sending direction of a session ends, once the queued bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Finish,
    Reset(SessionEnd),
}

/// Payload of one frame.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) payload: Bytes,
    pub(super) end_of_message: bool,
}

impl Chunk {
    /// Bytes of the frame, header included.
    pub(super) fn cost(&self) -> usize {
        self.payload.len() + HEADER_BYTES
    }
}

/// Queue of frames. The first is stored in the session itself, so that a session with at most one
/// waiting frame needs no other memory.
#[derive(Debug, Default)]
pub(super) struct Queue {
    first: Option<Chunk>,
    /// Frames behind the first; empty if there is no first.
    rest: VecDeque<Chunk>,
}

impl Queue {
    pub(super) const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) const fn front(&self) -> Option<&Chunk> {
        self.first.as_ref()
    }

    fn push(&mut self, chunk: Chunk) {
        if self.first.is_none() {
            self.first = Some(chunk);
        } else {
            self.rest.push_back(chunk);
        }
    }

    fn pop(&mut self) -> Option<Chunk> {
        let next = self.rest.pop_front();
        if self.rest.is_empty() {
            self.rest.shrink_to(QUEUE_SLOTS_KEPT);
        }
        std::mem::replace(&mut self.first, next)
    }
}

/// The direction from this side to the peer.
#[derive(Debug)]
pub(super) struct SendHalf {
    pub(super) credit: SendCredit,
    pub(super) queue: Queue,
    /// Bytes of the queued frames, headers included.
    pub(super) queued_bytes: usize,
    /// Payload may be sent: at an agent only once the session's target accepted the connection.
    pub(super) may_start: bool,
    /// Payload bytes queued since the session opened, and bytes that a lane took.
    pub(super) bytes_total: u64,
    pub(super) lane: SendLane,
    pub(super) run: Run,
    pub(super) end: Option<End>,
    /// The end was sent.
    pub(super) ended: bool,
    /// The driver asked for capacity and found none.
    pub(super) blocked: bool,
    /// The session is in the list of those that can be written again.
    pub(super) listed_writable: bool,
    /// The session is in the scheduler's queue.
    pub(super) scheduled: bool,
    /// The session is in the list of those with credit above the floor.
    pub(super) listed_grown: bool,
    /// Bytes that the session may still send in its turn.
    pub(super) deficit: usize,
}

impl SendHalf {
    /// Payload bytes that may be queued now.
    pub(super) fn capacity(&self, budget: &Budget) -> usize {
        self.credit.capacity(self.room(budget))
    }

    /// True if an empty frame that ends a message may be queued.
    pub(super) fn takes_empty(&self, budget: &Budget) -> bool {
        self.credit.covers(0) && self.room(budget) >= HEADER_BYTES
    }

    /// Bytes that may be added to the queue, headers included.
    fn room(&self, budget: &Budget) -> usize {
        if self.end.is_some() || self.lane != SendLane::Link || !self.may_start {
            return 0;
        }
        // The lower limit is above zero: a session without room has frames in its own queue, and sending
        // them makes room and wakes the session.
        let most = if budget.is_queue_full() {
            SESSION_CREDIT_BYTES as usize
        } else {
            SESSION_QUEUE_BYTES_MAX
        };
        most.saturating_sub(self.queued_bytes)
    }

    /// Queues a frame that [`SendHalf::capacity`] covers.
    pub(super) fn push(&mut self, chunk: Chunk, now: Moment) {
        let len = u32::try_from(chunk.payload.len()).unwrap_or(u32::MAX);
        let covered = self.credit.spend(len, now);
        debug_assert!(covered, "capacity never exceeds credit");
        self.bytes_total += u64::from(len);
        self.queued_bytes += chunk.cost();
        self.queue.push(chunk);
    }

    /// Takes the frame at the front of the queue.
    pub(super) fn pop(&mut self) -> Option<Chunk> {
        let chunk = self.queue.pop()?;
        self.queued_bytes -= chunk.cost();
        Some(chunk)
    }
}

/// The direction from the peer to this side.
#[derive(Debug)]
pub(super) struct RecvHalf {
    pub(super) credit: RecvCredit,
    /// Payload bytes that frame headers announced since the session opened.
    pub(super) bytes_total: u64,
    /// Set once the peer's direction is on a lane.
    pub(super) lane: Option<RecvLane>,
    pub(super) run: Run,
    /// The peer ended its direction.
    pub(super) ended: bool,
    /// The session is in the list of those that are due a grant.
    pub(super) listed_due: bool,
}

/// A live session.
#[derive(Debug)]
pub(super) struct Session {
    /// Relay: the agent reported that the target accepted the connection.
    pub(super) opened: bool,
    /// [`super::Mux::poll_bulky`] returned this session, or will.
    pub(super) bulky: bool,
    pub(super) send: SendHalf,
    pub(super) recv: RecvHalf,
}

impl Session {
    fn new(may_start: bool, header: u32, now: Moment) -> Self {
        Self {
            opened: false,
            bulky: false,
            send: SendHalf {
                credit: SendCredit::new(header, now),
                queue: Queue::default(),
                queued_bytes: 0,
                may_start,
                bytes_total: 0,
                lane: SendLane::Link,
                run: Run::default(),
                end: None,
                ended: false,
                blocked: false,
                listed_writable: false,
                scheduled: false,
                listed_grown: false,
                deficit: 0,
            },
            recv: RecvHalf {
                credit: RecvCredit::new(header, now),
                bytes_total: 0,
                lane: None,
                run: Run::default(),
                ended: false,
                listed_due: false,
            },
        }
    }

    /// True once this side aborted the session: bytes that the peer still sends are dropped.
    pub(super) fn is_resetting(&self) -> bool {
        matches!(self.send.end, Some(End::Reset(_)))
    }

    /// True once both directions are over.
    pub(super) fn is_over(&self) -> bool {
        self.send.ended && (self.recv.ended || self.is_resetting())
    }
}

/// The live sessions of a link, and the highest id used so far.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    // Boxed: up to half of a map's slots are empty, and all of them move when the map grows.
    live: SessionMap<Box<Session>>,
    highest: u32,
}

/// State of the session with an id.
pub(super) enum Lookup<'a> {
    Live(&'a mut Session),
    Ended,
    NeverOpened,
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    pub(super) const fn highest(&self) -> u32 {
        self.highest
    }

    /// Adds a session; its id must be above all earlier ids. `header`: credit that a piece costs beside its payload.
    pub(super) fn insert(&mut self, id: SessionId, may_start: bool, header: u32, now: Moment) {
        debug_assert!(id.0 > self.highest, "session ids rise");
        self.highest = id.0;
        let session = Session::new(may_start, header, now);
        self.live.insert(id, Box::new(session));
    }

    /// The live sessions, in arbitrary order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.live.iter().map(|(id, session)| (*id, &**session))
    }

    pub(super) fn live(&self, id: SessionId) -> Option<&Session> {
        self.live.get(&id).map(|session| &**session)
    }

    pub(super) fn live_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.live.get_mut(&id).map(|session| &mut **session)
    }

    pub(super) fn lookup(&mut self, id: SessionId) -> Lookup<'_> {
        match self.live.get_mut(&id) {
            Some(session) => Lookup::Live(session),
            None if id.0 <= self.highest => Lookup::Ended,
            None => Lookup::NeverOpened,
        }
    }

    /// Frees the slot of a session.
    pub(super) fn remove(&mut self, id: SessionId) -> Option<Box<Session>> {
        self.live.remove(&id)
    }
}
