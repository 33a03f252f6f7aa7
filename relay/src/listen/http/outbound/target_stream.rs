//! The session to a target as hyper's client reads and writes it, and what is known of its end.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use tieline_hop::Delivery;
use tieline_wire::SessionEnd;

use crate::io::poll_read_through;
use crate::listen::http::frontend::memory::ConnectionMemory;
use crate::session::SessionEnded;

/// The stream to a target, and how its session stands.
struct Shared<S> {
    stream: RefCell<Option<S>>,
    /// Why the session ended, if it gave a reason.
    reason: Cell<Option<SessionEnd>>,
    /// The session ended before its target received a byte.
    is_not_sent: Cell<bool>,
    /// Bytes written to the session in total, and when the current request began.
    written: Cell<u64>,
    began_at: Cell<u64>,
    /// Limits the size of one read: hyper grows its buffer only after a read has filled it.
    held: Rc<ConnectionMemory>,
}

/// The stream to a target, shared by hyper and the task that waits for the answer.
pub(super) struct TargetStream<S>(Rc<Shared<S>>);

impl<S> Clone for TargetStream<S> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<S> TargetStream<S> {
    pub(super) fn new(stream: S, held: &Rc<ConnectionMemory>) -> Self {
        Self(Rc::new(Shared {
            stream: RefCell::new(Some(stream)),
            reason: Cell::default(),
            is_not_sent: Cell::default(),
            written: Cell::default(),
            began_at: Cell::default(),
            held: Rc::clone(held),
        }))
    }

    /// Starts the next request.
    pub(super) fn begin(&self) {
        self.0.began_at.set(self.0.written.get());
    }

    /// Whether no byte of the request is among the first `bytes` of the session.
    pub(super) fn is_behind(&self, bytes: u64) -> bool {
        bytes <= self.0.began_at.get()
    }

    /// Notes why the session ended.
    pub(super) fn failed(&self, error: &io::Error) {
        if let Some(ended) = SessionEnded::of(error) {
            self.0.reason.set(Some(ended.reason));
            self.0.is_not_sent.set(ended.is_not_sent);
        }
    }

    /// Why the session ended, if the session gave a reason.
    pub(super) fn reason(&self) -> Option<SessionEnd> {
        self.0.reason.get()
    }

    /// Whether the target may have received the request.
    pub(super) fn delivery(&self) -> Delivery {
        match self.0.is_not_sent.get() {
            true => Delivery::NotSent,
            false => Delivery::Sent,
        }
    }

    /// Takes the stream away from hyper; drop hyper's connection afterwards.
    pub(super) fn take(&self) -> Option<S> {
        self.0.stream.take()
    }

    /// Runs `act` on the stream; pending forever once the stream was taken.
    fn with<T>(&self, act: impl FnOnce(&mut S) -> Poll<T>) -> Poll<T> {
        let mut stream = self.0.stream.borrow_mut();
        stream.as_mut().map_or(Poll::Pending, act)
    }

    /// Counts the bytes of a write to the session.
    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(count)) = polled {
            self.0.written.update(|written| written + *count as u64);
        }
    }
}

impl<S: Read + Unpin> Read for TargetStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let max = self.0.held.read_bytes_max();
        let all = |bytes: &mut [u8]| bytes.len();
        self.with(|stream| poll_read_through(stream, cx, &mut buf, max, all))
    }
}

impl<S: Write + Unpin> Write for TargetStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = self.with(|stream| Pin::new(stream).poll_write(cx, bytes));
        self.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.0
            .stream
            .borrow()
            .as_ref()
            .is_some_and(Write::is_write_vectored)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = self.with(|stream| Pin::new(stream).poll_write_vectored(cx, slices));
        self.wrote(&polled);
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| Pin::new(stream).poll_shutdown(cx))
    }
}
