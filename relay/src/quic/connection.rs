//! The handle of a QUIC connection, which links and callers have. Its task reads events and uses streams; the driver
//! sends what comes of that.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::crypto::rustls::HandshakeData;
use quinn_proto::{ConnectionError, ConnectionEvent, Event, PathStats, VarInt};
use rustls::pki_types::CertificateDer;
use tieline_transport::quic;
use tieline_wire::LinkEnd;

use super::unproved::Unproved;
use super::windows::Window;
use crate::io::Signal;
use crate::metrics::ShardMetrics;

/// A connection of this shard. After its last event, [`Event::ConnectionLost`], nothing is sent any more.
pub(crate) struct Connection {
    pub(super) proto: RefCell<quinn_proto::Connection>,
    /// Raised when the driver has something to do.
    pub(super) work: Signal,
    /// Raised when there may be events.
    pub(super) news: Signal,
    /// Whether a packet came since this was last asked.
    is_heard: Cell<bool>,
    /// Code with which the relay has closed the connection.
    own_code: Cell<Option<VarInt>>,
    /// Whether the relay has closed the connection, and its task has not been told: quinn-proto tells only of ends by
    /// the peer.
    is_closed_untold: Cell<bool>,
    /// Whether the relay has closed the connection, and the packet that tells the peer is not sent yet.
    is_close_due: Cell<bool>,
    /// What may go to addresses that the peer has not proved.
    pub(super) allowance: RefCell<Unproved>,
    /// Counts as a handshake of a client that has not proved its address.
    unproved: Cell<Option<Rc<()>>>,
    /// A caller's part of the shard's room, kept as long as the state that may fill it.
    pub(super) window: RefCell<Option<Window>>,
    pub(super) metrics: Arc<ShardMetrics>,
}

impl Connection {
    /// A connection that began with a datagram of `len` bytes, and a token that proved its address or not.
    pub(super) fn new(
        proto: quinn_proto::Connection,
        len: usize,
        has_proof: bool,
        now: Instant,
        metrics: Arc<ShardMetrics>,
    ) -> Self {
        // The first datagram is not in the statistics, those that waited behind it are.
        let came = len as u64 + proto.stats().udp_rx.bytes;
        let allowance = Unproved::new(proto.remote_address(), has_proof, came, now);
        Self {
            allowance: RefCell::new(allowance),
            unproved: Cell::default(),
            proto: RefCell::new(proto),
            work: Signal::default(),
            news: Signal::default(),
            is_heard: Cell::new(false),
            own_code: Cell::new(None),
            is_closed_untold: Cell::new(false),
            is_close_due: Cell::new(false),
            window: RefCell::default(),
            metrics,
        }
    }

    /// Keeps `unproved` until the connection's state is gone, or its handshake is over.
    pub(super) fn is_unproved(&self, unproved: Option<Rc<()>>) {
        self.unproved.set(unproved);
    }

    /// Takes a datagram of `len` bytes that came from `from`.
    pub(super) fn receive(
        &self,
        now: Instant,
        event: ConnectionEvent,
        from: SocketAddr,
        len: usize,
    ) {
        let mut proto = self.proto.borrow_mut();
        proto.handle_event(event);
        let mut allowance = self.allowance.borrow_mut();
        // The datagram may have changed the address.
        self.note_address(&mut allowance, &proto, now);
        allowance.received(from, len);
        drop(allowance);
        drop(proto);
        self.is_heard.set(true);
        // First, so that the connection's task reads before its driver acknowledges: what the peer is told has arrived has
        // been read.
        self.news.raise();
        self.work.raise();
    }

    /// Notes where the peer is, and counts a change.
    pub(super) fn note_address(
        &self,
        allowance: &mut Unproved,
        proto: &quinn_proto::Connection,
        now: Instant,
    ) {
        if allowance.is_at(proto.remote_address(), proto.is_handshaking(), now) {
            self.metrics.quic_moves.inc();
        }
    }

    /// Whether a packet came since the last call. A packet that only acknowledges causes no event.
    pub(crate) fn take_heard(&self) -> bool {
        self.is_heard.take()
    }

    /// Calls `act` with the connection's state and the time. What it writes is sent after the tasks that were woken
    /// before, so that the writes of one turn leave together.
    pub(crate) fn with<T>(
        &self,
        act: impl FnOnce(&mut quinn_proto::Connection, Instant) -> T,
    ) -> T {
        let outcome = act(&mut self.proto.borrow_mut(), Instant::now());
        self.work.raise();
        outcome
    }

    /// The next event. One task may wait for it: a second one takes the first one's place.
    pub(crate) fn poll_event(&self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            let event = self.proto.borrow_mut().poll();
            if let Some(event) = event {
                return Poll::Ready(event);
            }
            if self.is_closed_untold.take() {
                let reason = ConnectionError::LocallyClosed;
                return Poll::Ready(Event::ConnectionLost { reason });
            }
            ready!(self.news.poll_wait(cx));
        }
    }

    /// Waits for the next event.
    pub(crate) async fn event(&self) -> Event {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// Closes the connection; the peer is told `code` and `reason`. Data that was not sent is lost.
    pub(crate) fn close(&self, code: VarInt, reason: &[u8]) {
        self.with(|proto, now| self.close_at(now, proto, code, reason));
    }

    /// Like [`Connection::close`], for its driver, which has the state already.
    pub(super) fn close_at(
        &self,
        now: Instant,
        proto: &mut quinn_proto::Connection,
        code: VarInt,
        reason: &[u8],
    ) {
        let was_closed = proto.is_closed();
        proto.close(now, code, Bytes::copy_from_slice(reason));
        if !was_closed {
            self.own_code.set(Some(code));
            self.is_closed_untold.set(true);
            self.is_close_due.set(true);
            self.news.raise();
        }
    }

    /// Whether the relay has closed the connection, and the packet that tells the peer is not sent yet.
    pub(super) fn is_close_due(&self) -> bool {
        self.is_close_due.get()
    }

    /// Notes that the driver has sent all that the state had to send.
    pub(super) fn all_is_sent(&self) {
        self.is_close_due.set(false);
    }

    /// Closes the connection; the peer is told `reason`, as code and as word. Data that was not sent is lost.
    pub(crate) fn end(&self, reason: LinkEnd) {
        self.close(quic::close_code(reason), reason.word().as_bytes());
    }

    /// The reason for which the relay itself has closed the connection; `None` if it has not.
    pub(crate) fn own_end(&self) -> Option<LinkEnd> {
        self.own_code.get().map(quic::link_end)
    }

    /// What the connection has measured on its path.
    pub(crate) fn path(&self) -> PathStats {
        self.proto.borrow().stats().path
    }

    /// The peer's current address: it may change while the connection goes on.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.proto.borrow().remote_address()
    }

    /// The protocol that was agreed on (ALPN); `None` before the handshake is over.
    pub(crate) fn protocol(&self) -> Option<Vec<u8>> {
        let data = self.proto.borrow().crypto_session().handshake_data()?;
        data.downcast::<HandshakeData>().ok()?.protocol
    }

    /// Exporter of the handshake, for channel binding.
    pub(crate) fn exporter(&self) -> Option<[u8; 32]> {
        quic::exporter(&self.proto.borrow())
    }

    /// Whether the peer has shown a certificate of its own.
    pub(crate) fn has_peer_certificate(&self) -> bool {
        let identity = self.proto.borrow().crypto_session().peer_identity();
        let shown = identity.and_then(|it| it.downcast::<Vec<CertificateDer<'static>>>().ok());
        shown.is_some_and(|it| !it.is_empty())
    }
}
