//! Sends the datagrams of all connections of an endpoint through its socket, and wakes those that found it full.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Waker};

use quinn_proto::{EcnCodepoint, Transmit};

use crate::io::{Outgoing, PacketSocket, Signal};

/// Most bytes per send: for the kernel the datagrams are one IP packet at first, whose length has 16 bits (udp(7),
/// `UDP_SEGMENT`).
const SEND_BYTES_MAX: usize = 65_000;

/// Most datagrams per send: with 1452 bytes each 46 KB, more than a connection may send at once (pacing).
const DATAGRAMS_MAX: usize = 32;

/// The socket through which an endpoint sends.
pub(super) struct Sender {
    pub(super) socket: Rc<PacketSocket>,
    /// Memory in which datagrams are written.
    pub(super) space: RefCell<Vec<u8>>,
    /// Tasks that wait for room.
    blocked: RefCell<Vec<Waker>>,
    is_blocked: Signal,
}

impl Sender {
    pub(super) fn new(socket: Rc<PacketSocket>) -> Self {
        Self {
            socket,
            space: RefCell::default(),
            blocked: RefCell::default(),
            is_blocked: Signal::default(),
        }
    }

    /// Most datagrams of `mtu` bytes per send.
    pub(super) fn datagrams_max(&self, mtu: u16) -> usize {
        let fit = SEND_BYTES_MAX / usize::from(mtu).max(1);
        self.socket
            .segments_max()
            .min(DATAGRAMS_MAX)
            .min(fit)
            .max(1)
    }

    /// Sends the datagrams that `transmit` describes, which `bytes` begins with; false if the socket has no room.
    pub(super) fn send(&self, transmit: &Transmit, bytes: &[u8]) -> bool {
        self.socket.send(&Outgoing {
            destination: transmit.destination,
            source: transmit.src_ip,
            ecn: transmit.ecn.map(bits),
            bytes: &bytes[..transmit.size.min(bytes.len())],
            stride: transmit.segment_size,
        })
    }

    /// Wakes the task once the socket has room again.
    pub(super) fn wait(&self, cx: &Context<'_>) {
        let mut blocked = self.blocked.borrow_mut();
        if !blocked.iter().any(|it| it.will_wake(cx.waker())) {
            blocked.push(cx.waker().clone());
        }
        drop(blocked);
        self.is_blocked.raise();
    }

    /// Wakes the tasks that wait, if the socket has room. One task must call this when it is woken.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) {
        while self.is_blocked.poll_wait(cx).is_ready() {}
        if !self.blocked.borrow().is_empty() && self.socket.poll_writable(cx).is_ready() {
            for waker in self.blocked.take() {
                waker.wake();
            }
        }
    }
}

/// The bits of the IP header (RFC 3168, section 5).
const fn bits(ecn: EcnCodepoint) -> u8 {
    ecn as u8
}
