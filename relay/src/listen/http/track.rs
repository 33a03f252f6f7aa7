//! A session as hyper's client sees it, and what is noted of the request on it.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use tieline_wire::Reason;

use super::SessionEnded;

/// What is known about one connection and the request on it.
#[derive(Debug, Default)]
pub(super) struct Track {
    /// Reads that brought bytes or the end, since the request began.
    pub(super) reads: Cell<u64>,
    pub(super) reason: Cell<Option<Reason>>,
    pub(super) request_done: Cell<bool>,
    pub(super) request_failed: Cell<bool>,
}

impl Track {
    pub(super) fn set_request_done(&self, done: bool) {
        self.request_done.set(done);
    }

    pub(super) fn set_request_failed(&self) {
        self.request_failed.set(true);
    }

    fn ended(&self, error: &io::Error) {
        self.reason
            .set(SessionEnded::reason(error).or(self.reason.get()));
    }
}

/// A session as hyper's client sees it.
pub(super) struct TargetStream<S> {
    stream: S,
    track: Rc<Track>,
    /// The target takes no more; what it has answered is still to be read.
    is_write_dead: bool,
}

impl<S> TargetStream<S> {
    /// Notes in `track` how `stream` fares.
    pub(super) fn new(stream: S, track: Rc<Track>) -> Self {
        Self {
            stream,
            track,
            is_write_dead: false,
        }
    }
}

impl<S: Read + Unpin> Read for TargetStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.track.reads.set(self.track.reads.get() + 1),
            Poll::Ready(Err(error)) => self.track.ended(error),
        }
        polled
    }
}

impl<S: Write + Unpin> TargetStream<S> {
    /// Keeps a failed write from hyper, which would give up at once: a target that answers
    /// early and closes (say, 413) makes our writes fail before its answer is read. Reading
    /// brings the answer, or the end of the connection.
    fn wrote<T>(&mut self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match polled {
            Poll::Ready(Err(error)) => {
                self.track.ended(&error);
                self.is_write_dead = true;
                Poll::Pending
            }
            other => other,
        }
    }
}

impl<S: Write + Unpin> Write for TargetStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_write_dead {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_write_dead {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.wrote(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_write_dead {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_write_dead {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(polled)
    }
}
