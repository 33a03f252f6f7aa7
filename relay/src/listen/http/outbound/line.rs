//! The session to a target as hyper's client reads and writes it, and what is known of its current request.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use tieline_hop::Delivery;
use tieline_wire::SessionEnd;

use crate::io::poll_read_through;
use crate::listen::http::frontend::held::Held;
use crate::session::SessionEnded;

/// State of one connection and of its current request.
#[derive(Debug, Default)]
pub(crate) struct Track {
    /// Number of reads since the request began that returned bytes or the end.
    reads: Cell<u64>,
    reason: Cell<Option<SessionEnd>>,
    /// The session ended before its target received a byte.
    is_not_sent: Cell<bool>,
    request_done: Cell<bool>,
    request_failed: Cell<bool>,
    /// Bytes written to the session in total, and when the current request began.
    written: Cell<u64>,
    began_at: Cell<u64>,
}

impl Track {
    /// Starts the next request.
    pub(crate) fn begin(&self, has_body: bool) {
        self.reads.set(0);
        self.request_done.set(!has_body);
        self.request_failed.set(false);
        self.began_at.set(self.written.get());
    }

    /// Whether no byte of the request is among the first `bytes` of the session.
    pub(super) fn is_behind(&self, bytes: u64) -> bool {
        bytes <= self.began_at.get()
    }

    /// Counts the bytes of a write to the session.
    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(count)) = polled {
            self.written.set(self.written.get() + *count as u64);
        }
    }

    pub(crate) fn note(&self, noted: Result<(), &io::Error>) {
        match noted {
            Ok(()) => self.reads.set(self.reads.get() + 1),
            Err(error) => {
                if let Some(ended) = SessionEnded::of(error) {
                    self.reason.set(Some(ended.reason));
                    self.is_not_sent.set(ended.is_not_sent);
                }
            }
        }
    }

    pub(crate) fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// Why the session ended, if the session gave a reason.
    pub(crate) fn reason(&self) -> Option<SessionEnd> {
        self.reason.get()
    }

    /// Whether the target may have received the request.
    pub(crate) fn delivery(&self) -> Delivery {
        match self.is_not_sent.get() {
            true => Delivery::NotSent,
            false => Delivery::Sent,
        }
    }

    /// Records that the request's body was read to its end.
    pub(crate) fn request_done(&self) {
        self.request_done.set(true);
    }

    pub(super) fn is_request_done(&self) -> bool {
        self.request_done.get()
    }

    /// Records that the request's body is malformed or incomplete.
    pub(crate) fn request_failed(&self) {
        self.request_failed.set(true);
    }

    pub(super) fn is_request_failed(&self) -> bool {
        self.request_failed.get()
    }
}

/// The stream to a target, shared by hyper and the task that waits for the answer.
pub(super) struct Line<S> {
    stream: Rc<RefCell<Option<S>>>,
    track: Rc<Track>,
    /// Limits the size of one read: hyper grows its buffer only after a read has filled it.
    held: Rc<Held>,
}

impl<S> Clone for Line<S> {
    fn clone(&self) -> Self {
        Self {
            stream: Rc::clone(&self.stream),
            track: Rc::clone(&self.track),
            held: Rc::clone(&self.held),
        }
    }
}

impl<S> Line<S> {
    pub(crate) fn new(stream: S, track: &Rc<Track>, held: &Rc<Held>) -> Self {
        Self {
            stream: Rc::new(RefCell::new(Some(stream))),
            track: Rc::clone(track),
            held: Rc::clone(held),
        }
    }

    /// Takes the stream away from hyper; drop hyper's connection afterwards.
    pub(crate) fn take(&self) -> Option<S> {
        self.stream.take()
    }

    /// Runs `act` on the stream; pending forever once the stream was taken.
    fn with<T>(&self, act: impl FnOnce(&mut S) -> Poll<T>) -> Poll<T> {
        self.stream.borrow_mut().as_mut().map_or(Poll::Pending, act)
    }
}

impl<S: Read + Unpin> Read for Line<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let max = self.held.read_bytes_max();
        let all = |bytes: &mut [u8]| bytes.len();
        self.with(|stream| poll_read_through(stream, cx, &mut buf, max, all))
    }
}

impl<S: Write + Unpin> Write for Line<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = self.with(|stream| Pin::new(stream).poll_write(cx, bytes));
        self.track.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream
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
        self.track.wrote(&polled);
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| Pin::new(stream).poll_shutdown(cx))
    }
}
