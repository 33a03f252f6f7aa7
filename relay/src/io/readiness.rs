//! Tracks whether a descriptor is ready.
//!
//! A driver reports once that a descriptor became ready. That holds until a call on the descriptor would have
//! blocked, which the caller must report.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::driver::{Interest, Ready, Urgent};
use super::runtime::Runtime;

/// Polls of a ready direction that return at once, per turn. A further poll in the same turn waits for the next turn,
/// so that a task that always has something to read leaves time to other tasks. Reading and writing are counted
/// separately, so that such a task can still write.
const PASSES_A_TURN: u8 = 4;

/// One direction of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    In,
    Out,
}

/// Readiness of one descriptor.
#[derive(Default)]
pub(super) struct Slot {
    input: Half,
    output: Half,
    /// The peer ended its direction, or the descriptor failed: reads never wait again.
    ended: Cell<bool>,
    /// Whether the peer has sent urgent data: a read stops before it, although more bytes are there.
    urgent: Cell<Urgent>,
    /// A second read is scheduled.
    is_looked_at: Cell<bool>,
}

struct Half {
    /// True at first, until a call would have blocked.
    ready: Cell<bool>,
    /// Polls in turn number `turn` that found this direction ready.
    passes: Cell<u8>,
    turn: Cell<u32>,
    waiter: RefCell<Option<Waker>>,
}

impl Default for Half {
    fn default() -> Self {
        Self {
            ready: Cell::new(true),
            passes: Cell::default(),
            turn: Cell::default(),
            waiter: RefCell::default(),
        }
    }
}

impl Half {
    fn rise(&self) {
        self.ready.set(true);
        let waiter = self.waiter.borrow_mut().take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Counts a poll that found this direction ready; true if the poll may return at once, false if it must wait for
    /// the next turn.
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
    const fn half(&self, way: Direction) -> &Half {
        match way {
            Direction::In => &self.input,
            Direction::Out => &self.output,
        }
    }

    pub(super) fn rise(&self, ready: Ready) {
        if ready.ended {
            self.ended.set(true);
        }
        self.urgent.set(self.urgent.get().max(ready.urgent));
        if ready.readable {
            self.input.rise();
        }
        if ready.writable {
            self.output.rise();
        }
    }

    /// Wakes the reader even if no bytes have arrived.
    pub(super) fn look_again(&self) {
        self.is_looked_at.set(false);
        self.input.rise();
    }

    /// Removes the wakers of both waiters.
    pub(super) fn abandon(&self) -> [Option<Waker>; 2] {
        [&self.input, &self.output].map(|half| half.waiter.borrow_mut().take())
    }
}

/// A descriptor's readiness. The driver watches it from the first wait on. At most one waiter per direction.
pub(super) struct Readiness {
    runtime: Rc<Runtime>,
    slot: Rc<Slot>,
    /// The driver's key, once the descriptor is watched.
    key: Cell<Option<u64>>,
    fd: RawFd,
    ways: Interest,
    /// The descriptor is closed right after this is dropped.
    closes: Cell<bool>,
}

impl Readiness {
    /// For a descriptor with one or both directions; `closes` if this is the only reference to the descriptor,
    /// and it is closed right after this is dropped.
    ///
    /// # Safety
    /// The descriptor must stay open as long as the `Readiness` exists.
    pub(super) unsafe fn new(fd: BorrowedFd<'_>, ways: Interest, closes: bool) -> Self {
        Self {
            runtime: Runtime::current(),
            slot: Rc::default(),
            key: Cell::new(None),
            fd: fd.as_raw_fd(),
            ways,
            closes: Cell::new(closes),
        }
    }

    fn watch(&self) {
        if self.key.get().is_none() {
            // SAFETY: the caller of `new` promised that the descriptor stays open.
            let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
            let key = self.runtime.watch(fd, self.ways, Rc::clone(&self.slot));
            self.key.set(Some(key));
        }
    }

    /// Ready until a call on the descriptor would have blocked. After [`PASSES_A_TURN`] such results in one turn,
    /// pending until the next turn.
    pub(super) fn poll(&self, way: Direction, cx: &mut Context<'_>) -> Poll<()> {
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
        drop(waiter);
        self.watch();
        Poll::Pending
    }

    /// Notes that a read of a stream returned less than it had room for.
    pub(super) fn spend_by_short_read(&self) {
        let urgent = self.slot.urgent.get();
        if urgent == Urgent::Yes {
            return;
        }
        self.spend(Direction::In);
        if urgent == Urgent::Perhaps
            && let Some(key) = self.key.get()
            && !self.slot.is_looked_at.replace(true)
        {
            self.runtime.look_again(key);
        }
    }

    /// Notes that a call would have blocked.
    pub(super) fn spend(&self, way: Direction) {
        if way == Direction::Out || !self.slot.ended.get() {
            self.slot.half(way).ready.set(false);
        }
    }

    /// Notes that the descriptor stays open after this is dropped.
    pub(super) fn stays_open(&self) {
        self.closes.set(false);
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        if let Some(key) = self.key.get() {
            // SAFETY: the caller of `new` promised that the descriptor stays open.
            let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
            self.runtime.forget(fd, key, self.closes.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;
    use crate::io::socket::with_urgent_byte;
    use crate::io::{Chosen, Received, Socket, choose, pair, run, timeout, turn};

    fn drivers() -> [Chosen; 2] {
        let (best, _) = choose(None).unwrap();
        [best, Chosen::Epoll]
    }

    #[test]
    fn what_lies_behind_urgent_data_is_read() {
        for driver in drivers() {
            run(driver, async {
                let (socket, _caller) = with_urgent_byte();
                let mut heard = bytes::BytesMut::new();
                let reading = async {
                    // A read stops before the urgent byte, although more bytes are there.
                    while heard.len() < b"before!after".len() {
                        socket.readable().await;
                        socket.recv(&mut heard, 1000).unwrap();
                    }
                };
                let read = timeout(Duration::from_secs(20), reading).await;
                read.expect("bytes behind the urgent byte were not reported as readable");
                assert_eq!(&heard[..], b"before!after");
            })
            .unwrap();
        }
    }

    /// Polls once whether a read may return something.
    async fn is_readable(socket: &Socket) -> bool {
        poll_fn(|cx| Poll::Ready(socket.poll_readable(cx).is_ready())).await
    }

    #[test]
    fn a_descriptor_is_not_watched_before_somebody_waits_for_it() {
        for driver in drivers() {
            run(driver, async {
                let (fd, other) = pair().unwrap();
                // SAFETY: `readiness` is dropped before the descriptor.
                let readiness = unsafe { Readiness::new(fd.as_fd(), Interest::Both, true) };
                let is_ready = async || {
                    poll_fn(|cx| Poll::Ready(readiness.poll(Direction::In, cx).is_ready())).await
                };
                assert!(is_ready().await && readiness.key.get().is_none());
                readiness.spend(Direction::In);
                assert!(!is_ready().await && readiness.key.get().is_some());
                drop((readiness, other));
            })
            .unwrap();
        }
    }

    #[test]
    fn a_message_costs_one_read() {
        for driver in drivers() {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            run(driver, async {
                let socket = Socket::new(accepted.into());
                let mut heard = bytes::BytesMut::new();
                for message in 1..=10 {
                    caller.write_all(b"x").unwrap();
                    while heard.len() < message {
                        socket.readable().await;
                        socket.recv(&mut heard, 1000).unwrap();
                    }
                    assert!(!is_readable(&socket).await, "of {driver:?}");
                }
            })
            .unwrap();
        }
    }

    /// io_uring cannot tell for sure whether there is urgent data, so the runtime reads again after a while.
    #[test]
    fn a_read_that_stopped_short_without_the_ring_knowing_is_tried_again() {
        let (Chosen::Uring, _) = choose(None).unwrap() else {
            return;
        };
        run(Chosen::Uring, async {
            // A read of a SEQPACKET socket stops after each message.
            let (ours, theirs) = rustix::net::socketpair(
                rustix::net::AddressFamily::UNIX,
                rustix::net::SocketType::SEQPACKET,
                rustix::net::SocketFlags::CLOEXEC,
                None,
            )
            .unwrap();
            let (ours, theirs) = (Socket::new(ours), Socket::new(theirs));
            let mut heard = bytes::BytesMut::new();
            assert_eq!(ours.recv(&mut heard, 1000).unwrap(), Received::Nothing);
            for message in [b"a", b"b"] {
                assert!(!is_readable(&ours).await);
                turn().await;
                theirs.send(message).unwrap();
            }
            turn().await;
            ours.recv(&mut heard, 1000).unwrap();
            assert_eq!(&heard[..], b"a");
            assert!(!is_readable(&ours).await);
            let again = timeout(Duration::from_secs(20), ours.readable()).await;
            again.expect("the second message was never read");
            ours.recv(&mut heard, 1000).unwrap();
            assert_eq!(&heard[..], b"ab");
        })
        .unwrap();
    }
}
