//! Messages of legacy callers: sessions, and what the era of the child makes of each message.

use std::time::Instant;

use super::Bridge;
use super::arrivals::stopping;
use crate::call::{Call, Origin, Own, SessionCall};
use crate::child::{ChildKey, Waiter};
use crate::client::Client;
use crate::error::{BridgeError, INTERNAL_ERROR, error_line};
use crate::gathering::{Gathered, for_modern_child};
use crate::greeting::Lists;
use crate::headers::{Era, RequestHead};
use crate::ids::{Caller, ChildId, ExchangeId, SessionKey, SessionNumber};
use crate::json::Object;
use crate::message::{Kind, Message, raw};
use crate::modern::{LISTEN, for_same_era};
use crate::names::{log_rank, takes_input};
use crate::outside::{Place, Timer};
use crate::own;
use crate::session::{Asked, Session};
use crate::settings::SESSIONS_MAX;
use crate::subscriptions::{RESOURCES_MAX, Subscriber, filter, resource};

/// Result of a request that only changes something.
const EMPTY: &str = "{}";

impl Bridge {
    /// Takes a message of a legacy caller.
    pub(super) fn legacy_post(
        &mut self,
        now: Instant,
        exchange: ExchangeId,
        head: &RequestHead,
        caller: Caller,
        message: Message,
    ) -> Result<(), BridgeError> {
        if message.kind() == Kind::Request && message.method() == Some("initialize") {
            let waiter = Waiter {
                exchange,
                caller,
                era: Era::Legacy,
                message,
            };
            self.seek(now, waiter);
            return Ok(());
        }
        let number = self.session_of(now, head, &caller)?;
        match message.kind() {
            Kind::Request => return self.legacy_request(now, exchange, number, &message),
            Kind::Notification => self.legacy_notification(now, number, &message),
            Kind::Response => self.legacy_response(now, number, &message),
        }
        self.outside.empty(exchange, 202);
        Ok(())
    }

    /// Answers `initialize` with what the child has said of itself, and begins a session.
    pub(super) fn begin_session(&mut self, now: Instant, id: ChildId, waiter: &Waiter) {
        let Some(child) = self.children.get(&id) else {
            return;
        };
        let Some(greeting) = child.greeting() else {
            return self.refuse(now, waiter, &stopping());
        };
        if self.sessions.len() >= SESSIONS_MAX {
            let is_useless = child.key == ChildKey::Session;
            self.refuse(now, waiter, &BridgeError::Overloaded { what: "sessions" });
            if is_useless {
                self.end_child(now, id, "there are too many sessions");
            }
            return;
        }
        let version = waiter.message.param("protocolVersion").and_then(raw::text);
        let (result, version) = greeting.initialize_result(version.as_deref());
        let key = SessionKey::new(&mut self.random);
        let number = SessionNumber(self.next_session);
        self.next_session += 1;
        let client = Client::of_initialize(&waiter.message);
        let caller = waiter.caller.clone();
        let session = Session::new(now, number, key.clone(), caller, id, client, &version);
        self.sessions.insert(number, session);
        self.session_keys.insert(key.clone(), number);
        self.outside
            .wake(Timer::Session(number), now + self.settings.idle);
        let line = own::response(waiter.message.id().unwrap_or("null"), result);
        self.outside.answer_initialize(waiter.exchange, key, line);
    }

    fn legacy_request(
        &mut self,
        now: Instant,
        exchange: ExchangeId,
        number: SessionNumber,
        message: &Message,
    ) -> Result<(), BridgeError> {
        let child = self.session_child(number)?;
        let era = self.children.get(&child).and_then(|child| child.era());
        let is_answered = match era {
            Some(Era::Modern) => self.answers_for_modern_child(now, number, message)?,
            _ => self.answers_for_legacy_child(child, number, message),
        };
        if is_answered {
            let line = own::response(message.id().unwrap_or("null"), EMPTY);
            self.outside.answer(now, exchange, 200, line);
            return Ok(());
        }
        let (Some(session), Some(child_state)) = (
            self.sessions.get_mut(&number),
            self.children.get_mut(&child),
        ) else {
            return Err(BridgeError::UnknownSession);
        };
        child_state.has_room()?;
        let is_modern = era == Some(Era::Modern);
        let may_ask = is_modern && takes_input(message.method().unwrap_or_default());
        let stream = session.begin(exchange);
        let origin = Origin::Session(SessionCall {
            session: number,
            stream,
            again: may_ask.then(|| Box::new(Gathered::new(message))),
        });
        let call = child_state.begin(Call::new(message, origin));
        let line = match is_modern {
            true => {
                let level = session.log_level.as_deref();
                for_modern_child(message, call, &session.client, level).line()
            }
            false => for_same_era(message, call),
        };
        self.outside
            .set_place(exchange, Place::Stream(number, stream));
        self.outside.expect_answer(now, exchange);
        self.outside.write(child, line);
        Ok(())
    }

    /// Takes what a legacy child counts for several callers; true if it need not hear of the request.
    fn answers_for_legacy_child(
        &mut self,
        child: ChildId,
        number: SessionNumber,
        message: &Message,
    ) -> bool {
        let Some(child) = self.children.get_mut(&child) else {
            return false;
        };
        let subscriber = Subscriber::Session(number);
        match (message.method(), resource(message)) {
            // The first subscription of a session goes to the child even if another caller has one: the child may
            // refuse it.
            (Some("resources/subscribe"), Some(uri)) => {
                child.subscribers.subscribe(subscriber, &uri);
                false
            }
            (Some("resources/unsubscribe"), Some(uri)) => {
                !child.subscribers.unsubscribe(subscriber, &uri)
            }
            (Some("logging/setLevel"), _) => {
                child.log_rank = None;
                false
            }
            _ => false,
        }
    }

    /// Takes what the modern era has no request for; true if an empty result is the answer.
    fn answers_for_modern_child(
        &mut self,
        now: Instant,
        number: SessionNumber,
        message: &Message,
    ) -> Result<bool, BridgeError> {
        let Some(session) = self.sessions.get_mut(&number) else {
            return Err(BridgeError::UnknownSession);
        };
        match message.method() {
            Some("ping") => Ok(true),
            Some("logging/setLevel") => {
                let level = message
                    .param("level")
                    .filter(|level| log_rank(level).is_some());
                let level = level.ok_or_else(|| invalid("level is not a log level"))?;
                session.log_level = Some(level.into());
                Ok(true)
            }
            Some(method @ ("resources/subscribe" | "resources/unsubscribe")) => {
                let uri = resource(message).ok_or_else(|| invalid("uri is not a string"))?;
                let is_changed = match method {
                    "resources/unsubscribe" => session.uris.remove(&uri),
                    _ if session.uris.len() >= RESOURCES_MAX => {
                        return Err(invalid("the session has subscribed to too many resources"));
                    }
                    _ => session.uris.insert(uri),
                };
                if is_changed {
                    self.listen_for_session(now, number)?;
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn legacy_notification(&mut self, now: Instant, number: SessionNumber, message: &Message) {
        let Ok(id) = self.session_child(number) else {
            return;
        };
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        match (message.method(), child.era()) {
            (Some("notifications/cancelled"), _) => self.cancelled(now, number, message),
            (Some("notifications/initialized"), Some(Era::Modern)) => {
                // Without room for the call, the session does not hear of changes.
                let _ = self.listen_for_session(now, number);
            }
            (Some("notifications/initialized"), _) => {
                if !std::mem::replace(&mut child.is_initialized, true) {
                    self.outside.write(id, message.line());
                }
            }
            // The modern era has no other notifications of callers.
            (_, Some(Era::Modern)) => {}
            _ => self.outside.write(id, message.line()),
        }
    }

    /// Passes a caller's cancellation on, and ends the stream of the call, to which the child need not answer.
    fn cancelled(&mut self, now: Instant, number: SessionNumber, message: &Message) {
        let Ok(child) = self.session_child(number) else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        let id = message.param("requestId").unwrap_or_default();
        let found = self
            .children
            .get(&child)
            .and_then(|child| child.call_of(number, id));
        let stream = match found {
            Some(call) => {
                let line = message.edit().request_id(call.to_string()).line();
                self.outside.write(child, line);
                let ended = self
                    .children
                    .get_mut(&child)
                    .and_then(|child| child.end(call));
                match ended.map(|call| call.origin) {
                    Some(Origin::Session(at)) => Some(at.stream),
                    _ => None,
                }
            }
            None => session.stop_gathering(id),
        };
        match stream {
            Some(stream) => {
                let text = "the caller has cancelled the request";
                let line = error_line(Some(id), INTERNAL_ERROR, text, None);
                session.answer(now, &mut self.outside, stream, line);
            }
            None => self.tally.unmatched += 1,
        }
    }

    fn legacy_response(&mut self, now: Instant, number: SessionNumber, message: &Message) {
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        let asked = message.id().and_then(|id| session.answered(id));
        match asked {
            Some(Asked::Child(id)) => self.outside.write(session.child, message.with_id(&id)),
            Some(Asked::Input(stream, place)) => {
                self.input_came(now, number, stream, place, message);
            }
            None => self.tally.unmatched += 1,
        }
    }

    /// Has a modern child report to a session what it wants to hear of, in place of an earlier request.
    fn listen_for_session(
        &mut self,
        now: Instant,
        number: SessionNumber,
    ) -> Result<(), BridgeError> {
        let id = self.session_child(number)?;
        let (Some(session), Some(child)) =
            (self.sessions.get_mut(&number), self.children.get_mut(&id))
        else {
            return Err(BridgeError::UnknownSession);
        };
        child.has_room()?;
        child.used = now;
        let lists = child.greeting().map(|greeting| greeting.lists);
        let lists = lists.unwrap_or_default();
        let former = session.listening.take();
        if lists != Lists::default() || !session.uris.is_empty() {
            let params = Object::new()
                .raw("_meta", &session.client.meta_object())
                .raw("notifications", &filter(lists, &session.uris));
            let call = child.begin_own(Own::Listen(number));
            session.listening = Some(call);
            self.outside
                .write(id, own::request(call, LISTEN, &params.end()));
        }
        if let Some(former) = former {
            self.cancel(id, former, "another subscription takes its place");
        }
        Ok(())
    }

    /// The child of a session.
    fn session_child(&self, number: SessionNumber) -> Result<ChildId, BridgeError> {
        let session = self.sessions.get(&number);
        session
            .map(|session| session.child)
            .ok_or(BridgeError::UnknownSession)
    }
}

fn invalid(reason: &str) -> BridgeError {
    BridgeError::InvalidParams(reason.to_owned())
}
