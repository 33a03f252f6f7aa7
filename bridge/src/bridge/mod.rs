//! The bridge between HTTP requests of callers and lines of children.
//!
//! Call order for a driver: hand in what has happened with [`Bridge::request`], [`Bridge::caller_left`],
//! [`Bridge::line`] and [`Bridge::child_ended`], and at [`Bridge::poll_timeout`] call [`Bridge::handle_timeout`]; after
//! each of these take the outputs with [`Bridge::poll_output`] until there is none, and carry them out in this order.
//!
//! `arrivals` takes HTTP requests and hands them to `legacy` or `modern`; `starts` finds a child for them, or starts
//! one; `heard` takes the lines of children, of which `asked` handles the requests; `gathering` and `rounds` carry
//! input of callers; `ends` ends sessions and children.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use crate::child::Child;
use crate::headers::Era;
use crate::ids::{ChildId, ExchangeId, Random, SessionKey, SessionNumber};
use crate::outside::{Outside, Place, Timer};
use crate::restarts::Restarts;
use crate::session::Session;
use crate::settings::Settings;
use crate::subscriptions::Subscriber;
use crate::surface::{Output, State};

mod arrivals;
mod asked;
mod ends;
mod gathering;
mod heard;
mod legacy;
mod modern;
mod rounds;
mod starts;

/// The bridge to the children of one target.
pub struct Bridge {
    settings: Settings,
    random: Random,
    outside: Outside,
    children: BTreeMap<ChildId, Child>,
    /// Children that were told to end and have not.
    ending: BTreeSet<ChildId>,
    next_child: u64,
    sessions: BTreeMap<SessionNumber, Session>,
    session_keys: HashMap<SessionKey, SessionNumber>,
    next_session: u64,
    restarts: Restarts,
    /// The era that the latest child to open speaks.
    era: Option<Era>,
    tally: Tally,
    is_stopped: bool,
}

/// What is counted for [`State`].
#[derive(Debug, Default)]
struct Tally {
    starts: u64,
    ends: u64,
    last_end: Option<String>,
    strays: u64,
    unmatched: u64,
}

impl Bridge {
    /// A bridge without children; `random` fills memory with random bytes, from which session keys are made.
    #[must_use]
    pub fn new(settings: Settings, random: Random) -> Self {
        Self {
            settings,
            random,
            outside: Outside::new(),
            children: BTreeMap::new(),
            ending: BTreeSet::new(),
            next_child: 1,
            sessions: BTreeMap::new(),
            session_keys: HashMap::new(),
            next_session: 1,
            restarts: Restarts::default(),
            era: None,
            tally: Tally::default(),
            is_stopped: false,
        }
    }

    /// The next thing to do, in the order in which the driver must do them.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outside.poll()
    }

    /// When to call [`Self::handle_timeout`]; may change with each call.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.outside.first_moment()
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.outside.due(now) {
            match timer {
                Timer::Exchange(exchange) => self.quiet(now, exchange),
                Timer::Child(child) => self.child_waits(now, child),
                Timer::Session(session) => self.session_waits(now, session),
                Timer::Parked(child, number) => self.input_missing(child, number),
            }
        }
    }

    /// Takes that the connection of a request is gone before its answer was complete.
    pub fn caller_left(&mut self, now: Instant, exchange: ExchangeId) {
        let place = self.outside.place(exchange);
        self.outside.forget(exchange);
        match place {
            Some(Place::Waiting(child)) => {
                if let Some(child) = self.children.get_mut(&child) {
                    child.waits_no_more(exchange);
                }
            }
            Some(Place::Stream(number, stream)) => {
                if let Some(session) = self.sessions.get_mut(&number) {
                    session.left(stream, exchange);
                    session.used = now;
                }
            }
            Some(Place::Call(child, number)) => self.cancel(child, number, "the caller has left"),
            Some(Place::Listener(child)) => self.leave(child, Subscriber::Listener(exchange)),
            None => {}
        }
    }

    /// What the bridge can tell of itself.
    #[must_use]
    pub fn state(&self, now: Instant) -> State {
        let children = || self.children.values();
        State {
            children: self.children.len(),
            starting: children()
                .filter(|child| child.greeting().is_none())
                .count(),
            sessions: self.sessions.len(),
            calls: children().map(Child::callers_calls).sum(),
            parked: children().map(Child::parked_calls).sum(),
            era: self.era,
            starts: self.tally.starts,
            ends: self.tally.ends,
            failed_since: self.restarts.failed_since(now),
            last_end: self.tally.last_end.clone(),
            strays: self.tally.strays,
            unmatched: self.tally.unmatched,
        }
    }

    /// An answer has been quiet: its stream begins, or gets a comment.
    fn quiet(&mut self, now: Instant, exchange: ExchangeId) {
        if self.outside.is_stream(exchange) {
            return self.outside.comment(now, exchange);
        }
        match self.outside.place(exchange) {
            Some(Place::Stream(number, stream)) => {
                if let Some(session) = self.sessions.get_mut(&number) {
                    session.open(now, &mut self.outside, stream);
                }
            }
            _ => self.outside.open(now, exchange),
        }
    }
}
