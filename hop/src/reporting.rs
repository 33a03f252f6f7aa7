//! The stream between hyper's client and a connection to the next hop: reports reads and errors, and hides failed
//! writes from hyper, so that an answer that the next hop has sent already is still read. Fails the reads behind too many
//! informational responses, which hyper would go on with for ever.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};

use crate::informational::TOO_MANY_INFORMATIONAL;
use crate::track::Track;

/// A stream that reports its reads and failures, and hides failed writes: only a read ends it.
pub(crate) struct ReportingStream<S, N> {
    stream: S,
    track: Rc<Track>,
    failed: N,
    /// A write failed: the next hop takes no more bytes, but its answer may still be read.
    is_write_dead: bool,
}

impl<S, N: FnMut(&io::Error)> ReportingStream<S, N> {
    /// Reports to `track` every read that brought bytes or the end, and to `failed` every error.
    pub(crate) const fn new(stream: S, track: Rc<Track>, failed: N) -> Self {
        Self {
            stream,
            track,
            failed,
            is_write_dead: false,
        }
    }
}

impl<S: Read + Unpin, N: FnMut(&io::Error) + Unpin> Read for ReportingStream<S, N> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.track.informational.is_exceeded() {
            return Poll::Ready(Err(io::Error::other(TOO_MANY_INFORMATIONAL)));
        }
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        match &polled {
            Poll::Ready(Ok(())) => self.track.reads.update(|reads| reads + 1),
            Poll::Ready(Err(error)) => (self.failed)(error),
            Poll::Pending => {}
        }
        polled
    }
}

impl<S: Write + Unpin, N: FnMut(&io::Error) + Unpin> ReportingStream<S, N> {
    /// Hides a failed write from hyper, which would give up at once: a next hop that answers early
    /// and closes (say, 413) makes writes fail before its answer is read. A later read yields the
    /// answer, or the end of the connection.
    fn write<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.is_write_dead {
            return Poll::Pending;
        }
        let polled = write(Pin::new(&mut self.stream), cx);
        let Poll::Ready(Err(error)) = &polled else {
            return polled;
        };
        (self.failed)(error);
        self.is_write_dead = true;
        Poll::Pending
    }
}

impl<S: Write + Unpin, N: FnMut(&io::Error) + Unpin> Write for ReportingStream<S, N> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(cx, Write::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A next hop that informs without end gets no orderly end, so that dropping the stream resets it.
        if self.is_write_dead || self.track.informational.is_exceeded() {
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
        self.write(cx, |stream, cx| stream.poll_write_vectored(cx, slices))
    }
}
