//! The caller's side of a frontend connection: what hyper reads and writes through, whether the
//! caller is still there, and how long it may take.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

use super::{Ended, Settings};

/// Bytes read ahead of hyper to learn whether a caller that has pipelined more requests, or waits
/// for `100 Continue`, is still there.
const AHEAD_BYTES_MAX: usize = 4096;

/// What a client of HTTP/2 says first (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Where a connection stands in its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing answered yet: the whole first head must come in time.
    Fresh,
    /// Between requests.
    Idle,
    /// Bytes of a later request's head are here.
    Head,
    /// A request is being answered.
    Busy,
}

/// What becomes of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upload {
    /// There is none, or all of it was taken.
    Done,
    /// Nobody takes it, or not yet.
    Held,
    /// It goes to the target as it comes.
    Open,
}

/// How the framing of an answer that broke off looks to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// A plain close shows that something is missing.
    Visible,
    /// A plain close would look like the answer's end.
    Hidden,
}

/// State of one frontend connection, shared by its parts; all of them run in one task.
#[derive(Debug)]
pub(super) struct State {
    phase: Cell<Phase>,
    /// When the phase began; the driver of the connection fills it in.
    since: Cell<Option<Instant>>,
    /// When bytes last moved, known only while they should move and do not.
    stalled_since: Cell<Option<Instant>>,
    moved: Cell<bool>,
    write_blocked: Cell<bool>,
    read_blocked: Cell<bool>,
    flushes: Cell<u64>,
    upload: Cell<Upload>,
    upload_wanted: Cell<bool>,
    /// Whether the answer's head is here: from then on the target may take its time.
    is_answering: Cell<bool>,
    cut: Cell<Option<Cut>>,
    /// HTTP/2: what is known of the connection that this stream is one of.
    connection: Option<StreamOf>,
    is_http2: Cell<bool>,
    /// HTTP/2: how many streams the connection has.
    streams: Cell<usize>,
    /// HTTP/2: streams that wait for a flush, and whom to ask for one.
    waits_for_flush: RefCell<Vec<Waker>>,
    driver: RefCell<Option<Waker>>,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            connection: None,
            is_http2: Cell::new(false),
            streams: Cell::new(0),
            waits_for_flush: RefCell::default(),
            driver: RefCell::default(),
            phase: Cell::new(Phase::Fresh),
            since: Cell::new(None),
            stalled_since: Cell::new(None),
            moved: Cell::new(false),
            write_blocked: Cell::new(false),
            read_blocked: Cell::new(false),
            flushes: Cell::new(0),
            upload: Cell::new(Upload::Done),
            upload_wanted: Cell::new(false),
            is_answering: Cell::new(false),
            cut: Cell::new(None),
        }
    }

    /// From now on requests come as streams, and what comes beside them is nothing to wait for.
    pub(super) fn begin_http2(&self) {
        self.is_http2.set(true);
        self.enter(Phase::Idle);
    }

    /// State of a new stream of the connection in `connection`, which is busy while one lives.
    pub(super) fn of_stream(connection: &Rc<Self>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        connection.enter(Phase::Busy);
        Self {
            connection: Some(StreamOf(Rc::clone(connection))),
            ..Self::new()
        }
    }

    /// Begins the time anew that the caller has now.
    pub(super) fn extend(&self) {
        self.since.set(None);
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(None);
    }

    /// A request's head is complete.
    pub(super) fn begin(&self, has_body: bool) {
        self.enter(Phase::Busy);
        self.upload
            .set(if has_body { Upload::Held } else { Upload::Done });
        self.upload_wanted.set(false);
        self.is_answering.set(false);
    }

    /// The answer has been handed to hyper in full, or has been given up.
    pub(super) fn answered(&self) {
        self.enter(Phase::Idle);
    }

    pub(super) fn set_upload(&self, upload: Upload) {
        self.upload.set(upload);
    }

    /// Whether the target could take more of the body than the caller has sent.
    pub(super) fn set_upload_wanted(&self, wanted: bool) {
        self.upload_wanted.set(wanted);
    }

    /// The answer's head is here.
    pub(super) fn head_arrived(&self) {
        self.is_answering.set(true);
    }

    /// The answer breaks off.
    pub(super) fn set_cut(&self, cut: Cut) {
        self.cut.set(Some(cut));
    }

    /// How often everything that hyper had for the caller was written.
    pub(super) fn flushes(&self) -> u64 {
        self.connection
            .as_ref()
            .map_or(self.flushes.get(), |stream| stream.0.flushes.get())
    }

    /// Sees to it that hyper flushes, and wakes this task when it has.
    pub(super) fn await_flush(&self, cx: &Context<'_>) {
        let Some(StreamOf(connection)) = &self.connection else {
            // Once: the same task flushes after this turn.
            return cx.waker().wake_by_ref();
        };
        let mut waiting = connection.waits_for_flush.borrow_mut();
        waiting.push(cx.waker().clone());
        if let Some(driver) = &*connection.driver.borrow() {
            driver.wake_by_ref();
        }
    }

    /// Notes the task that drives the connection.
    pub(super) fn driven_by(&self, waker: &Waker) {
        let mut driver = self.driver.borrow_mut();
        match &mut *driver {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    fn flushed(&self) {
        self.flushes.set(self.flushes.get() + 1);
        for waiting in self.waits_for_flush.take() {
            waiting.wake();
        }
    }

    /// True if the caller may still be sending a body that nobody reads.
    pub(super) fn is_body_unread(&self) -> bool {
        self.upload.get() != Upload::Done
    }

    /// Why the connection ended, by what hyper says.
    pub(super) fn ended(&self, result: Result<(), hyper::Error>) -> Ended {
        match (self.cut.get(), result) {
            (Some(Cut::Visible), _) => Ended::Aborted,
            (Some(Cut::Hidden), _) => Ended::Truncated,
            (None, Ok(())) => Ended::Closed,
            (None, Err(error)) if error.is_parse() => Ended::Malformed,
            // It hangs up as it likes once nothing runs, and may do so in the middle of a goodbye.
            (None, Err(_)) if self.is_http2.get() && self.streams.get() == 0 => Ended::Closed,
            (None, Err(_)) => Ended::CallerGone,
        }
    }

    /// True while it is the target that everybody waits for: it may take its time.
    pub(super) fn is_unhurried(&self) -> bool {
        let unhurried = self.phase.get() == Phase::Busy && !self.is_stalled();
        if unhurried {
            self.stalled_since.set(None);
        }
        unhurried
    }

    fn is_stalled(&self) -> bool {
        let awaits_caller = self.upload_wanted.get() && !self.is_answering.get();
        self.write_blocked.get() || (self.phase.get() == Phase::Busy && awaits_caller)
    }

    /// By when the caller has to do something, after a turn that ended `now`.
    pub(super) fn deadline(&self, settings: &Settings, now: Instant) -> (Instant, Ended) {
        if self.is_stalled() {
            let since = match self.stalled_since.get() {
                Some(since) if !self.moved.get() => since,
                _ => now,
            };
            self.moved.set(false);
            self.stalled_since.set(Some(since));
            return (since + settings.stall_timeout, Ended::Stalled);
        }
        self.stalled_since.set(None);
        let since = self.since.get().unwrap_or(now);
        self.since.set(Some(since));
        match self.phase.get() {
            Phase::Idle => (since + settings.idle_timeout, Ended::IdleTimeout),
            _ => (since + settings.head_timeout, Ended::HeadTimeout),
        }
    }
}

/// One stream of a connection.
#[derive(Debug)]
struct StreamOf(Rc<State>);

impl Drop for StreamOf {
    fn drop(&mut self) {
        let Self(connection) = self;
        let left = connection.streams.get() - 1;
        connection.streams.set(left);
        if left == 0 {
            connection.enter(Phase::Idle);
            // Its time begins now.
            if let Some(driver) = &*connection.driver.borrow() {
                driver.wake_by_ref();
            }
        }
    }
}

#[derive(Debug)]
struct Inner<IO> {
    io: IO,
    ahead: Vec<u8>,
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
        self.state.read_blocked.set(false);
    }

    /// True if the caller has closed the connection where hyper does not look.
    ///
    /// hyper itself reads while it waits for an answer, but not past bytes that it cannot use
    /// yet. Those of a body that the target is slow to take are left to backpressure.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> bool {
        let state = &self.state;
        if state.phase.get() != Phase::Busy
            || state.read_blocked.get()
            || state.upload.get() == Upload::Open
        {
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
        let inner = &mut *self.inner.borrow_mut();
        if inner.ahead.is_empty() {
            let polled = Pin::new(&mut inner.io).poll_read(cx, buf);
            self.state.read_blocked.set(polled.is_pending());
            ready!(polled)?;
        } else {
            let taken = inner.ahead.len().min(buf.remaining());
            buf.put_slice(&inner.ahead[..taken]);
            inner.ahead.drain(..taken);
            if inner.ahead.is_empty() {
                inner.ahead = Vec::new();
            }
        }
        self.state.moved.set(true);
        if self.state.phase.get() == Phase::Idle && !self.state.is_http2.get() {
            self.state.enter(Phase::Head);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: Write + Unpin> Caller<IO> {
    fn wrote(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.state.write_blocked.set(polled.is_pending());
        if polled.is_ready() {
            self.state.moved.set(true);
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
