//! Whether a descriptor is ready, as far as anybody has found out.
//!
//! A driver says once that a descriptor became ready. That holds until a call on it could not go on:
//! who makes the calls says so.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::driver::{Ready, Urgent, Ways};
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
    /// Whether the peer has sent urgent data, in front of which a read stops although more is there.
    urgent: Cell<Urgent>,
    /// Reads are tried once more in a while.
    is_looked_at: Cell<bool>,
}

struct Half {
    /// Also as long as nobody has found out.
    ready: Cell<bool>,
    /// Passes in a turn, and which one.
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
        self.urgent.set(self.urgent.get().max(ready.urgent));
        if ready.readable {
            self.input.rise();
        }
        if ready.writable {
            self.output.rise();
        }
    }

    /// A read is tried, whether or not something came.
    pub(super) fn look_again(&self) {
        self.is_looked_at.set(false);
        self.input.rise();
    }

    /// Lets go of whoever waits.
    pub(super) fn abandon(&self) -> [Option<Waker>; 2] {
        [&self.input, &self.output].map(|half| half.waiter.borrow_mut().take())
    }
}

/// A descriptor that this thread's driver watches, from the first wait on. For one waiter each way.
pub(super) struct Readiness {
    runtime: Rc<Runtime>,
    slot: Rc<Slot>,
    /// What the driver knows it by, once it is watched.
    key: Cell<Option<u64>>,
    fd: RawFd,
    ways: Ways,
    /// The descriptor is closed together with this.
    closes: Cell<bool>,
}

impl Readiness {
    /// For a descriptor of which one way or both matter; `closes` if nobody else has it, and it is
    /// closed right behind this.
    ///
    /// # Safety
    /// The descriptor stays open for as long as this is there.
    pub(super) unsafe fn new(fd: BorrowedFd<'_>, ways: Ways, closes: bool) -> Self {
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
            // SAFETY: the promise that `new` asks for.
            let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
            let key = self.runtime.watch(fd, self.ways, Rc::clone(&self.slot));
            self.key.set(Some(key));
        }
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
        drop(waiter);
        self.watch();
        Poll::Pending
    }

    /// A read of a stream brought less than it had room for.
    pub(super) fn spend_by_short_read(&self) {
        let urgent = self.slot.urgent.get();
        if urgent == Urgent::Yes {
            return;
        }
        self.spend(Way::In);
        if urgent == Urgent::Perhaps
            && let Some(key) = self.key.get()
            && !self.slot.is_looked_at.replace(true)
        {
            self.runtime.look_again(key);
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
        if let Some(key) = self.key.get() {
            // SAFETY: the promise that `new` asks for.
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
                    // A read stops in front of it although there is more.
                    while heard.len() < b"before!after".len() {
                        socket.readable().await;
                        socket.recv(&mut heard, 1000).unwrap();
                    }
                };
                let read = timeout(Duration::from_secs(20), reading).await;
                read.expect("no edge for what was there already");
                assert_eq!(&heard[..], b"before!after");
            })
            .unwrap();
        }
    }

    /// Polls once whether a read may bring something.
    async fn is_readable(socket: &Socket) -> bool {
        poll_fn(|cx| Poll::Ready(socket.poll_readable(cx).is_ready())).await
    }

    #[test]
    fn a_descriptor_is_not_watched_before_somebody_waits_for_it() {
        for driver in drivers() {
            run(driver, async {
                let (fd, other) = pair().unwrap();
                // SAFETY: it is dropped in front of the descriptor.
                let readiness = unsafe { Readiness::new(fd.as_fd(), Ways::Both, true) };
                let is_ready = async || {
                    poll_fn(|cx| Poll::Ready(readiness.poll(Way::In, cx).is_ready())).await
                };
                assert!(is_ready().await && readiness.key.get().is_none());
                readiness.spend(Way::In);
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

    /// A ring does not know of urgent data for sure: it tries once more when all is quiet.
    #[test]
    fn a_read_that_stopped_short_without_the_ring_knowing_is_tried_again() {
        let (Chosen::Uring, _) = choose(None).unwrap() else {
            return;
        };
        run(Chosen::Uring, async {
            // A read of these stops behind each message.
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
            again.expect("what lies behind is never read");
            ours.recv(&mut heard, 1000).unwrap();
            assert_eq!(&heard[..], b"ab");
        })
        .unwrap();
    }
}
