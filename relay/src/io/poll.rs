//! A socket as hyper wants it: polled reads and writes.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};

use super::socket::{Received, Socket};

type Wait = Pin<Box<dyn Future<Output = io::Result<()>>>>;

/// A socket that remembers the readiness it waits for.
pub(crate) struct PollSocket {
    socket: Socket,
    read_wait: Option<Wait>,
    write_wait: Option<Wait>,
}

impl PollSocket {
    pub(crate) fn new(socket: Socket) -> Self {
        Self {
            socket,
            read_wait: None,
            write_wait: None,
        }
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.socket.stream();
        let wait = self
            .read_wait
            .get_or_insert_with(|| Box::pin(async move { stream.readable(false).await }));
        let outcome = ready!(wait.as_mut().poll(cx));
        self.read_wait = None;
        Poll::Ready(outcome)
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.socket.stream();
        let wait = self
            .write_wait
            .get_or_insert_with(|| Box::pin(async move { stream.writable(false).await }));
        let outcome = ready!(wait.as_mut().poll(cx));
        self.write_wait = None;
        Poll::Ready(outcome)
    }

    /// Reads into `buffer`; ready with the count, 0 at the peer's end.
    pub(crate) fn poll_read_some(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBufCursor<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.read_wait.is_some() {
                ready!(self.poll_readable(cx))?;
            }
            // SAFETY: the memory is only written to, never read or un-initialised.
            let memory = unsafe { buffer.as_mut() };
            if memory.is_empty() {
                return Poll::Ready(Ok(0));
            }
            match self.socket.recv_uninit(memory)? {
                Received::Bytes(count) => {
                    // SAFETY: `recv_uninit` initialised the first `count` bytes.
                    unsafe { buffer.advance(count) };
                    return Poll::Ready(Ok(count));
                }
                Received::End => return Poll::Ready(Ok(0)),
                Received::Nothing => ready!(self.poll_readable(cx))?,
            }
        }
    }

    /// Makes the coming close a reset.
    pub(crate) fn abort(&self) {
        self.socket.abort();
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        send: impl Fn(&Socket) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.write_wait.is_some() {
                ready!(self.poll_writable(cx))?;
            }
            match send(&self.socket)? {
                0 => ready!(self.poll_writable(cx))?,
                count => return Poll::Ready(Ok(count)),
            }
        }
    }
}

impl Read for PollSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_read_some(cx, &mut buffer).map_ok(|_| ())
    }
}

impl Write for PollSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.poll_send(cx, |socket| socket.send(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.finish();
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if slices.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        self.poll_send(cx, |socket| socket.send_vectored(slices))
    }
}
