//! A session of a legacy caller: its streams, the events that can be replayed, and the requests that it owes answers
//! to.
//!
//! A stream outlives its connection: what comes for it meanwhile waits for a GET with `Last-Event-ID`. Stream 0 belongs
//! to GET requests; each POST of a request has a stream of its own, whose last event is the answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::client::Client;
use crate::gathering::Gathering;
use crate::ids::{Caller, ChildId, ExchangeId, SessionKey, SessionNumber};
use crate::message::Line;
use crate::outside::{Outside, Place};
use crate::replay::Replay;
use crate::settings::CALLS_MAX;
use crate::sse::EventId;

/// The stream of GET requests.
pub(crate) const GET_STREAM: u64 = 0;

/// First version whose clients know events without content (2025-11-25/basic/transports.mdx, Sending Messages to the Server).
const PRIMED_SINCE: &str = "2025-11-25";

/// A session of a legacy caller.
#[derive(Debug)]
pub(crate) struct Session {
    number: SessionNumber,
    pub(crate) key: SessionKey,
    pub(crate) caller: Caller,
    pub(crate) child: ChildId,
    pub(crate) client: Client,
    /// The raw log level that the caller has set, which each call of a modern child must name.
    pub(crate) log_level: Option<Box<str>>,
    /// The call of a modern child that reports changes for this session.
    pub(crate) listening: Option<u64>,
    /// Resources of a modern child whose changes the caller wants to hear of.
    pub(crate) uris: BTreeSet<String>,
    /// Calls that wait for input of the caller, by their stream.
    pub(crate) gatherings: BTreeMap<u64, Gathering>,
    /// When the caller last sent something.
    pub(crate) used: Instant,
    is_primed: bool,
    streams: BTreeMap<u64, Stream>,
    next_stream: u64,
    replay: Replay,
    asked: BTreeMap<u64, Asked>,
    next_asked: u64,
}

/// One stream of events.
#[derive(Debug, Default)]
struct Stream {
    /// The connection that carries it now.
    exchange: Option<ExchangeId>,
    /// Number of its latest event.
    events: u64,
    /// Number of the latest event that went to a connection.
    sent: u64,
    /// True if the caller knows the id of an event, from which it can go on.
    is_resumable: bool,
}

/// A request to the caller that waits for its answer.
#[derive(Debug)]
pub(crate) enum Asked {
    /// The child has sent it, with this raw id.
    Child(Box<str>),
    /// It is an input that the call on this stream needs, by its place among the inputs.
    Input(u64, usize),
}

impl Session {
    /// A session that has just begun, in which the caller speaks `version`.
    pub(crate) fn new(
        now: Instant,
        number: SessionNumber,
        key: SessionKey,
        caller: Caller,
        child: ChildId,
        client: Client,
        version: &str,
    ) -> Self {
        Self {
            number,
            key,
            caller,
            child,
            client,
            log_level: None,
            listening: None,
            uris: BTreeSet::new(),
            gatherings: BTreeMap::new(),
            used: now,
            is_primed: version >= PRIMED_SINCE,
            streams: BTreeMap::from([(GET_STREAM, Stream::default())]),
            next_stream: GET_STREAM + 1,
            replay: Replay::default(),
            asked: BTreeMap::new(),
            next_asked: 1,
        }
    }

    /// The number of the session in its bridge.
    pub(crate) const fn number(&self) -> SessionNumber {
        self.number
    }

    /// True if a connection is open, or an answer is still to come.
    pub(crate) fn is_busy(&self) -> bool {
        let is_open = |stream: &Stream| stream.exchange.is_some();
        self.streams.len() > 1 || self.streams.values().any(is_open)
    }

    /// Begins the stream of a request that came with `exchange`.
    pub(crate) fn begin(&mut self, exchange: ExchangeId) -> u64 {
        let number = self.next_stream;
        self.next_stream += 1;
        let stream = Stream {
            exchange: Some(exchange),
            ..Stream::default()
        };
        self.streams.insert(number, stream);
        number
    }

    /// Makes the answer on this stream's connection a stream of events.
    pub(crate) fn open(&mut self, now: Instant, outside: &mut Outside, number: u64) {
        let Some(stream) = self.streams.get_mut(&number) else {
            return;
        };
        let Some(exchange) = stream.exchange.filter(|id| !outside.is_stream(*id)) else {
            return;
        };
        outside.open(now, exchange);
        if self.is_primed {
            stream.prime(now, outside, number);
        }
    }

    /// Sends an event on a stream, or keeps it for a caller that comes back; without a way to the caller it is dropped.
    pub(crate) fn send(&mut self, now: Instant, outside: &mut Outside, number: u64, line: Line) {
        let takes = |id: &ExchangeId| outside.takes_events(*id);
        let Some(stream) = self.streams.get(&number) else {
            return;
        };
        let connection = stream.exchange.filter(takes);
        if connection.is_none() && number != GET_STREAM && !stream.is_resumable {
            return;
        }
        self.open(now, outside, number);
        let Some(stream) = self.streams.get_mut(&number) else {
            return;
        };
        stream.events += 1;
        let event = EventId {
            stream: number,
            number: stream.events,
        };
        if let Some(exchange) = connection {
            outside.event(now, exchange, Some(event), &line);
            stream.sent = stream.events;
            stream.is_resumable = true;
        }
        self.replay.push(event, line);
    }

    /// Ends the stream of a request with its answer.
    pub(crate) fn answer(&mut self, now: Instant, outside: &mut Outside, number: u64, line: Line) {
        let Some(stream) = self.streams.get(&number) else {
            return;
        };
        let connection = stream.exchange;
        match connection {
            Some(exchange) if outside.takes_object(exchange) => {
                outside.answer(now, exchange, 200, line);
            }
            _ => {
                self.send(now, outside, number, line);
                if let Some(exchange) = connection {
                    outside.finish(exchange);
                }
            }
        }
        self.streams.remove(&number);
    }

    /// The stream for what belongs to no call: that of a GET, else that of the latest request, else it waits for a GET.
    pub(crate) fn side_stream(&self, outside: &Outside) -> u64 {
        if self.is_listening() {
            return GET_STREAM;
        }
        let takes = |id: ExchangeId| outside.takes_events(id);
        let mut open = self.streams.iter().rev();
        let latest = open.find(|(_, stream)| stream.exchange.is_some_and(takes));
        latest.map_or(GET_STREAM, |(number, _)| *number)
    }

    /// True if the caller would hear at once of what belongs to no call.
    pub(crate) fn hears(&self, outside: &Outside) -> bool {
        self.is_listening() || self.side_stream(outside) != GET_STREAM
    }

    /// True if the caller waits for answers, takes each of them as one object only, and has no stream open: a request to
    /// it would not reach it.
    pub(crate) fn is_deaf(&self, outside: &Outside) -> bool {
        let mut waiting = self
            .streams
            .values()
            .filter_map(|it| it.exchange)
            .peekable();
        waiting.peek().is_some() && waiting.all(|exchange| !outside.takes_events(exchange))
    }

    /// True if the answer on this stream must be one object, so that no request to the caller fits into it.
    pub(crate) fn takes_object_only(&self, outside: &Outside, number: u64) -> bool {
        let exchange = self.streams.get(&number).and_then(|it| it.exchange);
        exchange.is_some_and(|exchange| !outside.takes_events(exchange))
    }

    /// Takes a GET: goes on with the stream of the event `last`, or else with the stream of GET requests.
    pub(crate) fn listen(
        &mut self,
        now: Instant,
        outside: &mut Outside,
        exchange: ExchangeId,
        last: Option<EventId>,
    ) {
        let is_known = |last: &EventId| {
            self.streams.contains_key(&last.stream) || !self.replay.after(*last).is_empty()
        };
        let sent = self
            .streams
            .get(&GET_STREAM)
            .map_or(0, |stream| stream.sent);
        let now_on = EventId {
            stream: GET_STREAM,
            number: sent,
        };
        let from = last.filter(is_known).unwrap_or(now_on);
        outside.open(now, exchange);
        for (event, line) in self.replay.after(from) {
            outside.event(now, exchange, Some(event), &line);
        }
        let Some(stream) = self.streams.get_mut(&from.stream) else {
            // The answer was the last event.
            return outside.finish(exchange);
        };
        if let Some(former) = stream.exchange.replace(exchange) {
            outside.finish(former);
        }
        stream.sent = stream.events;
        stream.is_resumable = true;
        outside.set_place(exchange, Place::Stream(self.number, from.stream));
        if self.is_primed {
            stream.prime(now, outside, from.stream);
        }
    }

    /// Notes that the connection of a stream is gone.
    pub(crate) fn left(&mut self, number: u64, exchange: ExchangeId) {
        if let Some(stream) = self.streams.get_mut(&number)
            && stream.exchange == Some(exchange)
        {
            stream.exchange = None;
        }
    }

    /// Notes a request to the caller, and returns the id that it is to have; `None` if the caller owes too many
    /// answers.
    pub(crate) fn ask(&mut self, asked: Asked) -> Option<u64> {
        if self.asked.len() >= CALLS_MAX {
            return None;
        }
        let number = self.next_asked;
        self.next_asked += 1;
        self.asked.insert(number, asked);
        Some(number)
    }

    /// Takes the request that the caller answers with this raw id.
    pub(crate) fn answered(&mut self, id: &str) -> Option<Asked> {
        self.asked.remove(&id.parse().ok()?)
    }

    /// Takes the request that the child has taken back, by its raw id at the child; returns its id at the caller.
    pub(crate) fn withdrawn(&mut self, id: &str) -> Option<u64> {
        let is_it = |asked: &Asked| matches!(asked, Asked::Child(known) if **known == *id);
        let found = self.asked.iter().find(|(_, asked)| is_it(asked));
        let number = *found?.0;
        self.asked.remove(&number);
        Some(number)
    }

    /// Forgets the call with this raw id that waits for input; returns its stream.
    pub(crate) fn stop_gathering(&mut self, id: &str) -> Option<u64> {
        let is_it = |gathering: &Gathering| gathering.id() == id;
        let found = self
            .gatherings
            .iter()
            .find(|(_, gathering)| is_it(gathering));
        let stream = *found?.0;
        self.gatherings.remove(&stream);
        Some(stream)
    }

    /// Raw ids at the child of the requests that the caller has not answered.
    pub(crate) fn owed(&self) -> Vec<Box<str>> {
        let of_child = |asked: &Asked| match asked {
            Asked::Child(id) => Some(id.clone()),
            Asked::Input(..) => None,
        };
        self.asked.values().filter_map(of_child).collect()
    }

    /// Ends the connections that are left.
    pub(crate) fn close(self, outside: &mut Outside) {
        for stream in self.streams.into_values() {
            if let Some(exchange) = stream.exchange {
                outside.finish(exchange);
            }
        }
    }

    fn is_listening(&self) -> bool {
        let stream = self.streams.get(&GET_STREAM);
        stream.is_some_and(|stream| stream.exchange.is_some())
    }
}

impl Stream {
    /// Sends an event without content on the connection of this stream.
    fn prime(&mut self, now: Instant, outside: &mut Outside, number: u64) {
        let Some(exchange) = self.exchange else {
            return;
        };
        self.events += 1;
        self.sent = self.events;
        self.is_resumable = true;
        let event = EventId {
            stream: number,
            number: self.events,
        };
        outside.prime(now, exchange, event);
    }
}
