//! A caller's connection as hyper's server reads and writes it: through the scanner, and watched for a caller that
//! leaves while hyper does not read.

use std::cell::{RefCell, RefMut};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

use crate::scanner::Intake;

/// Limit of bytes read ahead of hyper. Reading ahead detects the disconnect of a caller that pipelines requests or
/// waits for `100 Continue`.
const AHEAD_BYTES_MAX: usize = 4096;

/// What a hop notes about a caller's connection.
pub trait CallerState: 'static {
    /// Starts a turn; call it before hyper's connection is polled.
    fn begin_turn(&self);

    /// Records whether a read from the caller is pending.
    fn read_polled(&self, is_pending: bool);

    /// Records that bytes from the caller went to hyper.
    fn received(&self) {}

    /// Records that hyper has flushed.
    fn flushed(&self);

    /// True while hyper does not read in this turn, so a disconnect of the caller would go unnoticed.
    fn is_unwatched(&self) -> bool;

    /// Whether the hop passes upgrades on. Bytes behind a request to upgrade then wait until
    /// [`CallerState::stays_http`] or until the connection is taken over.
    fn passes_upgrades(&self) -> bool {
        false
    }

    /// Whether the answer to the last request to upgrade left the connection HTTP; true once for each such answer. A
    /// change to true must wake the task that drives the connection.
    fn stays_http(&self) -> bool {
        false
    }

    /// Number of requests that the hop got from hyper so far. The default suits a hop that never asks for the request
    /// line of a refused head ([`Intake::request_line`]): none is kept.
    fn served(&self) -> u64 {
        u64::MAX
    }

    /// Size limit of the next read from the caller.
    fn read_bytes_max(&self) -> usize {
        usize::MAX
    }
}

/// A caller's socket.
pub trait CallerSocket: 'static {
    /// What hyper writes to.
    type Stream: Read + Write + Unpin;

    /// The bytes to and from the caller.
    fn stream(&mut self) -> &mut Self::Stream;

    /// Reads at most `bytes_max` into hyper's buffer, where what `intake` passes stays; then adds what [`Intake::read`]
    /// has instead of the rest.
    fn poll_scanned(
        &mut self,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
        bytes_max: usize,
        intake: &mut Intake,
    ) -> Poll<io::Result<()>>;
}

struct Inner<IO> {
    io: IO,
    intake: Intake,
}

/// A caller's connection, shared by hyper and the task that drives the connection.
pub struct Caller<IO, S> {
    inner: Rc<RefCell<Inner<IO>>>,
    state: Rc<S>,
}

impl<IO, S> Clone for Caller<IO, S> {
    fn clone(&self) -> Self {
        Self {
            inner: Rc::clone(&self.inner),
            state: Rc::clone(&self.state),
        }
    }
}

impl<IO: CallerSocket, S: CallerState> Caller<IO, S> {
    /// A connection of which nothing was read yet.
    pub fn new(io: IO, state: Rc<S>) -> Self {
        let mut intake = Intake::new();
        if state.passes_upgrades() {
            intake.hold_upgrades();
        }
        Self {
            inner: Rc::new(RefCell::new(Inner { io, intake })),
            state,
        }
    }

    /// The connection itself, and what is known of the last request; `None` while hyper holds a clone.
    #[must_use]
    pub fn into_inner(self) -> Option<(IO, Intake)> {
        let Inner { io, intake } = Rc::into_inner(self.inner)?.into_inner();
        Some((io, intake))
    }

    /// The caller's socket. Drop it before hyper is polled.
    #[must_use]
    pub fn io(&self) -> RefMut<'_, IO> {
        RefMut::map(self.inner.borrow_mut(), |inner| &mut inner.io)
    }

    /// Resolves as soon as the caller's first bytes tell whether they are `preface`; if they are, the caller's bytes
    /// are not scanned.
    pub fn poll_preface(&self, cx: &mut Context<'_>, preface: &[u8]) -> Poll<bool> {
        loop {
            {
                let intake = &mut self.inner.borrow_mut().intake;
                let is_whole = intake.ahead().starts_with(preface);
                if is_whole {
                    intake.is_framed();
                }
                if is_whole || !preface.starts_with(intake.ahead()) {
                    return Poll::Ready(is_whole);
                }
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
        let polled = ready!(Pin::new(inner.io.stream()).poll_read(cx, buf.unfilled()));
        inner.intake.keep(buf.filled());
        Poll::Ready(polled.is_ok() && !buf.filled().is_empty())
    }

    /// True if the caller has closed the connection while hyper does not read.
    ///
    /// hyper reads while it waits for an answer, but not past bytes that it cannot use yet. Body bytes
    /// that the next hop is slow to take stay in the kernel, for backpressure.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> bool {
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

impl<IO: CallerSocket, S: CallerState> Read for Caller<IO, S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Inner { io, intake } = &mut *self.inner.borrow_mut();
        intake.drop_served(self.state.served());
        if intake.is_held() && self.state.stays_http() {
            intake.go_on();
        }
        if !intake.read(buf.remaining(), |bytes| buf.put_slice(bytes)) {
            if intake.is_held() {
                // The caller counts as unwatched: `poll_gone` reads ahead, and notices its end.
                return Poll::Pending;
            }
            let polled = io.poll_scanned(cx, buf, self.state.read_bytes_max(), intake);
            self.state.read_polled(polled.is_pending());
            ready!(polled)?;
        }
        self.state.received();
        Poll::Ready(Ok(()))
    }
}

impl<IO: CallerSocket, S: CallerState> Write for Caller<IO, S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.io().stream()).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(self.io().stream()).poll_flush(cx))?;
        // hyper flushes only after it has written all of its buffered bytes.
        self.state.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io().stream()).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io().stream().is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.io().stream()).poll_write_vectored(cx, slices)
    }
}
