//! What the bridge knows of one child: who may use it, how far its start is, and its calls under way.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::call::{Call, Origin, Own};
use crate::error::BridgeError;
use crate::greeting::Greeting;
use crate::headers::Era;
use crate::ids::{Caller, ExchangeId, SessionNumber};
use crate::message::{Line, Message};
use crate::modern::LISTEN;
use crate::settings::{CALLS_MAX, WAITING_BYTES_MAX, WAITING_MAX};
use crate::start::{Opening, Probe, Step};
use crate::subscriptions::Subscribers;

/// The callers that a child may serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChildKey {
    /// One session.
    Session,
    /// The sessions of this caller.
    Caller(Caller),
    /// The modern requests of this caller with these raw capabilities.
    Client(Caller, Box<str>),
    /// All callers.
    All,
}

/// A request that waits until its child can serve it.
#[derive(Debug)]
pub(crate) struct Waiter {
    /// The HTTP request.
    pub(crate) exchange: ExchangeId,
    /// The caller.
    pub(crate) caller: Caller,
    /// The era of the caller.
    pub(crate) era: Era,
    /// `initialize` of a legacy caller, or any request of a modern one.
    pub(crate) message: Message,
}

/// One child.
#[derive(Debug)]
pub(crate) struct Child {
    /// The callers that it may serve.
    pub(crate) key: ChildKey,
    /// When it was started.
    pub(crate) started: Instant,
    /// When a caller last used it.
    pub(crate) used: Instant,
    /// Rank of the level that it sends log messages of, if the bridge has set one.
    pub(crate) log_rank: Option<usize>,
    /// True once it was told that the handshake is complete.
    pub(crate) is_initialized: bool,
    /// The callers that want to hear of changes.
    pub(crate) subscribers: Subscribers,
    served: Served,
    stage: Stage,
    waiters: VecDeque<Waiter>,
    calls: BTreeMap<u64, Call>,
    next_number: u64,
}

/// The callers that a child has served.
#[derive(Debug)]
enum Served {
    Nobody,
    One(Caller),
    Several,
}

/// How far the start of a child is.
#[derive(Debug)]
enum Stage {
    Opening(Box<Opening>),
    Open(Greeting),
}

/// The caller that a request of a child is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Addressee {
    /// The caller of this modern call.
    Call(u64),
    /// The caller of this session.
    Session(SessionNumber),
}

impl Child {
    /// A child that was just started.
    pub(crate) fn new(now: Instant, key: ChildKey, opening: Box<Opening>) -> Self {
        Self {
            key,
            started: now,
            used: now,
            log_rank: None,
            is_initialized: false,
            subscribers: Subscribers::default(),
            served: Served::Nobody,
            stage: Stage::Opening(opening),
            waiters: VecDeque::new(),
            calls: BTreeMap::new(),
            next_number: 1,
        }
    }

    /// Notes that the child serves this caller.
    pub(crate) fn serves(&mut self, caller: &Caller) {
        match &self.served {
            Served::Nobody => self.served = Served::One(caller.clone()),
            Served::One(one) if one != caller => self.served = Served::Several,
            Served::One(_) | Served::Several => {}
        }
    }

    /// True once the child has served several callers: what it says of no call can then be for any of them.
    pub(crate) const fn has_served_several(&self) -> bool {
        matches!(self.served, Served::Several)
    }

    /// What is to be done next for its start; `None` once it is open.
    pub(crate) fn step(&self, now: Instant) -> Option<Step> {
        match &self.stage {
            Stage::Opening(opening) => Some(opening.step(now)),
            Stage::Open(_) => None,
        }
    }

    /// The line of one of the first requests; `None` once the child is open.
    pub(crate) fn probe(&mut self, now: Instant, probe: Probe) -> Option<Line> {
        let number = self.begin_own(Own::Probe(probe));
        match &mut self.stage {
            Stage::Opening(opening) => Some(opening.send(now, probe, number)),
            Stage::Open(_) => None,
        }
    }

    /// Takes the answer to one of the first requests.
    pub(crate) fn probed(&mut self, now: Instant, probe: Probe, answer: &Message) {
        if let Stage::Opening(opening) = &mut self.stage {
            let outcome = match (answer.result(), answer.error()) {
                (Some(result), _) => Ok(result),
                (None, error) => Err(error.unwrap_or("{}")),
            };
            opening.answered(now, probe, outcome);
        }
    }

    /// Counts the child as open; returns its era, and true if the bridge has begun the handshake in its own name.
    pub(crate) fn open(&mut self) -> Option<(Era, bool)> {
        let Stage::Opening(opening) = &mut self.stage else {
            return None;
        };
        let (is_own, greeting) = (!opening.is_forwarded(), opening.finish()?);
        let era = greeting.era();
        self.stage = Stage::Open(greeting);
        Some((era, is_own))
    }

    /// What it has said of itself, once it is open.
    pub(crate) const fn greeting(&self) -> Option<&Greeting> {
        match &self.stage {
            Stage::Open(greeting) => Some(greeting),
            Stage::Opening(_) => None,
        }
    }

    /// The era that it speaks, once it is open.
    pub(crate) fn era(&self) -> Option<Era> {
        self.greeting().map(Greeting::era)
    }

    /// Fails if too many requests wait for the child to open.
    pub(crate) fn can_wait(&self, waiter: &Waiter) -> Result<(), BridgeError> {
        let len = |waiter: &Waiter| waiter.message.text().len();
        let bytes: usize = self.waiters.iter().map(len).sum();
        match self.waiters.len() < WAITING_MAX && bytes + len(waiter) <= WAITING_BYTES_MAX {
            true => Ok(()),
            false => Err(BridgeError::Overloaded {
                what: "requests that wait for the server to start",
            }),
        }
    }

    /// Keeps a request until the child is open.
    pub(crate) fn wait(&mut self, waiter: Waiter) {
        self.waiters.push_back(waiter);
    }

    /// Forgets a request that waits.
    pub(crate) fn waits_no_more(&mut self, exchange: ExchangeId) {
        self.waiters.retain(|waiter| waiter.exchange != exchange);
    }

    /// Takes the requests that wait.
    pub(crate) fn take_waiters(&mut self) -> VecDeque<Waiter> {
        std::mem::take(&mut self.waiters)
    }

    /// Fails if there are too many calls under way.
    pub(crate) fn has_room(&self) -> Result<(), BridgeError> {
        match self.calls.len() < CALLS_MAX {
            true => Ok(()),
            false => Err(BridgeError::Overloaded {
                what: "calls under way at the server",
            }),
        }
    }

    /// Begins a call, and returns the number by which the child knows it.
    pub(crate) fn begin(&mut self, call: Call) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.calls.insert(number, call);
        number
    }

    /// Begins a call of the bridge's own.
    pub(crate) fn begin_own(&mut self, own: Own) -> u64 {
        self.begin(Call::own(own))
    }

    /// Takes a call.
    pub(crate) fn end(&mut self, number: u64) -> Option<Call> {
        self.calls.remove(&number)
    }

    /// Puts a call back that is not over.
    pub(crate) fn keep(&mut self, number: u64, call: Call) {
        self.calls.insert(number, call);
    }

    /// A call under way.
    pub(crate) fn call(&self, number: u64) -> Option<&Call> {
        self.calls.get(&number)
    }

    /// A call under way.
    pub(crate) fn call_mut(&mut self, number: u64) -> Option<&mut Call> {
        self.calls.get_mut(&number)
    }

    /// The calls under way, in the order of their begin.
    pub(crate) fn calls(&self) -> impl DoubleEndedIterator<Item = (u64, &Call)> {
        self.calls.iter().map(|(number, call)| (*number, call))
    }

    /// Takes all calls.
    pub(crate) fn take_calls(&mut self) -> BTreeMap<u64, Call> {
        std::mem::take(&mut self.calls)
    }

    /// The call of a session with this raw id of the caller.
    pub(crate) fn call_of(&self, session: SessionNumber, id: &str) -> Option<u64> {
        let is_it =
            |call: &Call| call.is_callers() && call.session() == Some(session) && *call.id == *id;
        let found = self.calls().rev().find(|(_, call)| is_it(call));
        found.map(|(number, _)| number)
    }

    /// The calls of callers that do not wait for input, from the latest on. A subscription is none: what a child says
    /// beside the changes does not belong to it (logging.mdx, Per-request log level).
    pub(crate) fn working_calls(&self) -> impl Iterator<Item = &Call> {
        let is_it =
            |call: &&Call| call.is_callers() && !call.is_parked() && &*call.method != LISTEN;
        self.calls.values().rev().filter(is_it)
    }

    /// The caller that a request of the child is likely for: that of the latest call whose caller can be asked, else
    /// that of the latest call that waits for input already.
    pub(crate) fn addressee(&self) -> Option<Addressee> {
        let askable = |number: u64, call: &Call| match &call.origin {
            Origin::Session(at) => Some(Addressee::Session(at.session)),
            Origin::Modern(modern) => modern.question.map(|_| Addressee::Call(number)),
            Origin::Own(_) => None,
        };
        let (mut latest, mut parked) = (None, None);
        for (number, call) in self.calls() {
            match call.is_parked() {
                true => parked = askable(number, call).or(parked),
                false => latest = askable(number, call).or(latest),
            }
        }
        latest.or(parked)
    }

    /// Forgets a request of the child that waits for input, by its raw id; true if there was one.
    pub(crate) fn withdraw(&mut self, request: &str) -> bool {
        for call in self.calls.values_mut() {
            let Some(parked) = call.modern_mut().and_then(|modern| modern.parked.as_mut()) else {
                continue;
            };
            let is_it = |known: &Message| known.id() == Some(request);
            if let Some(place) = parked.requests.iter().position(is_it) {
                parked.requests.remove(place);
                return true;
            }
        }
        false
    }

    /// Number of calls of callers.
    pub(crate) fn callers_calls(&self) -> usize {
        self.calls.values().filter(|call| call.is_callers()).count()
    }

    /// Number of calls that wait for input.
    pub(crate) fn parked_calls(&self) -> usize {
        self.calls.values().filter(|call| call.is_parked()).count()
    }

    /// True if no caller waits for it or listens to it.
    pub(crate) fn is_unused(&self) -> bool {
        self.waiters.is_empty() && self.subscribers.is_quiet() && self.callers_calls() == 0
    }
}
