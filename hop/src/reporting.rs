//! A connection to the next hop as hyper's client sees it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};

/// A stream that reports its reads and failures, and hides failed writes: only a read ends it.
pub struct ReportingStream<S, N> {
    stream: S,
    note: N,
    /// A write failed: the next hop takes no more bytes, but its answer may still be read.
    is_write_dead: bool,
}

impl<S, N: FnMut(Result<(), &io::Error>)> ReportingStream<S, N> {
    /// Reports to `note` every read that brought bytes or the end, and every error.
    pub const fn new(stream: S, note: N) -> Self {
        Self {
            stream,
            note,
            is_write_dead: false,
        }
    }
}

impl<S: Read + Unpin, N: FnMut(Result<(), &io::Error>) + Unpin> Read for ReportingStream<S, N> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(read) = &polled {
            (self.note)(read.as_ref().copied());
        }
        polled
    }
}

impl<S: Write + Unpin, N: FnMut(Result<(), &io::Error>) + Unpin> ReportingStream<S, N> {
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
        (self.note)(Err(error));
        self.is_write_dead = true;
        Poll::Pending
    }
}

impl<S: Write + Unpin, N: FnMut(Result<(), &io::Error>) + Unpin> Write for ReportingStream<S, N> {
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
        self.write(cx, |stream, cx| stream.poll_write_vectored(cx, slices))
    }
}
