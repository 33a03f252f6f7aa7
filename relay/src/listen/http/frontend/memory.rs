//! Memory that unread answers take: limited per stream and per connection, and counted in the shard's
//! budget.
//!
//! hyper hands an answer to the connection in pieces. A piece is counted until its last byte was written
//! to the caller, or until its stream ends; a stream whose pieces are not taken gets no further piece.
//! An HTTP/1.1 connection counts as one stream, which is never refused.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use tieline_wire::{Charge, SharedBudget};

/// Bytes of all streams of one connection that may wait for its caller, besides one piece per stream.
const CONNECTION_BYTES_MAX: usize = 512 * 1024;

/// Concurrent streams of one connection that are not charged to the shard's budget.
const STREAMS_FREE: usize = 8;

/// Memory of a stream besides the pieces of its answer: twice the initial window of a session, plus
/// hyper's read and write buffers for the target.
const STREAM_BYTES: u64 = 64 * 1024;

/// Read limit for targets of a connection with several streams, any of which may stall: just below the
/// 16 KiB at which hyper doubles its buffer.
const READ_BYTES_SEVERAL_MAX: usize = 16 * 1024 - 1;

/// Read limit while the shard's budget is used up: hyper's buffer keeps its initial size.
const READ_BYTES_SHORT_MAX: usize = 8 * 1024 - 1;

/// Overhead of a piece: its own memory and its frame in h2.
const PIECE_BYTES: usize = 256;

/// Consecutive checks without movement after which a stream is ended.
const LOOKS_MAX: u8 = 3;

/// Memory that one connection holds.
#[derive(Debug)]
pub(crate) struct ConnectionMemory {
    budget: Option<Arc<SharedBudget>>,
    has_several: bool,
    bytes: Cell<usize>,
    free: Cell<usize>,
    streams: RefCell<Vec<Weak<StreamMemory>>>,
}

/// Memory that one stream of a connection holds.
pub(crate) struct StreamMemory {
    connection: Rc<ConnectionMemory>,
    bytes: Cell<usize>,
    place: RefCell<Accounting>,
    /// Task that waits until one of the stream's pieces has been written.
    waker: Cell<Option<Waker>>,
    has_moved: Cell<bool>,
    looks: Cell<u8>,
    /// Drops the answer's connection to its target.
    give_up: RefCell<Option<Box<dyn FnOnce()>>>,
}

/// How a stream's memory is accounted for: not at all, within [`STREAMS_FREE`], or by the shard's budget.
#[derive(Debug, Default)]
enum Accounting {
    #[default]
    None,
    Free,
    Paid {
        _charge: Charge,
    },
}

impl ConnectionMemory {
    /// For a connection with one stream, or with `several`, and the budget of its shard, if it is limited.
    pub(crate) fn new(budget: Option<Arc<SharedBudget>>, several: bool) -> Self {
        Self {
            budget,
            has_several: several,
            bytes: Cell::new(0),
            free: Cell::new(STREAMS_FREE),
            streams: RefCell::default(),
        }
    }

    pub(crate) fn stream(self: &Rc<Self>) -> Rc<StreamMemory> {
        let stream = Rc::new(StreamMemory {
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

    /// Size limit of the next read from a target or from the caller.
    pub(crate) fn read_bytes_max(&self) -> usize {
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

    /// Ends each stream of which the caller has taken nothing for a stall timeout; to be called three times
    /// per stall timeout.
    pub(crate) fn end_stalled(&self) {
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

impl StreamMemory {
    /// Admits a request whose head has `head_bytes`; false if the shard's budget is used up.
    pub(crate) fn enter(&self, head_bytes: u64) -> bool {
        let connection = &self.connection;
        let is_free = connection.free.get() > 0 && head_bytes < STREAM_BYTES / 4;
        let place = if is_free {
            connection.free.set(connection.free.get() - 1);
            Accounting::Free
        } else if connection.has_room(STREAM_BYTES + head_bytes) {
            match connection.charge(STREAM_BYTES + head_bytes) {
                Some(charge) => Accounting::Paid { _charge: charge },
                None => Accounting::None,
            }
        } else {
            return false;
        };
        self.place.replace(place);
        true
    }

    /// Ready once there is memory for another piece of the answer.
    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let is_over = self.connection.bytes.get() >= CONNECTION_BYTES_MAX
            || !self.connection.has_room(STREAM_BYTES);
        if self.bytes.get() > 0 && is_over {
            self.waker.set(Some(cx.waker().clone()));
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Sets the action that drops the answer's target when the stream is given up as stalled.
    pub(crate) fn on_give_up(&self, give_up: impl FnOnce() + 'static) {
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

impl Drop for StreamMemory {
    fn drop(&mut self) {
        if matches!(self.place.get_mut(), Accounting::Free) {
            self.connection.free.set(self.connection.free.get() + 1);
        }
    }
}

/// Bytes of an answer on their way to the caller.
pub(crate) struct Piece {
    bytes: Bytes,
    _part: Option<Part>,
}

impl Piece {
    /// A piece that is counted for `stream`, if there is one.
    pub(crate) fn new(bytes: Bytes, stream: Option<&Rc<StreamMemory>>) -> Self {
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

/// A piece's share of the counters and of the budget, until the share is dropped.
struct Part {
    stream: Rc<StreamMemory>,
    bytes: usize,
    _charge: Option<Charge>,
}

impl Part {
    fn new(bytes: usize, stream: &Rc<StreamMemory>) -> Self {
        let connection = &stream.connection;
        if stream.bytes.get() == 0 {
            // First unwritten piece: the caller's stall timeout begins.
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

    fn room(stream: &StreamMemory) -> bool {
        stream
            .poll_room(&Context::from_waker(Waker::noop()))
            .is_ready()
    }

    fn piece(len: usize, stream: &Rc<StreamMemory>) -> Piece {
        Piece::new(vec![7; len].into(), Some(stream))
    }

    #[test]
    fn a_connection_that_takes_nothing_gets_one_piece_for_each_stream_and_no_more() {
        let held = Rc::new(ConnectionMemory::new(None, true));
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
        let held = Rc::new(ConnectionMemory::new(None, true));
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
        let held = Rc::new(ConnectionMemory::new(Some(Arc::clone(&budget)), true));
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
        // Even with the budget used up, a stream gets one piece at a time.
        assert!(!room(&streams[0]) && room(&streams[1]));
        drop(first);
        assert!(room(&streams[0]));
        drop(streams);
        assert_eq!((budget.windows(), held.free.get()), (0, STREAMS_FREE));
    }

    #[test]
    fn a_stream_of_which_nothing_is_taken_is_given_up() {
        let held = Rc::new(ConnectionMemory::new(None, true));
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
