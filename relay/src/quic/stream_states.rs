//! What a caller's connection and its streams share.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use quinn_proto::{Dir, StreamId, VarInt};
use tieline_transport::quic::{SEND_WINDOW_BYTES, STRANGER_WINDOW_BYTES};

use super::connection::Connection;
use super::windows::{Window, Windows};
use crate::io::Signal;

/// The streams of one caller's connection that are in use.
pub(super) struct StreamStates {
    pub(super) connection: Rc<Connection>,
    states: RefCell<HashMap<StreamId, Rc<StreamState>>>,
    /// Sessions at the moment.
    sessions: Cell<u32>,
    windows: Rc<Windows>,
}

impl StreamStates {
    /// Lets the caller have up to `streams_max` streams at a time, and windows for their sessions out of `windows`.
    pub(super) fn new(
        connection: Rc<Connection>,
        streams_max: u32,
        windows: Rc<Windows>,
    ) -> Rc<Self> {
        connection.with(|proto, _| {
            proto.set_max_concurrent_streams(Dir::Bi, VarInt::from_u32(streams_max));
            // The receive window is as small already.
            proto.set_send_window(STRANGER_WINDOW_BYTES.into());
        });
        Rc::new(Self {
            connection,
            states: RefCell::default(),
            sessions: Cell::new(0),
            windows,
        })
    }

    /// The state of a new stream.
    pub(super) fn begin(&self, id: StreamId) -> Rc<StreamState> {
        let state = Rc::<StreamState>::default();
        self.states.borrow_mut().insert(id, Rc::clone(&state));
        state
    }

    /// The state of a stream; `None` for one that is not in use.
    pub(super) fn find(&self, id: StreamId) -> Option<Rc<StreamState>> {
        self.states.borrow().get(&id).cloned()
    }

    /// Forgets a stream that is no longer used.
    pub(super) fn forget(&self, id: StreamId) {
        self.states.borrow_mut().remove(&id);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.states.borrow().is_empty()
    }

    /// The connection is lost, and all streams with it.
    pub(super) fn fail(&self) {
        for state in self.states.borrow().values() {
            state.fail();
        }
    }

    /// A stream's session begins. The caller's window grows to as many bytes as all its sessions may hold unread, if the
    /// shard has room, so that streams whose targets read nothing never hold up the others.
    pub(super) fn session_begins(&self) {
        let sessions = self.sessions.get() + 1;
        self.sessions.set(sessions);
        let mut window = self.connection.window.borrow_mut();
        let window = window.get_or_insert_with(|| Window::new(Rc::clone(&self.windows)));
        if !window.grow(sessions) {
            self.connection.metrics.quic_windows_short.inc();
        }
        let bytes = window.bytes();
        self.connection.with(|proto, _| {
            proto.set_receive_window(VarInt::from_u32(bytes));
            proto.set_send_window(SEND_WINDOW_BYTES.min(bytes.into()));
        });
    }

    /// A stream's session is over.
    pub(super) fn session_ends(&self) {
        self.sessions.set(self.sessions.get() - 1);
    }
}

/// What a connection's task and a stream's holder share.
#[derive(Default)]
pub(super) struct StreamState {
    /// Raised when the stream may have something to read, or to write.
    is_readable: Signal,
    is_writable: Signal,
    /// Whether a read, or a write, found nothing to do since it was last reported.
    is_empty: Cell<bool>,
    is_full: Cell<bool>,
    /// Whether the caller has acknowledged everything, the end of the direction towards it included.
    is_delivered: Cell<bool>,
    /// Whether the caller reset the stream, wants no more of it, or is gone.
    is_broken: Cell<bool>,
}

impl StreamState {
    /// Bytes, an end or a reset arrived.
    pub(super) fn readable(&self) {
        self.is_empty.set(false);
        self.is_readable.raise();
    }

    /// A read found nothing.
    pub(super) fn found_empty(&self) {
        self.is_empty.set(true);
    }

    /// Ready unless the last read found nothing.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        while self.is_empty.get() {
            ready!(self.is_readable.poll_wait(cx));
        }
        Poll::Ready(())
    }

    /// QUIC takes bytes again.
    pub(super) fn writable(&self) {
        self.is_full.set(false);
        self.is_writable.raise();
    }

    /// QUIC took nothing.
    pub(super) fn found_full(&self) {
        self.is_full.set(true);
    }

    /// Whether the last write found no room.
    pub(super) fn is_full(&self) -> bool {
        self.is_full.get()
    }

    /// Ready unless the last write found no room.
    pub(super) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        while self.is_full.get() {
            ready!(self.is_writable.poll_wait(cx));
        }
        Poll::Ready(())
    }

    /// The caller has acknowledged everything, the end included.
    pub(super) fn delivered(&self) {
        self.is_delivered.set(true);
        self.is_writable.raise();
    }

    /// Ready once the caller has acknowledged everything, or the stream is of no use any more.
    pub(super) fn poll_delivered(&self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.is_delivered.get() && !self.is_broken() {
            ready!(self.is_writable.poll_wait(cx));
        }
        Poll::Ready(())
    }

    /// The stream is of no use any more; both directions report it.
    pub(super) fn fail(&self) {
        self.is_broken.set(true);
        self.readable();
        self.writable();
    }

    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.get()
    }
}
