//! Where a frontend connection stands in its requests, and how long its caller may take.
//! Long because all parts of a connection share this one state.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Instant;

use bytes::Bytes;
use http_body::Frame;

use super::held::{Held, HeldStream};
use super::{DRAIN_GRACE, DRAIN_GRACE_HTTP2, Ended, Settings};
use crate::limits::Pass;

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
pub(super) struct State {
    phase: Cell<Phase>,
    /// How many requests there were.
    requests: Cell<u64>,
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
    /// The relay takes nothing new.
    is_draining: Cell<bool>,
    /// What hyper says of a head that it did not take.
    unread: RefCell<Option<String>>,
    /// HTTP/2: what is known of the connection that this stream is one of.
    connection: Option<StreamOf>,
    is_http2: Cell<bool>,
    /// HTTP/2: streams that the library refused, and that are not noted yet.
    refused: Cell<usize>,
    /// HTTP/2: how many streams the connection has.
    streams: Cell<usize>,
    /// What the connection makes the relay hold.
    held: OnceCell<Rc<Held>>,
    /// What this stream does, or the connection where it has one only.
    held_stream: OnceCell<Rc<HeldStream>>,
    /// HTTP/2: streams that wait for a flush, and whom to ask for one.
    waits_for_flush: RefCell<Vec<Waker>>,
    driver: RefCell<Option<Waker>>,
    /// As what the request was let in that is being answered.
    pass: RefCell<Pass>,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            connection: None,
            is_http2: Cell::new(false),
            streams: Cell::new(0),
            refused: Cell::new(0),
            held: OnceCell::new(),
            held_stream: OnceCell::new(),
            waits_for_flush: RefCell::default(),
            driver: RefCell::default(),
            pass: RefCell::default(),
            phase: Cell::new(Phase::Fresh),
            requests: Cell::new(0),
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
            is_draining: Cell::new(false),
            unread: RefCell::default(),
        }
    }

    /// From now on requests come as streams, and what comes beside them is nothing to wait for.
    pub(super) fn begin_http2(&self, held: &Rc<Held>) {
        self.is_http2.set(true);
        // Once for each connection.
        let _ = self.held.set(Rc::clone(held));
        self.begin_phase(Phase::Idle);
    }

    /// State of a new stream of the connection in `connection`, which is busy while one lives.
    pub(super) fn of_stream(connection: &Rc<Self>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        connection.begin_phase(Phase::Busy);
        let held = connection.held.get().map(Held::stream);
        Self {
            connection: Some(StreamOf(Rc::clone(connection))),
            held_stream: held.map_or_else(OnceCell::new, OnceCell::from),
            ..Self::new()
        }
    }

    /// The relay takes nothing new: an idle caller has little time left, counted from now.
    pub(super) fn begin_drain(&self) {
        if !self.is_draining.replace(true) && self.phase.get() == Phase::Idle {
            self.extend();
        }
    }

    /// The library refused so many streams.
    pub(super) fn refused(&self, count: usize) {
        self.refused.set(self.refused.get() + count);
    }

    /// Streams that it refused since this was asked last.
    pub(super) fn take_refused(&self) -> usize {
        self.refused.take()
    }

    /// Whether requests come as streams.
    pub(super) fn is_http2(&self) -> bool {
        self.is_http2.get()
    }

    /// From now on requests come one after the other.
    pub(super) fn begin_http1(&self, held: &Rc<Held>) {
        // Once for each connection.
        let _ = self.held.set(Rc::clone(held));
        let _ = self.held_stream.set(held.stream());
    }

    /// What this stream makes the relay hold, or the connection where it has one only.
    pub(super) fn held(&self) -> Option<&Rc<HeldStream>> {
        self.held_stream.get()
    }

    /// True for a stream of several.
    pub(super) const fn is_stream(&self) -> bool {
        self.connection.is_some()
    }

    /// Whether there is memory for a request in whose head there are so many bytes.
    pub(super) fn has_place(&self, head_bytes: u64) -> bool {
        let stream = self.held().filter(|_| self.is_stream());
        stream.is_none_or(|stream| stream.enter(head_bytes))
    }

    /// Most that one read of the caller may bring now.
    pub(super) fn read_bytes_max(&self) -> usize {
        let held = self.held.get().filter(|_| !self.is_http2.get());
        held.map_or(usize::MAX, |held| held.read_bytes_max())
    }

    /// Begins the time anew that the caller has now.
    pub(super) fn extend(&self) {
        self.since.set(None);
    }

    /// A turn of the connection begins.
    pub(super) fn begin_turn(&self) {
        self.read_blocked.set(false);
    }

    /// The caller was read, or had nothing.
    pub(super) fn read_polled(&self, is_pending: bool) {
        self.read_blocked.set(is_pending);
    }

    /// Bytes of the caller go to hyper.
    pub(super) fn received(&self) {
        self.moved.set(true);
        // Behind an early answer the rest of its request's body comes first.
        let is_head = self.phase.get() == Phase::Idle && !self.is_body_unread();
        if is_head && !self.is_http2.get() {
            self.begin_phase(Phase::Head);
        }
    }

    /// The caller was written to, or takes nothing.
    pub(super) fn write_polled(&self, is_pending: bool) {
        self.write_blocked.set(is_pending);
        if !is_pending {
            self.moved.set(true);
        }
    }

    /// True while nobody would notice that the caller leaves: hyper reads no further in this turn.
    pub(super) fn is_unwatched(&self) -> bool {
        self.phase.get() == Phase::Busy
            && !self.read_blocked.get()
            && self.upload.get() != Upload::Open
    }

    fn begin_phase(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(None);
    }

    /// A request's head is complete.
    pub(super) fn begin(&self, has_body: bool) {
        self.begin_phase(Phase::Busy);
        self.requests.set(self.requests.get() + 1);
        self.upload
            .set(if has_body { Upload::Held } else { Upload::Done });
        self.upload_wanted.set(false);
        self.is_answering.set(false);
    }

    /// Which request of the connection is at it, counted from one.
    pub(super) fn request(&self) -> u64 {
        self.requests.get()
    }

    /// The rest of the body of that request was thrown away. The next one may have begun meanwhile.
    pub(super) fn passed_over(&self, request: u64) {
        if self.requests.get() == request {
            self.set_upload(Upload::Done);
        }
    }

    /// The answer has been handed to hyper in full, or has been given up.
    pub(super) fn answered(&self) {
        self.begin_phase(Phase::Idle);
        self.pass.take();
    }

    /// The request was let in.
    pub(super) fn enter(&self, pass: Pass) {
        self.pass.replace(pass);
    }

    /// It is known whose it is.
    pub(super) fn identify<E>(
        &self,
        check: impl FnOnce(&mut Pass) -> Result<(), E>,
    ) -> Result<(), E> {
        check(&mut self.pass.borrow_mut())
    }

    /// Bytes of a body went by.
    pub(super) fn passed(&self, frame: &Frame<Bytes>) {
        if let Some(bytes) = frame.data_ref() {
            self.pass.borrow().moved(bytes.len() as u64);
        }
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

    /// Has the connection look at what changed in one of its streams.
    pub(super) fn wake_driver(&self) {
        if let Some(StreamOf(connection)) = &self.connection
            && let Some(driver) = &*connection.driver.borrow()
        {
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

    pub(super) fn flushed(&self) {
        self.flushes.set(self.flushes.get() + 1);
        for waiting in self.waits_for_flush.take() {
            waiting.wake();
        }
    }

    /// True if the caller may still be sending a body that nobody reads.
    pub(super) fn is_body_unread(&self) -> bool {
        self.upload.get() != Upload::Done
    }

    /// What hyper said of a head that it did not take.
    pub(super) fn take_unread(&self) -> Option<String> {
        self.unread.take()
    }

    /// Why the connection ended, by what hyper says.
    pub(super) fn ended(&self, result: Result<(), hyper::Error>) -> Ended {
        match (self.cut.get(), result) {
            (Some(Cut::Visible), _) => Ended::Aborted,
            (Some(Cut::Hidden), _) => Ended::Truncated,
            (None, Ok(())) => Ended::Closed,
            (None, Err(error)) if error.is_parse() => {
                self.unread.replace(Some(error.to_string()));
                Ended::Malformed
            }
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

/// One stream of a connection.
struct StreamOf(Rc<State>);

impl Drop for StreamOf {
    fn drop(&mut self) {
        let Self(connection) = self;
        let left = connection.streams.get() - 1;
        connection.streams.set(left);
        if left == 0 {
            connection.begin_phase(Phase::Idle);
            // Its time begins now.
            if let Some(driver) = &*connection.driver.borrow() {
                driver.wake_by_ref();
            }
        }
    }
}
