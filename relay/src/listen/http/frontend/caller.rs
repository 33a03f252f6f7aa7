//! The caller's side of a frontend connection: the I/O that hyper reads from and writes to, and the
//! detection of a disconnected caller.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use tieline_hop::Intake;

use super::resets::Resets;
use super::state::State;
use super::unread::{self, Last};
use crate::io::poll_read_through;
use crate::listen::http::gateway::settings::HTTP_BUFFER_BYTES_MAX;

/// Limit of bytes read ahead of hyper to detect the disconnect of a caller that pipelines requests or
/// waits for `100 Continue`.
const AHEAD_BYTES_MAX: usize = 4096;

/// Connection preface of an HTTP/2 client (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug)]
struct Inner<IO> {
    io: IO,
    intake: Intake,
    is_http2: bool,
    resets: Resets,
    /// hyper's own answer to a head that it refused, or bytes that look like one; not written yet.
    held: Vec<u8>,
}

/// A caller's connection, shared by hyper and the task that drives the connection.
pub(crate) struct Caller<IO> {
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
    pub(crate) fn new(io: IO, state: Rc<State>) -> Self {
        Self {
            inner: Rc::new(RefCell::new(Inner {
                io,
                intake: Intake::new(),
                is_http2: false,
                resets: Resets::default(),
                held: Vec::new(),
            })),
            state,
        }
    }

    /// The connection itself, once hyper has dropped its clone, and the answer bytes held back from the caller.
    pub(crate) fn into_inner(self) -> (IO, Last) {
        let inner = Rc::into_inner(self.inner).expect("hyper's half is dropped before");
        let Inner {
            io, held, intake, ..
        } = inner.into_inner();
        let is_url_long = intake.target_bytes() > HTTP_BUFFER_BYTES_MAX / 2;
        let rule = intake.broken_rule();
        let last = Last {
            held,
            is_url_long,
            rule,
        };
        (io, last)
    }

    /// Writes the held-back bytes: the connection goes on, so they are not hyper's refusal of a head.
    pub(crate) fn release(&self, cx: &mut Context<'_>) {
        // hyper's next write returns the same failure.
        let _ = self.inner.borrow_mut().poll_release(cx);
    }

    /// Resolves as soon as the first bytes tell whether the caller speaks HTTP/2.
    pub(crate) fn poll_http2(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let decided = || {
            let inner = self.inner.borrow();
            let ahead = inner.intake.ahead();
            let is_whole = ahead.starts_with(HTTP2_PREFACE);
            (is_whole || !HTTP2_PREFACE.starts_with(ahead)).then_some(is_whole)
        };
        loop {
            if let Some(is_http2) = decided() {
                if is_http2 {
                    let inner = &mut *self.inner.borrow_mut();
                    inner.is_http2 = true;
                    inner.intake.is_framed();
                }
                return Poll::Ready(is_http2);
            }
            if !ready!(self.poll_ahead(cx)) {
                return Poll::Ready(false);
            }
        }
    }

    /// Reads ahead of hyper; false at the end of the caller's bytes.
    fn poll_ahead(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let inner = &mut *self.inner.borrow_mut();
        let mut bytes = [0; 1024];
        let mut buf = ReadBuf::new(&mut bytes);
        let polled = ready!(Pin::new(&mut inner.io).poll_read(cx, buf.unfilled()));
        inner.intake.keep(buf.filled());
        Poll::Ready(polled.is_ok() && !buf.filled().is_empty())
    }

    /// Resets the state of one turn; call it before hyper is polled.
    pub(crate) fn begin_turn(&self) {
        self.state.begin_turn();
    }

    /// True if the caller has closed the connection while hyper does not read.
    ///
    /// hyper reads while it waits for an answer, but not past bytes that it cannot use yet. Body bytes
    /// that the target is slow to take stay in the kernel, for backpressure.
    pub(crate) fn poll_gone(&self, cx: &mut Context<'_>) -> bool {
        if !self.state.is_unwatched() {
            return false;
        }
        while self.inner.borrow().intake.ahead().len() < AHEAD_BYTES_MAX {
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
        let Inner { io, intake, .. } = &mut *self.inner.borrow_mut();
        if !intake.read(buf.remaining(), |bytes| buf.put_slice(bytes)) {
            let polled =
                poll_read_through(io, cx, &mut buf, self.state.read_bytes_max(), |bytes| {
                    intake.pass(bytes)
                });
            self.state.read_polled(polled.is_pending());
            ready!(polled)?;
            // Bytes that the scanner rewrote to be longer than the caller's original.
            intake.read(buf.remaining(), |bytes| buf.put_slice(bytes));
        }
        self.state.received();
        Poll::Ready(Ok(()))
    }
}

impl<IO: Write + Unpin> Inner<IO> {
    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.held))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.drain(..count);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes hyper's bytes to the caller, but holds back an answer that hyper may have made by itself.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_release(cx))?;
        let start = match self.is_http2 {
            true => None,
            false => unread::begins_at(bytes),
        };
        if start == Some(0) {
            self.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        let count = start.unwrap_or(bytes.len());
        Pin::new(&mut self.io).poll_write(cx, &bytes[..count])
    }

    fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let filled = |slice: &IoSlice<'_>| !slice.is_empty();
        let Some(last) = slices.iter().rposition(filled) else {
            return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        };
        if self.is_http2 || unread::begins_at(&slices[last]).is_none() {
            ready!(self.poll_release(cx))?;
            return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        }
        // Writes all slices before the last, which may have to be held back.
        let first = slices.iter().position(filled).unwrap_or(last);
        if first == last {
            return self.poll_write(cx, &slices[last]);
        }
        ready!(self.poll_release(cx))?;
        Pin::new(&mut self.io).poll_write_vectored(cx, &slices[first..last])
    }
}

impl<IO: Write + Unpin> Caller<IO> {
    /// Records the outcome of a write; over HTTP/2 it counts the streams reset in the written bytes.
    fn wrote<'a>(
        &self,
        slices: impl IntoIterator<Item = &'a [u8]>,
        polled: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        self.state.write_polled(polled.is_pending());
        let inner = &mut *self.inner.borrow_mut();
        if let Poll::Ready(Ok(count)) = polled
            && inner.is_http2
        {
            let mut left = count;
            for slice in slices {
                let written = &slice[..left.min(slice.len())];
                left -= written.len();
                self.state.refused(inner.resets.pass(written));
            }
        }
        polled
    }
}

impl<IO: Write + Unpin> Write for Caller<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = self.inner.borrow_mut().poll_write(cx, bytes);
        self.wrote([bytes], polled)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner.borrow_mut().io).poll_flush(cx))?;
        // hyper flushes only after it has written all of its buffered bytes.
        self.state.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.inner.borrow_mut();
        if !inner.held.is_empty() {
            // `serve` writes the held-back bytes, and then shuts the connection down.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.borrow().io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = self.inner.borrow_mut().poll_write_vectored(cx, slices);
        self.wrote(slices.iter().map(|slice| &**slice), polled)
    }
}
