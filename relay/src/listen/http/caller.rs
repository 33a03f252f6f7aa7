//! The caller's side of a frontend connection: what hyper reads and writes through, and whether the
//! caller is still there.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use tieline_hop::Scanner;

use super::state::State;
use crate::io::poll_read_through;

/// Bytes read ahead of hyper to learn whether a caller that has pipelined more requests, or waits
/// for `100 Continue`, is still there.
const AHEAD_BYTES_MAX: usize = 4096;

/// What a client of HTTP/2 says first (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug)]
struct Inner<IO> {
    io: IO,
    ahead: Vec<u8>,
    /// Sees each byte when it goes to hyper; none over HTTP/2.
    scanner: Option<Scanner>,
}

/// The caller's connection, held by hyper and by the driver of the connection.
#[derive(Debug)]
pub(super) struct Caller<IO> {
    inner: Rc<RefCell<Inner<IO>>>,
    state: Rc<State>,
}

impl<IO> Clone for Caller<IO> {
    fn clone(&self) -> Self {
        Self {
            inner: Rc::clone(&self.inner),
            state: Rc::clone(&self.state),
        }
    }
}

impl<IO: Read + Write + Unpin> Caller<IO> {
    pub(super) fn new(io: IO, state: Rc<State>) -> Self {
        Self {
            inner: Rc::new(RefCell::new(Inner {
                io,
                ahead: Vec::new(),
                scanner: Some(Scanner::new()),
            })),
            state,
        }
    }

    /// The connection itself, once hyper has let go of it.
    pub(super) fn into_inner(self) -> IO {
        let inner = Rc::into_inner(self.inner).expect("hyper's half is dropped before");
        inner.into_inner().io
    }

    /// True if the caller begins as HTTP/2 does; ready as soon as that is decided.
    pub(super) fn poll_http2(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let decided = || {
            let ahead = &self.inner.borrow().ahead;
            let is_whole = ahead.starts_with(HTTP2_PREFACE);
            (is_whole || !HTTP2_PREFACE.starts_with(ahead)).then_some(is_whole)
        };
        loop {
            if let Some(is_http2) = decided() {
                if is_http2 {
                    self.inner.borrow_mut().scanner = None;
                }
                return Poll::Ready(is_http2);
            }
            if !ready!(self.poll_ahead(cx)) {
                return Poll::Ready(false);
            }
        }
    }

    /// Reads ahead of hyper; false at the caller's end.
    fn poll_ahead(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let inner = &mut *self.inner.borrow_mut();
        let mut bytes = [0; 1024];
        let mut buf = ReadBuf::new(&mut bytes);
        let polled = ready!(Pin::new(&mut inner.io).poll_read(cx, buf.unfilled()));
        inner.ahead.extend_from_slice(buf.filled());
        Poll::Ready(polled.is_ok() && !buf.filled().is_empty())
    }

    /// To be called before hyper gets a turn.
    pub(super) fn begin_turn(&self) {
        self.state.begin_turn();
    }

    /// True if the caller has closed the connection where hyper does not look.
    ///
    /// hyper itself reads while it waits for an answer, but not past bytes that it cannot use
    /// yet. Those of a body that the target is slow to take are left to backpressure.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> bool {
        if !self.state.is_unwatched() {
            return false;
        }
        while self.inner.borrow().ahead.len() < AHEAD_BYTES_MAX {
            match self.poll_ahead(cx) {
                Poll::Pending => return false,
                Poll::Ready(true) => {}
                Poll::Ready(false) => return true,
            }
        }
        false
    }
}

impl<IO: Read + Unpin> Read for Caller<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Inner { io, ahead, scanner } = &mut *self.inner.borrow_mut();
        let is_refused = |scanner: &mut Scanner| scanner.read_instead(&mut buf);
        if scanner.as_mut().is_some_and(is_refused) {
            return Poll::Ready(Ok(()));
        }
        let mut pass = |bytes: &mut [u8]| match scanner {
            Some(scanner) => scanner.pass(bytes),
            None => bytes.len(),
        };
        if ahead.is_empty() {
            let polled = poll_read_through(io, cx, &mut buf, pass);
            self.state.read_polled(polled.is_pending());
            ready!(polled)?;
        } else {
            let taken = ahead.len().min(buf.remaining());
            let passed = pass(&mut ahead[..taken]);
            buf.put_slice(&ahead[..passed]);
            ahead.drain(..taken);
            if ahead.is_empty() {
                *ahead = Vec::new();
            }
        }
        self.state.received();
        Poll::Ready(Ok(()))
    }
}

impl<IO: Write + Unpin> Caller<IO> {
    fn wrote(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.state.write_polled(polled.is_pending());
        polled
    }
}

impl<IO: Write + Unpin> Write for Caller<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner.borrow_mut().io).poll_write(cx, bytes);
        self.wrote(polled)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner.borrow_mut().io).poll_flush(cx))?;
        // hyper flushes only after it has written all that it had.
        self.state.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner.borrow_mut().io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.borrow().io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner.borrow_mut().io).poll_write_vectored(cx, slices);
        self.wrote(polled)
    }
}
