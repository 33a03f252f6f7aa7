//! Whether a descriptor is ready, as far as anybody has found out.
//!
//! A driver says once that a descriptor became ready. That holds until a call on it could not go on:
//! who makes the calls says so.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::driver::{Ready, Ways};
use super::runtime::Runtime;

/// How often in a turn a wait is over at once, because what it waits for is there. Each way counts
/// for itself: who reads without end must not keep the same task from writing.
const PASSES_A_TURN: u8 = 4;

/// One way of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
}

/// What is known of one descriptor.
#[derive(Default)]
pub(super) struct Slot {
    input: Half,
    output: Half,
    /// Reads never wait again.
    ended: Cell<bool>,
    /// The peer has sent urgent data, in front of which a read stops although more is there.
    in_pieces: Cell<bool>,
}

#[derive(Default)]
struct Half {
    ready: Cell<bool>,
    /// Passes in a turn, and which one.
    passes: Cell<u8>,
    turn: Cell<u32>,
    waiter: RefCell<Option<Waker>>,
}

impl Half {
    fn rise(&self) {
        self.ready.set(true);
        let waiter = self.waiter.borrow_mut().take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Whether a wait may be over at once, in this turn.
    fn passes(&self, turn: u32) -> bool {
        if self.turn.replace(turn) != turn {
            self.passes.set(0);
        }
        let passes = self.passes.get();
        self.passes.set(passes.saturating_add(1));
        passes < PASSES_A_TURN
    }
}

impl Slot {
    const fn half(&self, way: Way) -> &Half {
        match way {
            Way::In => &self.input,
            Way::Out => &self.output,
        }
    }

    pub(super) fn rise(&self, ready: Ready) {
        if ready.ended {
            self.ended.set(true);
        }
        if ready.urgent {
            self.in_pieces.set(true);
        }
        if ready.readable {
            self.input.rise();
        }
        if ready.writable {
            self.output.rise();
        }
    }

    /// Lets go of whoever waits.
    pub(super) fn abandon(&self) -> [Option<Waker>; 2] {
        [&self.input, &self.output].map(|half| half.waiter.borrow_mut().take())
    }
}

/// A descriptor that this thread's driver watches. For one waiter each way.
pub(super) struct Readiness {
    runtime: Rc<Runtime>,
    slot: Rc<Slot>,
    key: u64,
    fd: RawFd,
    /// The descriptor is closed together with this.
    closes: Cell<bool>,
}

impl Readiness {
    /// Watches a descriptor, one way or both; `closes` if nobody else has it, and it is closed right
    /// behind this.
    ///
    /// # Safety
    /// The descriptor stays open for as long as this is there.
    pub(super) unsafe fn new(fd: BorrowedFd<'_>, ways: Ways, closes: bool) -> io::Result<Self> {
        let runtime = Runtime::current();
        let (key, slot) = runtime.watch(fd, ways)?;
        Ok(Self {
            runtime,
            slot,
            key,
            fd: fd.as_raw_fd(),
            closes: Cell::new(closes),
        })
    }

    /// Ready while nothing has shown that a call would wait. Who is never made to wait gives others a
    /// turn now and then.
    pub(super) fn poll(&self, way: Way, cx: &mut Context<'_>) -> Poll<()> {
        let half = self.slot.half(way);
        if half.ready.get() {
            if half.passes(self.runtime.turn_number()) {
                return Poll::Ready(());
            }
            self.runtime.wake_next_turn(cx);
            return Poll::Pending;
        }
        let mut waiter = half.waiter.borrow_mut();
        match &mut *waiter {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// A read of a stream brought less than it had room for.
    pub(super) fn spend_by_short_read(&self) {
        if !self.slot.in_pieces.get() {
            self.spend(Way::In);
        }
    }

    /// A call could not go on.
    pub(super) fn spend(&self, way: Way) {
        if way == Way::Out || !self.slot.ended.get() {
            self.slot.half(way).ready.set(false);
        }
    }

    /// The descriptor goes on elsewhere.
    pub(super) fn stays_open(&self) {
        self.closes.set(false);
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        // SAFETY: the promise that `new` asks for.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        self.runtime.forget(fd, self.key, self.closes.get());
    }
}
