//! State of one frontend connection, or of one HTTP/2 stream: its current phase, the caller's deadlines, the memory
//! that its answers hold, flushes to the caller, and the pass that counts its request against rate limits.
//! Long because all parts of a connection share this one state.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use http_body::Frame;
use tieline_hop::Cut;

use super::memory::{ConnectionMemory, Piece, StreamMemory};
use crate::limits::RatePass;
use crate::listen::http::gateway::ended::Ended;
use crate::listen::http::gateway::settings::{DRAIN_GRACE, DRAIN_GRACE_HTTP2, Settings};

/// Phase of a frontend connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Before the first answer: the whole first head has one deadline.
    #[default]
    Fresh,
    /// Idle, between two requests.
    Idle,
    /// The first bytes of a later request's head have arrived.
    Head,
    /// A request is being answered.
    Busy,
}

/// State of a request's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Upload {
    /// The request has no body, or all of its body was read.
    #[default]
    Done,
    /// The body is not read, or not read yet.
    Held,
    /// The body is read and passed on to the target as it arrives.
    Open,
}

/// State of one frontend connection, or of one HTTP/2 stream; its users all run in one thread.
#[derive(Default)]
pub(crate) struct FrontendState {
    phase: Cell<Phase>,
    /// Number of requests so far.
    pub(super) requests: Cell<u64>,
    /// Start of the phase; the driver of the connection sets it.
    since: Cell<Option<Instant>>,
    /// When bytes last moved, while the connection is stalled.
    stalled_since: Cell<Option<Instant>>,
    moved: Cell<bool>,
    write_blocked: Cell<bool>,
    read_blocked: Cell<bool>,
    flushes: Cell<u64>,
    pub(crate) upload: Cell<Upload>,
    /// Whether the target could take more of the body than the caller has sent.
    pub(crate) upload_wanted: Cell<bool>,
    /// Whether the answer's head has arrived: the target has no deadline for the rest.
    pub(crate) is_answering: Cell<bool>,
    /// Whether the end of the connection is the end of the last answer.
    ends_answer: Cell<bool>,
    cut: Cell<Option<Cut>>,
    /// The relay drains.
    is_draining: Cell<bool>,
    /// hyper's error message for a head that it refused.
    pub(crate) head_error: RefCell<Option<String>>,
    /// HTTP/2: the connection that this stream belongs to.
    connection: Option<StreamOf>,
    /// Whether the connection speaks HTTP/2, where requests are streams.
    pub(crate) is_http2: Cell<bool>,
    /// HTTP/2: streams that h2 refused and that are not in the audit log yet.
    pub(crate) refused: Cell<usize>,
    /// HTTP/2: open streams of the connection.
    streams: Cell<usize>,
    /// Memory that the connection holds.
    held: OnceCell<Rc<ConnectionMemory>>,
    /// Memory that this stream holds; a connection of HTTP/1.1 counts as one stream.
    held_stream: OnceCell<Rc<StreamMemory>>,
    /// HTTP/2: wakers of streams that wait for a flush, and of the task that flushes.
    waits_for_flush: RefCell<Vec<Waker>>,
    driver: RefCell<Option<Waker>>,
    /// Rate-limit pass of the request being answered.
    pass: RefCell<RatePass>,
    /// HTTP/1.1: the last request to upgrade was not answered with `101`, so the connection stays HTTP, and the reader
    /// has not noticed yet.
    stays_http: Cell<bool>,
}

impl FrontendState {
    /// Switches to HTTP/2: requests are streams; other frames start no request timer.
    pub(crate) fn begin_http2(&self, held: &Rc<ConnectionMemory>) {
        self.is_http2.set(true);
        // `set` succeeds: the protocol of a connection is decided once.
        let _ = self.held.set(Rc::clone(held));
        self.begin_phase(Phase::Idle);
    }

    /// State of a new stream of `connection`, which stays busy until its last stream ends.
    pub(crate) fn of_stream(connection: &Rc<Self>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        connection.begin_phase(Phase::Busy);
        let held = connection.held.get().map(ConnectionMemory::stream);
        Self {
            connection: Some(StreamOf(Rc::clone(connection))),
            held_stream: held.map_or_else(OnceCell::new, OnceCell::from),
            ..Self::default()
        }
    }

    /// The relay drains: an idle caller gets a shorter deadline, counted from now.
    pub(crate) fn begin_drain(&self) {
        if !self.is_draining.replace(true) && self.phase.get() == Phase::Idle {
            self.extend();
        }
    }

    /// Switches to HTTP/1.1: requests come one after the other.
    pub(crate) fn begin_http1(&self, held: &Rc<ConnectionMemory>) {
        // `set` succeeds: the protocol of a connection is decided once.
        let _ = self.held.set(Rc::clone(held));
        let _ = self.held_stream.set(held.stream());
    }

    /// Whether there is memory for a request whose head has `head_bytes`.
    pub(crate) fn has_place(&self, head_bytes: u64) -> bool {
        let stream = self.held_stream.get();
        let stream = stream.filter(|_| self.connection.is_some());
        stream.is_none_or(|stream| stream.enter(head_bytes))
    }

    /// Restarts the caller's current deadline.
    pub(crate) fn extend(&self) {
        self.since.set(None);
    }

    /// Records whether a write to the caller is pending.
    pub(super) fn write_polled(&self, is_pending: bool) {
        self.write_blocked.set(is_pending);
        if !is_pending {
            self.moved.set(true);
        }
    }

    fn begin_phase(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(None);
    }

    /// Starts a request, whose head is complete.
    pub(crate) fn begin(&self, has_body: bool) {
        self.begin_phase(Phase::Busy);
        self.requests.set(self.requests.get() + 1);
        self.upload
            .set(if has_body { Upload::Held } else { Upload::Done });
        self.upload_wanted.set(false);
        self.is_answering.set(false);
    }

    /// Records that the rest of the body of `request` was discarded, unless the next request has begun.
    pub(super) fn passed_over(&self, request: u64) {
        if self.requests.get() == request {
            self.upload.set(Upload::Done);
        }
    }

    /// Keeps the rate-limit pass of the request.
    pub(crate) fn enter(&self, pass: RatePass) {
        self.pass.replace(pass);
    }

    /// Takes the rate-limit pass of the request, for a connection that leaves HTTP.
    pub(crate) fn take_pass(&self) -> RatePass {
        self.pass.take()
    }

    /// Lets the reader take the caller's bytes after a request to upgrade as further requests.
    pub(crate) fn stay_http(&self) {
        self.stays_http.set(true);
        // hyper does not read again unless its task is woken.
        if let Some(driver) = &*self.driver.borrow() {
            driver.wake_by_ref();
        }
    }

    /// Lets `check` charge the request to its caller, now that the caller is known.
    pub(crate) fn identify<E>(
        &self,
        check: impl FnOnce(&mut RatePass) -> Result<(), E>,
    ) -> Result<(), E> {
        check(&mut self.pass.borrow_mut())
    }

    /// Counts bytes of a request's or answer's body for the rate limit.
    pub(crate) fn count(&self, frame: &Frame<Bytes>) {
        if let Some(bytes) = frame.data_ref() {
            self.pass.borrow().moved(bytes.len() as u64);
        }
    }

    /// Wakes the connection's task to look at a change in one of its streams.
    pub(crate) fn wake_driver(&self) {
        if let Some(StreamOf(connection)) = &self.connection
            && let Some(driver) = &*connection.driver.borrow()
        {
            driver.wake_by_ref();
        }
    }

    /// Keeps the waker of the task that drives the connection.
    pub(crate) fn driven_by(&self, waker: &Waker) {
        let mut driver = self.driver.borrow_mut();
        driver
            .get_or_insert_with(|| waker.clone())
            .clone_from(waker);
    }

    /// True if the caller may still be sending a body that is not read.
    pub(crate) fn is_body_unread(&self) -> bool {
        self.upload.get() != Upload::Done
    }

    /// Maps hyper's result to the reason for the connection's end.
    pub(crate) fn ended(&self, result: Result<(), hyper::Error>) -> Ended {
        match (self.cut.get(), result) {
            (Some(Cut::Visible), _) => Ended::Aborted,
            (Some(Cut::Hidden), _) => Ended::Truncated,
            (None, Ok(())) => Ended::Closed,
            (None, Err(error)) if error.is_parse() => {
                self.head_error.replace(Some(error.to_string()));
                Ended::Malformed
            }
            // A caller may close an HTTP/2 connection without streams at any time, even in the middle of a GOAWAY.
            (None, Err(_)) if self.is_http2.get() && self.streams.get() == 0 => Ended::Closed,
            (None, Err(_)) => Ended::CallerGone,
        }
    }

    /// Whether an orderly close would hide that the last answer is incomplete, for a connection that has `ended` and
    /// was dropped.
    pub(crate) fn is_cut_hidden(&self, ended: Ended) -> bool {
        let is_cut = self.cut.get() == Some(Cut::Hidden);
        is_cut || (ended == Ended::CallerGone && self.ends_answer.get())
    }

    /// True while a request is answered and hyper does not read: no read shows then that the caller is gone.
    pub(super) fn is_unread(&self) -> bool {
        self.phase.get() == Phase::Busy && !self.read_blocked.get()
    }

    /// True while the connection waits only for the target, which has no deadline here.
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

    /// The caller's deadline after a turn that ended `now`, and how the connection ends if it passes.
    pub(crate) fn deadline(&self, settings: &Settings, now: Instant) -> (Instant, Ended) {
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
            Phase::Idle => {
                let limit = match (self.is_draining.get(), self.is_http2.get()) {
                    (false, _) => settings.idle_timeout,
                    (true, false) => DRAIN_GRACE,
                    (true, true) => DRAIN_GRACE_HTTP2,
                };
                (since + limit.min(settings.idle_timeout), Ended::IdleTimeout)
            }
            _ => (since + settings.head_timeout, Ended::HeadTimeout),
        }
    }
}

impl tieline_hop::CallerState for FrontendState {
    fn passes_upgrades(&self) -> bool {
        true
    }

    fn stays_http(&self) -> bool {
        self.stays_http.take()
    }

    fn served(&self) -> u64 {
        self.requests.get()
    }

    fn read_bytes_max(&self) -> usize {
        let held = self.held.get().filter(|_| !self.is_http2.get());
        held.map_or(usize::MAX, |held| held.read_bytes_max())
    }

    fn begin_turn(&self) {
        self.read_blocked.set(false);
    }

    fn read_polled(&self, is_pending: bool) {
        self.read_blocked.set(is_pending);
    }

    fn received(&self) {
        self.moved.set(true);
        // After an early answer, these bytes are the rest of the previous request's body.
        let is_head = self.phase.get() == Phase::Idle && !self.is_body_unread();
        if is_head && !self.is_http2.get() {
            self.begin_phase(Phase::Head);
        }
    }

    fn is_unwatched(&self) -> bool {
        self.is_unread() && self.upload.get() != Upload::Open
    }

    fn flushed(&self) {
        self.flushes.set(self.flushes.get() + 1);
        for waiting in self.waits_for_flush.take() {
            waiting.wake();
        }
    }
}

impl tieline_hop::Reader for FrontendState {
    type Piece = Piece;

    fn piece(&self, bytes: Bytes) -> Piece {
        Piece::new(bytes, self.held_stream.get())
    }

    fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let held = self.held_stream.get();
        held.map_or(Poll::Ready(()), |held| held.poll_room(cx))
    }

    fn passed(&self, frame: &Frame<Bytes>) {
        self.count(frame);
    }

    fn flushes(&self) -> u64 {
        self.connection
            .as_ref()
            .map_or(self.flushes.get(), |stream| stream.0.flushes.get())
    }

    fn await_flush(&self, cx: &Context<'_>) {
        let Some(StreamOf(connection)) = &self.connection else {
            // HTTP/1.1: the same task flushes after this turn, so one wake is enough.
            return cx.waker().wake_by_ref();
        };
        let mut waiting = connection.waits_for_flush.borrow_mut();
        waiting.push(cx.waker().clone());
        if let Some(driver) = &*connection.driver.borrow() {
            driver.wake_by_ref();
        }
    }

    fn begins(&self, cut: Cut) {
        self.ends_answer.set(cut == Cut::Hidden);
    }

    fn set_cut(&self, cut: Cut) {
        self.cut.set(Some(cut));
    }

    fn answered(&self) {
        self.begin_phase(Phase::Idle);
        self.pass.take();
    }

    fn may_give_up(&self) -> bool {
        self.connection.is_some() && self.held_stream.get().is_some()
    }

    fn on_give_up(&self, give_up: impl FnOnce() + 'static) {
        if let Some(held) = self.held_stream.get() {
            held.on_give_up(give_up);
        }
    }
}

/// Counts one HTTP/2 stream of a connection until it is dropped.
struct StreamOf(Rc<FrontendState>);

impl Drop for StreamOf {
    fn drop(&mut self) {
        let Self(connection) = self;
        let left = connection.streams.get() - 1;
        connection.streams.set(left);
        if left == 0 {
            connection.begin_phase(Phase::Idle);
            // The connection's idle timeout begins now.
            if let Some(driver) = &*connection.driver.borrow() {
                driver.wake_by_ref();
            }
        }
    }
}
