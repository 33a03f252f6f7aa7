//! The caller's connection: what hyper reads and writes through, and whether the caller is still
//! connected.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tieline_hop::{Cut, Intake, Reader};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use tieline_agent::socket;

/// Limit on bytes read ahead of hyper. Reading ahead shows whether a caller is still connected that has
/// pipelined requests, or waits for `100 Continue`.
const AHEAD_BYTES_MAX: usize = 4096;

/// Longest time to read and discard what a caller still sends after the last answer. Closing
/// earlier would reset the connection and could destroy an answer that the caller has not read
/// yet (RFC 9112, section 9.6).
const LINGER_MAX: Duration = Duration::from_secs(5);

/// State of one caller's connection, shared by the connection's driver and the bodies.
#[derive(Debug, Default)]
pub(super) struct State {
    /// A request is being answered.
    busy: Cell<bool>,
    /// The request's body has not been read to its end.
    unread: Cell<bool>,
    /// The request's body is being sent to the relay.
    uploading: Cell<bool>,
    read_blocked: Cell<bool>,
    flushes: Cell<u64>,
    /// The answer broke off, and only a reset can show that to the caller.
    cut_hidden: Cell<bool>,
}

impl State {
    /// Records that a request's head is complete.
    pub(super) fn begin(&self, has_body: bool) {
        self.unread.set(has_body);
        self.uploading.set(false);
        self.busy.set(true);
    }

    pub(super) fn uploading(&self) {
        self.uploading.set(true);
    }

    pub(super) fn uploaded(&self) {
        self.uploading.set(false);
        self.unread.set(false);
    }

    /// True if the caller may still be sending a request body that the proxy does not read.
    pub(super) fn is_unread(&self) -> bool {
        self.unread.get()
    }

    /// Records that the caller does not speak HTTP; what it still sends is discarded.
    pub(super) fn malformed(&self) {
        self.unread.set(true);
    }
}

impl Reader for State {
    type Piece = Bytes;

    fn piece(&self, bytes: Bytes) -> Bytes {
        bytes
    }

    fn flushes(&self) -> u64 {
        self.flushes.get()
    }

    fn await_flush(&self, cx: &Context<'_>) {
        // The same task flushes after this turn, so one wake is enough.
        cx.waker().wake_by_ref();
    }

    fn set_cut(&self, cut: Cut) {
        self.cut_hidden.set(cut == Cut::Hidden);
    }

    fn answered(&self) {
        self.busy.set(false);
    }
}

#[derive(Debug)]
struct Inner {
    io: TokioIo<TcpStream>,
    intake: Intake,
}

/// The caller's connection, held by hyper and by the connection's driver, both in one task.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    inner: Rc<RefCell<Inner>>,
    state: Rc<State>,
}

impl Caller {
    pub(super) fn new(stream: TcpStream, state: Rc<State>) -> Self {
        // Makes a close a reset until the orderly end: a killed process then leaves no answer that looks whole.
        let _ = stream.set_zero_linger();
        let inner = Inner {
            io: TokioIo::new(stream),
            intake: Intake::new(),
        };
        Self {
            inner: Rc::new(RefCell::new(inner)),
            state,
        }
    }

    /// Must be called before each poll of hyper's connection.
    pub(super) fn begin_turn(&self) {
        self.state.read_blocked.set(false);
    }

    /// True if the caller has closed the connection and hyper does not notice.
    ///
    /// hyper reads while it waits for an answer, but not past bytes that it cannot use yet. Body bytes that
    /// the relay is slow to take are not read ahead either: backpressure holds the caller.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> bool {
        let state = &self.state;
        let is_hypers = state.read_blocked.get() || state.uploading.get();
        if is_hypers || !state.busy.get() {
            return false;
        }
        let inner = &mut *self.inner.borrow_mut();
        while inner.intake.ahead().len() < AHEAD_BYTES_MAX {
            let mut bytes = [0; 1024];
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(&mut inner.io).poll_read(cx, buf.unfilled()) {
                Poll::Pending => return false,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    inner.intake.keep(buf.filled());
                }
                Poll::Ready(_) => return true,
            }
        }
        false
    }

    /// Closes the connection so that the caller sees how its last answer ended. hyper's half must be
    /// dropped before.
    pub(super) async fn close(self) {
        let (cut_hidden, unread) = (&self.state.cut_hidden, &self.state.unread);
        let (cut_hidden, unread) = (cut_hidden.get(), unread.get());
        let Some(inner) = Rc::into_inner(self.inner) else {
            return;
        };
        let mut stream = inner.into_inner().io.into_inner();
        if cut_hidden {
            // An orderly close would look like the answer's end.
            let _ = stream.set_zero_linger();
            return;
        }
        socket::finish(&stream);
        if unread {
            let deadline = Instant::now() + LINGER_MAX;
            let mut bytes = vec![0; 16 * 1024];
            while Instant::now() < deadline {
                match timeout(LINGER_MAX, stream.read(&mut bytes)).await {
                    Ok(Ok(count)) if count > 0 => {}
                    _ => break,
                }
            }
        }
    }
}

impl Read for Caller {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Inner { io, intake } = &mut *self.inner.borrow_mut();
        if intake.read(buf.remaining(), |bytes| buf.put_slice(bytes)) {
            return Poll::Ready(Ok(()));
        }
        let stream = io.inner_mut();
        let polled = Pin::new(&mut TokioIo::new(Scanned { stream, intake })).poll_read(cx, buf);
        self.state.read_blocked.set(polled.is_pending());
        polled
    }
}

/// Reads the caller's bytes through the scanner before hyper sees them.
struct Scanned<'a> {
    stream: &'a mut TcpStream,
    intake: &'a mut Intake,
}

impl AsyncRead for Scanned<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut *self.stream).poll_read(cx, buf))?;
        let passed = self.intake.pass(&mut buf.filled_mut()[before..]);
        buf.set_filled(before + passed);
        self.intake
            .read(buf.remaining(), |bytes| buf.put_slice(bytes));
        Poll::Ready(Ok(()))
    }
}

impl Write for Caller {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner.borrow_mut().io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner.borrow_mut().io).poll_flush(cx))?;
        // hyper flushes only after it has written everything it had.
        self.state.flushes.set(self.state.flushes.get() + 1);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner.borrow_mut();
        socket::end_in_order(inner.io.inner());
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
        Pin::new(&mut self.inner.borrow_mut().io).poll_write_vectored(cx, slices)
    }
}
