//! A stream for hyper: polled reads and writes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use tieline_transport::Received;

use super::stream::Stream;

/// A connection that can tell without a read whether it is broken.
pub(crate) trait Liveness {
    /// True once the peer has reset the connection, or the kernel has given it up.
    fn is_broken(&self) -> bool;
}

/// A stream that implements hyper's traits.
pub(crate) struct PollStream(Stream);

impl PollStream {
    pub(crate) const fn new(stream: Stream) -> Self {
        Self(stream)
    }

    /// The stream itself.
    pub(crate) const fn stream(&self) -> &Stream {
        &self.0
    }

    /// The stream itself, for a reader that does not poll through hyper's traits.
    pub(crate) fn into_inner(self) -> Stream {
        self.0
    }

    /// Reads into `buffer`; ready with the byte count, 0 at the peer's end.
    pub(crate) fn poll_read_some(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBufCursor<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_readable(cx));
            // SAFETY: the memory is only written to, never read or made uninitialised.
            let memory = unsafe { buffer.as_mut() };
            if memory.is_empty() {
                return Poll::Ready(Ok(0));
            }
            match self.0.recv_uninit(memory)? {
                Received::Bytes(count) => {
                    // SAFETY: `recv_uninit` initialised the first `count` bytes.
                    unsafe { buffer.advance(count) };
                    return Poll::Ready(Ok(count));
                }
                Received::End => return Poll::Ready(Ok(0)),
                Received::Nothing => {}
            }
        }
    }

    /// Makes the coming close a reset if `is_reset`, or else an orderly end.
    pub(crate) async fn end(&self, is_reset: bool) {
        if is_reset {
            self.0.abort();
        } else {
            self.0.finish().await;
        }
    }

    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        send: impl Fn(&Stream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_writable(cx));
            match send(&self.0)? {
                0 => {}
                count => return Poll::Ready(Ok(count)),
            }
        }
    }
}

impl Liveness for PollStream {
    fn is_broken(&self) -> bool {
        self.0.is_broken()
    }
}

impl Read for PollStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_read_some(cx, &mut buffer).map_ok(|_| ())
    }
}

impl Write for PollStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.poll_send(cx, |stream| stream.send(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_finish(cx).map(Ok)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if slices.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        self.poll_send(cx, |stream| stream.send_vectored(slices))
    }
}

/// Reads at most `max` bytes for hyper. `pass` gets the bytes first, may change them, and returns how many of them
/// hyper gets; the rest is dropped.
pub(crate) fn poll_read_through<R: Read + Unpin>(
    io: &mut R,
    cx: &mut Context<'_>,
    buffer: &mut ReadBufCursor<'_>,
    max: usize,
    pass: impl FnOnce(&mut [u8]) -> usize,
) -> Poll<io::Result<()>> {
    // SAFETY: the memory is only written to, never made uninitialised.
    let memory = unsafe { buffer.as_mut() };
    let room = memory.len().min(max);
    let memory = &mut memory[..room];
    let mut read = ReadBuf::uninit(memory);
    ready!(Pin::new(io).poll_read(cx, read.unfilled()))?;
    let count = read.filled().len();
    let filled = &mut memory[..count];
    // SAFETY: `read` filled these bytes, so they are initialised; `filled` borrows them exclusively, and the new
    // reference replaces it.
    let filled = unsafe { &mut *(std::ptr::from_mut(filled) as *mut [u8]) };
    let passed = pass(filled).min(count);
    // SAFETY: `passed` is at most `count`, and `count` bytes are initialised.
    unsafe { buffer.advance(passed) };
    Poll::Ready(Ok(()))
}
