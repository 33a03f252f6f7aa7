//! What callers make the relay hold of answers: bounded for a stream and a connection, and counted in the
//! shard's budget.
//!
//! hyper hands an answer to the connection piece by piece. A piece is counted until the last byte of it was
//! written to the caller, or its stream is over; a stream whose pieces stay where they are is given no more.
//! A connection of HTTP/1.1 is one stream, which is never refused.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use tieline_wire::{Charge, SharedBudget};

/// Bytes of all streams of one connection that may wait for its caller, besides one piece of each.
const CONNECTION_BYTES_MAX: usize = 512 * 1024;

/// Streams of one connection at a time that need no part of the shard's budget.
const STREAMS_FREE: usize = 8;

/// What a stream may hold besides the pieces of its answer: twice what a session starts with, and what
/// hyper has read of the target and written to it.
const STREAM_BYTES: u64 = 64 * 1024;

/// Most that one read of a target brings where a connection has several streams, any of which may stall: below
/// the 16 KiB at which hyper would double its buffer.
const READ_BYTES_SEVERAL_MAX: usize = 16 * 1024 - 1;

/// The same where the budget is used up: hyper's buffer stays as small as it begins.
const READ_BYTES_SHORT_MAX: usize = 8 * 1024 - 1;

/// What a piece takes besides its bytes, as its own memory and as a frame of h2.
const PIECE_BYTES: usize = 256;

/// Looks in a row at which nothing has moved that end a stream.
const LOOKS_MAX: u8 = 3;

/// What one connection holds.
#[derive(Debug)]
pub(super) struct Held {
    budget: Option<Arc<SharedBudget>>,
    has_several: bool,
    bytes: Cell<usize>,
    free: Cell<usize>,
    streams: RefCell<Vec<Weak<HeldStream>>>,
}

/// What one stream of a connection holds.
pub(super) struct HeldStream {
    connection: Rc<Held>,
    bytes: Cell<usize>,
    place: RefCell<Place>,
    /// Waits until one of its pieces is gone.
    waker: Cell<Option<Waker>>,
    has_moved: Cell<bool>,
    looks: Cell<u8>,
    /// Lets go of the answer's target.
    give_up: RefCell<Option<Box<dyn FnOnce()>>>,
}

/// What a stream was let in with.
#[derive(Debug, Default)]
enum Place {
    #[default]
    None,
    Free,
    Paid {
        _charge: Charge,
    },
}

impl Held {
    /// Of a connection, with one stream or `several`, whose shard has this budget, if it has one.
    pub(super) fn new(budget: Option<Arc<SharedBudget>>, several: bool) -> Self {
        Self {
            budget,
            has_several: several,
            bytes: Cell::new(0),
            free: Cell::new(STREAMS_FREE),
            streams: RefCell::default(),
        }
    }

    pub(super) fn stream(self: &Rc<Self>) -> Rc<HeldStream> {
        let stream = Rc::new(HeldStream {
            connection: Rc::clone(self),
            bytes: Cell::new(0),
            place: RefCell::default(),
            waker: Cell::default(),
            has_moved: Cell::new(false),
            looks: Cell::new(0),
            give_up: RefCell::default(),
        });
        let mut streams = self.streams.borrow_mut();
        streams.retain(|stream| stream.strong_count() > 0);
        streams.push(Rc::downgrade(&stream));
        stream
    }

    /// Most that one read of a target, or of the caller, may bring now.
    pub(super) fn read_bytes_max(&self) -> usize {
        match (self.has_room(STREAM_BYTES), self.has_several) {
            (false, _) => READ_BYTES_SHORT_MAX,
            (true, true) => READ_BYTES_SEVERAL_MAX,
            (true, false) => usize::MAX,
        }
    }

    fn has_room(&self, bytes: u64) -> bool {
        let left = |budget: &Arc<SharedBudget>| budget.limit().saturating_sub(budget.windows());
        self.budget.as_ref().is_none_or(|it| left(it) >= bytes)
    }

    fn charge(&self, bytes: u64) -> Option<Charge> {
        self.budget.as_ref().map(|budget| budget.charge(bytes))
    }

    /// Ends the streams of which the caller has taken nothing for so long; to be called three times within
    /// the time that a caller has.
    pub(super) fn end_stalled(&self) {
        let streams: Vec<_> = self
            .streams
            .borrow()
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        for stream in streams {
            stream.look();
        }
    }
}

impl HeldStream {
    /// Lets a request in whose head has so many bytes; false if the shard's budget is used up.
    pub(super) fn enter(&self, head_bytes: u64) -> bool {
        let connection = &self.connection;
        let is_free = connection.free.get() > 0 && head_bytes < STREAM_BYTES / 4;
        let place = if is_free {
            connection.free.set(connection.free.get() - 1);
            Place::Free
        } else if connection.has_room(STREAM_BYTES + head_bytes) {
            match connection.charge(STREAM_BYTES + head_bytes) {
                Some(charge) => Place::Paid { _charge: charge },
                None => Place::None,
            }
        } else {
            return false;
        };
        self.place.replace(place);
        true
    }

    /// Ready once another piece of the answer may be taken from its target.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let is_over = self.connection.bytes.get() >= CONNECTION_BYTES_MAX
            || !self.connection.has_room(STREAM_BYTES);
        if self.bytes.get() > 0 && is_over {
            self.waker.set(Some(cx.waker().clone()));
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// What to do with the answer's target once the stream is given up.
    pub(super) fn on_give_up(&self, give_up: impl FnOnce() + 'static) {
        self.give_up.replace(Some(Box::new(give_up)));
    }

    fn look(&self) {
        if self.bytes.get() == 0 || self.has_moved.take() {
            return self.looks.set(0);
        }
        self.looks.set(self.looks.get().saturating_add(1));
        if self.looks.get() >= LOOKS_MAX
            && let Some(give_up) = self.give_up.take()
        {
            give_up();
        }
    }
}

impl Drop for HeldStream {
    fn drop(&mut self) {
        if matches!(self.place.get_mut(), Place::Free) {
            self.connection.free.set(self.connection.free.get() + 1);
        }
    }
}

/// Bytes of an answer on their way to its caller.
pub(super) struct Piece {
    bytes: Bytes,
    _part: Option<Part>,
}

impl Piece {
    /// One that is counted for `stream`, where the connection has streams.
    pub(super) fn new(bytes: Bytes, stream: Option<&Rc<HeldStream>>) -> Self {
        let _part = stream.map(|stream| Part::new(bytes.len() + PIECE_BYTES, stream));
        Self { bytes, _part }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

/// What a piece counts for, until it is dropped.
struct Part {
    stream: Rc<HeldStream>,
    bytes: usize,
    _charge: Option<Charge>,
}

impl Part {
    fn new(bytes: usize, stream: &Rc<HeldStream>) -> Self {
        let connection = &stream.connection;
        if stream.bytes.get() == 0 {
            // The caller's time begins.
            stream.has_moved.set(true);
        }
        stream.bytes.set(stream.bytes.get() + bytes);
        connection.bytes.set(connection.bytes.get() + bytes);
        Self {
            stream: Rc::clone(stream),
            bytes,
            _charge: connection.charge(bytes as u64),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let Self { stream, bytes, .. } = self;
        let connection = &stream.connection;
        stream.bytes.set(stream.bytes.get() - *bytes);
        connection.bytes.set(connection.bytes.get() - *bytes);
        stream.has_moved.set(true);
        if let Some(waker) = stream.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(stream: &HeldStream) -> bool {
        stream
            .poll_room(&Context::from_waker(Waker::noop()))
            .is_ready()
    }

    fn piece(len: usize, stream: &Rc<HeldStream>) -> Piece {
        Piece::new(vec![7; len].into(), Some(stream))
    }

    #[test]
    fn a_connection_that_takes_nothing_gets_one_piece_for_each_stream_and_no_more() {
        let held = Rc::new(Held::new(None, true));
        let streams: Vec<_> = (0..128).map(|_| held.stream()).collect();
        let mut pieces = Vec::new();
        for _ in 0..1_000 {
            for stream in &streams {
                if room(stream) {
                    pieces.push(piece(16 * 1024, stream));
                }
            }
        }
        let most = CONNECTION_BYTES_MAX + 129 * (16 * 1024 + PIECE_BYTES);
        assert!(held.bytes.get() <= most, "{}", held.bytes.get());
        assert!(streams.iter().all(|stream| stream.bytes.get() > 0));
        drop(pieces);
        assert_eq!(held.bytes.get(), 0);
        assert!(streams.iter().all(|stream| room(stream)));
    }

    #[test]
    fn pieces_of_one_byte_count_for_what_they_take() {
        let held = Rc::new(Held::new(None, true));
        let stream = held.stream();
        let mut pieces = Vec::new();
        while room(&stream) {
            pieces.push(piece(1, &stream));
        }
        assert!(pieces.len() <= CONNECTION_BYTES_MAX / PIECE_BYTES);
    }

    #[test]
    fn pieces_and_streams_are_counted_in_the_budget_until_they_are_gone() {
        let budget = Arc::new(SharedBudget::new(1024 * 1024));
        let held = Rc::new(Held::new(Some(Arc::clone(&budget)), true));
        let streams: Vec<_> = (0..64).map(|_| held.stream()).collect();
        let entered = streams.iter().filter(|stream| stream.enter(100)).count() as u64;
        let paid = 1024 * 1024 / (STREAM_BYTES + 100);
        assert_eq!(entered, STREAMS_FREE as u64 + paid);
        assert_eq!(budget.windows(), paid * (STREAM_BYTES + 100));
        let first = piece(1_000, &streams[0]);
        assert_eq!(
            budget.windows(),
            paid * (STREAM_BYTES + 100) + 1_000 + PIECE_BYTES as u64
        );
        // With the budget used up a stream still gets one piece at a time.
        assert!(!room(&streams[0]) && room(&streams[1]));
        drop(first);
        assert!(room(&streams[0]));
        drop(streams);
        assert_eq!((budget.windows(), held.free.get()), (0, STREAMS_FREE));
    }

    #[test]
    fn a_stream_of_which_nothing_is_taken_is_given_up() {
        let held = Rc::new(Held::new(None, true));
        let (stalled, moving, idle) = (held.stream(), held.stream(), held.stream());
        let ended = Rc::new(Cell::new(0));
        for (number, stream) in [&stalled, &moving, &idle].into_iter().enumerate() {
            let ended = Rc::clone(&ended);
            stream.on_give_up(move || ended.set(ended.get() + 1 + 10 * number));
        }
        let _stays = piece(1, &stalled);
        let mut moves = piece(1, &moving);
        for _ in 0..=LOOKS_MAX {
            assert_eq!(ended.get(), 0);
            held.end_stalled();
            moves = piece(1, &moving);
        }
        assert_eq!(ended.get(), 1);
        drop(moves);
    }
}
