//! One request that a child has not answered yet.

use crate::client::Client;
use crate::gathering::Gathered;
use crate::headers::{Era, META_LOG_LEVEL};
use crate::ids::{Caller, ExchangeId, SessionNumber};
use crate::message::Message;
use crate::names::{log_rank, takes_input};
use crate::rounds::{Parked, Question};
use crate::start::Probe;

/// A request that a child has not answered yet.
#[derive(Debug)]
pub(crate) struct Call {
    /// The caller's raw id.
    pub(crate) id: Box<str>,
    /// The caller's raw progress token.
    pub(crate) token: Option<Box<str>>,
    /// The method.
    pub(crate) method: Box<str>,
    /// Where the request comes from.
    pub(crate) origin: Origin,
}

/// Where a call comes from, and where its answer goes.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A session of a legacy caller.
    Session(SessionCall),
    /// A modern caller.
    Modern(Box<ModernCall>),
    /// The bridge.
    Own(Own),
}

/// A call in a session.
#[derive(Debug)]
pub(crate) struct SessionCall {
    /// The session.
    pub(crate) session: SessionNumber,
    /// The stream of the session that ends with the answer.
    pub(crate) stream: u64,
    /// What a repetition needs, if a modern child may ask for input.
    pub(crate) again: Option<Box<Gathered>>,
}

/// A call of a modern caller.
#[derive(Debug)]
pub(crate) struct ModernCall {
    /// The HTTP request that waits; `None` while the caller gathers input.
    pub(crate) exchange: Option<ExchangeId>,
    /// The caller.
    pub(crate) caller: Caller,
    /// What the caller says of its program.
    pub(crate) client: Client,
    /// Rank of the lowest level of log messages that the caller asks for.
    pub(crate) log_rank: Option<usize>,
    /// What is asked, if a legacy child may ask for input.
    pub(crate) question: Option<Question>,
    /// The requests of the child that the caller has been told of.
    pub(crate) parked: Option<Parked>,
}

/// A request of the bridge's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    /// One of the two first requests.
    Probe(Probe),
    /// `subscriptions/listen` at a modern child for a legacy session.
    Listen(SessionNumber),
    /// A request whose answer changes nothing.
    Aside,
}

impl Call {
    /// The call that `message` makes.
    pub(crate) fn new(message: &Message, origin: Origin) -> Self {
        Self {
            id: message.id().unwrap_or("null").into(),
            token: message.progress_token().map(Box::from),
            method: message.method().unwrap_or_default().into(),
            origin,
        }
    }

    /// A call of the bridge's own.
    pub(crate) fn own(own: Own) -> Self {
        Self {
            id: "null".into(),
            token: None,
            method: Box::default(),
            origin: Origin::Own(own),
        }
    }

    /// True if it is a call of a caller.
    pub(crate) const fn is_callers(&self) -> bool {
        !matches!(self.origin, Origin::Own(_))
    }

    /// The call as one of a modern caller, if it is one.
    pub(crate) fn modern(&self) -> Option<&ModernCall> {
        match &self.origin {
            Origin::Modern(modern) => Some(modern.as_ref()),
            _ => None,
        }
    }

    /// The call as one of a modern caller, if it is one.
    pub(crate) fn modern_mut(&mut self) -> Option<&mut ModernCall> {
        match &mut self.origin {
            Origin::Modern(modern) => Some(modern.as_mut()),
            _ => None,
        }
    }

    /// The session that the call belongs to, if it belongs to one.
    pub(crate) const fn session(&self) -> Option<SessionNumber> {
        match &self.origin {
            Origin::Session(call) => Some(call.session),
            Origin::Own(Own::Listen(session)) => Some(*session),
            _ => None,
        }
    }

    /// True while the caller of a modern call gathers input.
    pub(crate) fn is_parked(&self) -> bool {
        self.modern()
            .is_some_and(|modern| modern.exchange.is_none())
    }
}

impl ModernCall {
    /// The call that `message` of `caller` makes with `exchange` at a child of this era.
    pub(crate) fn new(exchange: ExchangeId, caller: Caller, message: &Message, era: Era) -> Self {
        let method = message.method().unwrap_or_default();
        let may_ask = era == Era::Legacy && takes_input(method);
        Self {
            exchange: Some(exchange),
            caller,
            client: Client::of_meta(message),
            log_rank: message.meta(META_LOG_LEVEL).and_then(log_rank),
            question: may_ask.then(|| Question::of(message)),
            parked: None,
        }
    }

    /// True if the caller asks for log messages of this raw level.
    pub(crate) fn wants_log(&self, level: &str) -> bool {
        let lowest = self.log_rank;
        lowest.is_some_and(|lowest| log_rank(level).is_some_and(|rank| rank >= lowest))
    }
}
