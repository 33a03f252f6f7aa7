//! The caller's side of a frontend connection: what hyper's server reads from and writes to.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use tieline_hop::{CallerSocket, Intake};

use super::refused_head::{self, HeldAnswer};
use super::resets::Resets;
use super::state::FrontendState;
use crate::io::{Liveness, poll_read_through};

/// Connection preface of an HTTP/2 client (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A caller's connection, shared by hyper and the task that drives it.
pub(crate) type CallerIo<IO> = tieline_hop::Caller<Outlet<IO>, FrontendState>;

/// A caller's socket, which holds an answer back that hyper may have made by itself, and over HTTP/2 counts the streams
/// that hyper resets.
pub(crate) struct Outlet<IO> {
    io: IO,
    state: Rc<FrontendState>,
    is_http2: bool,
    resets: Resets,
    /// hyper's own answer to a head that it refused, or bytes that look like one; not written yet.
    held: Vec<u8>,
}

impl<IO: Read + Write + Unpin + 'static> Outlet<IO> {
    /// A caller's connection of which nothing was read yet.
    pub(crate) fn caller(io: IO, state: &Rc<FrontendState>) -> CallerIo<IO> {
        let outlet = Self {
            io,
            state: Rc::clone(state),
            is_http2: false,
            resets: Resets::default(),
            held: Vec::new(),
        };
        CallerIo::new(outlet, Rc::clone(state))
    }

    /// The connection itself, once hyper has dropped its clone; the answer bytes held back from the caller; and the
    /// caller's bytes that hyper has not read.
    pub(crate) fn into_inner(caller: CallerIo<IO>) -> (IO, HeldAnswer, Bytes) {
        let inner = caller.into_inner();
        let (outlet, intake) = inner.expect("hyper's half is dropped before");
        let held = HeldAnswer {
            bytes: outlet.held,
            request_line: intake.request_line(outlet.state.requests.get()),
            rule: intake.broken_rule(),
        };
        (outlet.io, held, intake.into_ahead())
    }

    /// Resolves as soon as the first bytes tell whether the caller speaks HTTP/2.
    pub(crate) fn poll_http2(caller: &CallerIo<IO>, cx: &mut Context<'_>) -> Poll<bool> {
        let is_http2 = ready!(caller.poll_preface(cx, HTTP2_PREFACE));
        caller.io().is_http2 = is_http2;
        Poll::Ready(is_http2)
    }
}

impl<IO: Liveness> Liveness for Outlet<IO> {
    fn is_broken(&self) -> bool {
        self.io.is_broken()
    }
}

impl<IO: Write + Unpin> Outlet<IO> {
    /// Writes the held-back bytes: the connection goes on, so they are not hyper's refusal of a head.
    pub(crate) fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
    fn poll_write_held(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_release(cx))?;
        let start = match self.is_http2 {
            true => None,
            false => refused_head::answer_start(bytes),
        };
        if start == Some(0) {
            self.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        let count = start.unwrap_or(bytes.len());
        Pin::new(&mut self.io).poll_write(cx, &bytes[..count])
    }

    fn poll_write_vectored_held(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let filled = |slice: &IoSlice<'_>| !slice.is_empty();
        let Some(last) = slices.iter().rposition(filled) else {
            return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        };
        if self.is_http2 || refused_head::answer_start(&slices[last]).is_none() {
            ready!(self.poll_release(cx))?;
            return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        }
        // Writes all slices before the last, which may have to be held back.
        let first = slices.iter().position(filled).unwrap_or(last);
        if first == last {
            return self.poll_write_held(cx, &slices[last]);
        }
        ready!(self.poll_release(cx))?;
        Pin::new(&mut self.io).poll_write_vectored(cx, &slices[first..last])
    }

    /// Records the outcome of a write; over HTTP/2 it counts the streams reset in the written bytes.
    fn wrote<'a>(
        &mut self,
        slices: impl IntoIterator<Item = &'a [u8]>,
        polled: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        self.state.write_polled(polled.is_pending());
        if let Poll::Ready(Ok(count)) = polled
            && self.is_http2
        {
            let mut left = count;
            for slice in slices {
                let written = &slice[..left.min(slice.len())];
                left -= written.len();
                let refused = self.resets.pass(written);
                self.state.refused.update(|count| count + refused);
            }
        }
        polled
    }
}

impl<IO: Read + Write + Unpin + 'static> CallerSocket for Outlet<IO> {
    type Stream = Self;

    fn stream(&mut self) -> &mut Self {
        self
    }

    fn poll_scanned(
        &mut self,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
        bytes_max: usize,
        intake: &mut Intake,
    ) -> Poll<io::Result<()>> {
        let pass = |bytes: &mut [u8]| intake.pass(bytes);
        ready!(poll_read_through(
            &mut self.io,
            cx,
            &mut buf,
            bytes_max,
            pass
        ))?;
        // Bytes that the scanner rewrote to be longer than the caller's original.
        intake.read(buf.remaining(), |bytes| buf.put_slice(bytes));
        Poll::Ready(Ok(()))
    }
}

impl<IO: Read + Unpin> Read for Outlet<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: Write + Unpin> Write for Outlet<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = self.poll_write_held(cx, bytes);
        self.wrote([bytes], polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            // `serve` writes the held-back bytes, and then shuts the connection down.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = self.poll_write_vectored_held(cx, slices);
        self.wrote(slices.iter().map(|slice| &**slice), polled)
    }
}
