//! The sessions of one link: what each direction still has to do.

use std::collections::VecDeque;

use bytes::Bytes;

use super::budget::Budget;
use super::credit::{RecvCredit, SendCredit};
use super::lane::{RecvLane, Run, SendLane};
use crate::error::Reason;
use crate::ids::{Moment, SessionId, SessionMap};
use crate::limits::{HEADER_BYTES, SESSION_CREDIT_BYTES, SESSION_QUEUE_BYTES_MAX};

/// Slots of an empty queue that a session keeps; a burst of tiny frames needs thousands.
const QUEUE_SLOTS_KEPT: usize = 16;

/// How our direction of a session ends, once what is queued is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Finish,
    Reset(Reason),
}

/// One frame's worth of payload.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) payload: Bytes,
    pub(super) end_of_message: bool,
}

impl Chunk {
    /// Bytes of the whole frame.
    pub(super) fn cost(&self) -> usize {
        self.payload.len() + HEADER_BYTES
    }
}

/// Frames that wait. The first lies in the session itself, so that one which sends and waits in turns
/// needs no other memory.
#[derive(Debug, Default)]
pub(super) struct Queue {
    first: Option<Chunk>,
    /// Behind the first; without one it is empty.
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

/// The direction from us to the peer.
#[derive(Debug)]
pub(super) struct SendHalf {
    pub(super) credit: SendCredit,
    pub(super) queue: Queue,
    /// Bytes of the queued frames, headers included.
    pub(super) queued_bytes: usize,
    /// Payload may be sent: an agent's only once its target connection stands.
    pub(super) may_start: bool,
    /// Payload bytes queued since the start, and those that a lane took.
    pub(super) bytes_total: u64,
    pub(super) lane: SendLane,
    pub(super) run: Run,
    pub(super) end: Option<End>,
    /// The end was sent.
    pub(super) ended: bool,
    /// Somebody asked for capacity and found none.
    pub(super) blocked: bool,
    /// In the list of sessions that can be written again.
    pub(super) listed_writable: bool,
    /// In the scheduler's queue.
    pub(super) scheduled: bool,
    /// In the list of sessions with credit above the floor.
    pub(super) listed_grown: bool,
    /// Bytes left of its turn.
    pub(super) deficit: usize,
}

impl SendHalf {
    /// Payload bytes that may be queued now.
    pub(super) fn capacity(&self, budget: &Budget) -> usize {
        self.credit.capacity(self.room(budget))
    }

    /// True if an empty end of a message may be queued.
    pub(super) fn takes_empty(&self, budget: &Budget) -> bool {
        self.credit.covers(0) && self.room(budget) >= HEADER_BYTES
    }

    /// Bytes that may join the queue, headers included.
    fn room(&self, budget: &Budget) -> usize {
        if self.end.is_some() || self.lane != SendLane::Link || !self.may_start {
            return 0;
        }
        // The lower bound leaves every session room once its own queue is sent, so that whoever
        // waits for room is woken by a frame of its own.
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
        debug_assert!(covered, "capacity is what can be spent");
        self.bytes_total += u64::from(len);
        self.queued_bytes += chunk.cost();
        self.queue.push(chunk);
    }

    /// Takes the front of the queue.
    pub(super) fn pop(&mut self) -> Option<Chunk> {
        let chunk = self.queue.pop()?;
        self.queued_bytes -= chunk.cost();
        Some(chunk)
    }
}

/// The direction from the peer to us.
#[derive(Debug)]
pub(super) struct RecvHalf {
    pub(super) credit: RecvCredit,
    /// Payload bytes announced by headers since the start.
    pub(super) bytes_total: u64,
    /// Set once the peer's direction is on a lane.
    pub(super) lane: Option<RecvLane>,
    pub(super) run: Run,
    /// The peer finished.
    pub(super) ended: bool,
    /// In the list of sessions that are due a grant.
    pub(super) listed_due: bool,
}

/// A live session.
#[derive(Debug)]
pub(super) struct Session {
    /// Relay: the agent said that its target connection stands.
    pub(super) opened: bool,
    /// Was named by [`super::Mux::poll_bulky`], or is about to be.
    pub(super) bulky: bool,
    pub(super) send: SendHalf,
    pub(super) recv: RecvHalf,
}

impl Session {
    fn new(may_start: bool, now: Moment) -> Self {
        Self {
            opened: false,
            bulky: false,
            send: SendHalf {
                credit: SendCredit::new(now),
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
                credit: RecvCredit::new(now),
                bytes_total: 0,
                lane: None,
                run: Run::default(),
                ended: false,
                listed_due: false,
            },
        }
    }

    /// True once we gave up on the session: what the peer still sends is dropped.
    pub(super) fn is_resetting(&self) -> bool {
        matches!(self.send.end, Some(End::Reset(_)))
    }

    /// True once both directions are over.
    pub(super) fn is_over(&self) -> bool {
        self.send.ended && (self.recv.ended || self.is_resetting())
    }
}

/// Every live session of a link, and which ids were ever used.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    // Boxed: up to half of a map's places are empty, and moved when it grows.
    live: SessionMap<Box<Session>>,
    highest: u32,
}

/// What an id stands for.
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

    /// Adds a session; its id must be above every earlier one.
    pub(super) fn insert(&mut self, id: SessionId, may_start: bool, now: Moment) {
        debug_assert!(id.0 > self.highest, "session ids rise");
        self.highest = id.0;
        self.live.insert(id, Box::new(Session::new(may_start, now)));
    }

    /// The live sessions, in no order.
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
