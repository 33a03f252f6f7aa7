//! The side that faces the driver: answers under way, the outputs that it has not taken yet, and moments to wake up.
//!
//! Knows the form of an answer, which is one JSON object or a stream of events; what belongs into it is decided
//! elsewhere.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::error::BridgeError;
use crate::headers::{Era, RequestHead};
use crate::ids::{ChildId, ExchangeId, SessionKey, SessionNumber};
use crate::message::Line;
use crate::settings::{COMMENT_INTERVAL, JSON_WAIT};
use crate::sse::{self, EventId};
use crate::surface::{Output, ResponseHead};
use crate::timers::Timers;

/// Content type of an answer that is one JSON object.
const JSON: &str = "application/json";

/// Methods that the bridge answers.
const ALLOWED: &str = "GET, POST, DELETE";

/// What has a moment to wake up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The answer becomes a stream, or its stream gets a comment.
    Exchange(ExchangeId),
    /// The child has not answered yet, or is idle.
    Child(ChildId),
    /// The session is idle.
    Session(SessionNumber),
    /// The input for this call of a child has not come.
    Parked(ChildId, u64),
}

/// What an HTTP request under way belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It waits for this child to start.
    Waiting(ChildId),
    /// It carries this stream of a session.
    Stream(SessionNumber, u64),
    /// It gets the answer to this call of a child.
    Call(ChildId, u64),
    /// It listens to changes that this legacy child reports.
    Listener(ChildId),
}

/// An HTTP request whose answer is not complete.
#[derive(Debug)]
struct Exchange {
    place: Option<Place>,
    takes_json: bool,
    takes_events: bool,
    /// True once the head of a stream of events is out.
    is_stream: bool,
}

/// Answers under way, outputs and moments.
#[derive(Debug)]
pub(crate) struct Outside {
    exchanges: BTreeMap<ExchangeId, Exchange>,
    next_exchange: u64,
    outputs: VecDeque<Output>,
    timers: Timers<Timer>,
}

impl Outside {
    /// Nothing is under way.
    pub(crate) const fn new() -> Self {
        Self {
            exchanges: BTreeMap::new(),
            next_exchange: 1,
            outputs: VecDeque::new(),
            timers: Timers::new(),
        }
    }

    /// Takes an HTTP request whose answer may have the forms that its head accepts.
    pub(crate) fn begin(&mut self, head: &RequestHead) -> ExchangeId {
        let id = ExchangeId(self.next_exchange);
        self.next_exchange += 1;
        let exchange = Exchange {
            place: None,
            takes_json: head.accepts_json(),
            takes_events: head.accepts_events(),
            is_stream: false,
        };
        self.exchanges.insert(id, exchange);
        id
    }

    /// Notes what a request belongs to now.
    pub(crate) fn set_place(&mut self, id: ExchangeId, place: Place) {
        if let Some(exchange) = self.exchanges.get_mut(&id) {
            exchange.place = Some(place);
        }
    }

    /// What a request belongs to; `None` if its answer is complete.
    pub(crate) fn place(&self, id: ExchangeId) -> Option<Place> {
        self.exchanges.get(&id)?.place
    }

    /// Requests under way.
    pub(crate) fn exchanges(&self) -> Vec<ExchangeId> {
        self.exchanges.keys().copied().collect()
    }

    /// True if the answer is a stream of events by now.
    pub(crate) fn is_stream(&self, id: ExchangeId) -> bool {
        let exchange = self.exchanges.get(&id);
        exchange.is_some_and(|exchange| exchange.is_stream)
    }

    /// True if the answer is a stream of events or may become one.
    pub(crate) fn takes_events(&self, id: ExchangeId) -> bool {
        let exchange = self.exchanges.get(&id);
        exchange.is_some_and(|exchange| exchange.takes_events)
    }

    /// True if the answer may still become one JSON object.
    pub(crate) fn takes_object(&self, id: ExchangeId) -> bool {
        let exchange = self.exchanges.get(&id);
        exchange.is_some_and(|exchange| exchange.takes_json && !exchange.is_stream)
    }

    /// Forgets a request without an output: its caller has left.
    pub(crate) fn forget(&mut self, id: ExchangeId) {
        self.take(id);
    }

    /// Lets the answer become a stream if it does not come soon.
    pub(crate) fn expect_answer(&mut self, now: Instant, id: ExchangeId) {
        if self.takes_events(id) && !self.is_stream(id) {
            self.timers.set(Timer::Exchange(id), now + JSON_WAIT);
        }
    }

    /// Answers with a head alone.
    pub(crate) fn empty(&mut self, id: ExchangeId, status: u16) {
        let head = ResponseHead {
            status,
            ..ResponseHead::default()
        };
        if self.take(id).is_some() {
            self.outputs.push_back(Output::Head(id, head));
            self.outputs.push_back(Output::Done(id));
        }
    }

    /// Answers a request with its response: one JSON object, or the last event of a stream.
    pub(crate) fn answer(&mut self, now: Instant, id: ExchangeId, status: u16, line: Line) {
        match self.takes_object(id) || (status != 200 && !self.is_stream(id)) {
            true => self.object(id, head_of(status), line),
            false => {
                self.event(now, id, None, &line);
                self.finish(id);
            }
        }
    }

    /// Answers `initialize` of a legacy caller: its session is in the head, so the answer is one JSON object.
    pub(crate) fn answer_initialize(&mut self, id: ExchangeId, session: SessionKey, line: Line) {
        let head = ResponseHead {
            session: Some(session),
            ..head_of(200)
        };
        self.object(id, head, line);
    }

    /// Answers with an error of the bridge's own; `request` is the raw id of the message.
    pub(crate) fn refuse(
        &mut self,
        now: Instant,
        id: ExchangeId,
        era: Era,
        error: &BridgeError,
        request: Option<&str>,
    ) {
        let line = error.line(era, request);
        if self.is_stream(id) {
            return self.answer(now, id, 200, line);
        }
        let head = ResponseHead {
            retry_after_s: error.retry_after().map(whole_seconds),
            allow: matches!(error, BridgeError::HttpMethod).then_some(ALLOWED),
            ..head_of(error.status(era))
        };
        self.object(id, head, line);
    }

    /// Makes the answer a stream of events, if it is none.
    pub(crate) fn open(&mut self, now: Instant, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(&id) else {
            return;
        };
        if std::mem::replace(&mut exchange.is_stream, true) {
            return;
        }
        let head = ResponseHead {
            status: 200,
            content_type: Some(sse::CONTENT_TYPE),
            is_stream: true,
            ..ResponseHead::default()
        };
        self.outputs.push_back(Output::Head(id, head));
        self.timers.set(Timer::Exchange(id), now + COMMENT_INTERVAL);
    }

    /// Sends an event, and makes the answer a stream before, if it is none.
    pub(crate) fn event(
        &mut self,
        now: Instant,
        id: ExchangeId,
        event: Option<EventId>,
        line: &Line,
    ) {
        self.open(now, id);
        self.body(now, id, sse::event(event, line));
    }

    /// Sends an event without content, from whose id a caller can go on.
    pub(crate) fn prime(&mut self, now: Instant, id: ExchangeId, event: EventId) {
        self.body(now, id, vec![sse::prime(event, None)]);
    }

    /// Sends a comment, so that the connection is not quiet.
    pub(crate) fn comment(&mut self, now: Instant, id: ExchangeId) {
        self.body(now, id, vec![sse::keep_alive()]);
    }

    /// Ends the answer in order; one that has not begun is an empty one.
    pub(crate) fn finish(&mut self, id: ExchangeId) {
        if !self.is_stream(id) {
            return self.empty(id, 202);
        }
        if self.take(id).is_some() {
            self.outputs.push_back(Output::Done(id));
        }
    }

    /// Breaks the answer off.
    pub(crate) fn break_off(&mut self, id: ExchangeId) {
        if self.take(id).is_some() {
            self.outputs.push_back(Output::Broken(id));
        }
    }

    /// Sends a line to a child.
    pub(crate) fn write(&mut self, child: ChildId, line: Line) {
        self.outputs.push_back(Output::Write(child, line));
    }

    /// Adds an output that concerns a child.
    pub(crate) fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    /// Sets the moment at which `timer` wakes up.
    pub(crate) fn wake(&mut self, timer: Timer, at: Instant) {
        self.timers.set(timer, at);
    }

    /// Forgets the moment of `timer`.
    pub(crate) fn let_sleep(&mut self, timer: Timer) {
        self.timers.clear(timer);
    }

    /// Takes a timer whose moment has come.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Timer> {
        self.timers.due(now)
    }

    /// The first moment to wake up.
    pub(crate) fn first_moment(&self) -> Option<Instant> {
        self.timers.first()
    }

    /// Takes the next output.
    pub(crate) fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn take(&mut self, id: ExchangeId) -> Option<Exchange> {
        self.timers.clear(Timer::Exchange(id));
        self.exchanges.remove(&id)
    }

    fn object(&mut self, id: ExchangeId, head: ResponseHead, line: Line) {
        if self.take(id).is_some() {
            self.outputs.push_back(Output::Head(id, head));
            self.outputs.push_back(Output::Body(id, line.into_pieces()));
            self.outputs.push_back(Output::Done(id));
        }
    }

    fn body(&mut self, now: Instant, id: ExchangeId, pieces: Vec<Bytes>) {
        if self.is_stream(id) {
            self.outputs.push_back(Output::Body(id, pieces));
            self.timers.set(Timer::Exchange(id), now + COMMENT_INTERVAL);
        }
    }
}

/// Head of an answer that is one JSON object.
fn head_of(status: u16) -> ResponseHead {
    ResponseHead {
        status,
        content_type: Some(JSON),
        ..ResponseHead::default()
    }
}

/// A time in whole seconds, at least one.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0 || time.as_secs() == 0)
}
