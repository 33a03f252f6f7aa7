//! Whether a descriptor is ready, as far as anybody has found out.
//!
//! A driver says once that a descriptor became ready. That holds until a call on it could not go on:
//! who makes the calls says so.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::driver::Ready;
use super::runtime::Runtime;

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
    /// Nothing makes it wait again.
    ended: Cell<bool>,
}

#[derive(Default)]
struct Half {
    ready: Cell<bool>,
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
    /// Watches a descriptor; `closes` if nobody else has it, and it is closed right behind this.
    ///
    /// # Safety
    /// The descriptor stays open for as long as this is there.
    pub(super) unsafe fn new(fd: BorrowedFd<'_>, closes: bool) -> io::Result<Self> {
        let runtime = Runtime::current();
        let (key, slot) = runtime.watch(fd)?;
        Ok(Self {
            runtime,
            slot,
            key,
            fd: fd.as_raw_fd(),
            closes: Cell::new(closes),
        })
    }

    /// Ready while nothing has shown that a call would wait. A task that is never made to wait gives
    /// others a turn now and then.
    pub(super) fn poll(&self, way: Way, cx: &mut Context<'_>) -> Poll<()> {
        let half = self.slot.half(way);
        if half.ready.get() {
            return self.runtime.poll_pass(cx);
        }
        let mut waiter = half.waiter.borrow_mut();
        match &mut *waiter {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// A call could not go on, or took less than it might have.
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
