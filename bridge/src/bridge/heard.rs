//! Lines of children: answers and notifications, and the callers that they are for.

use std::time::Instant;

use bytes::Bytes;

use super::Bridge;
use crate::call::{Call, Origin, Own, SessionCall};
use crate::error::BridgeError;
use crate::gathering::Gathered;
use crate::headers::{Era, META_SUBSCRIPTION_ID};
use crate::ids::{Caller, ChildId, SessionNumber};
use crate::message::{Kind, Line, Message};
use crate::modern::{LISTEN, needs_url, of_legacy_child, of_modern_child};
use crate::subscriptions::{ended, tagged};
use crate::surface::Output;

/// Method of the notification that a subscription has begun.
const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";

impl Bridge {
    /// Takes one line of a child's standard output.
    pub fn line(&mut self, now: Instant, child: ChildId, text: Bytes) {
        if !self.children.contains_key(&child) {
            return;
        }
        let Ok(message) = Message::parse(text.clone()) else {
            return self.stray(child, text);
        };
        match message.kind() {
            Kind::Response => self.answered(now, child, &message),
            Kind::Request => self.asked(now, child, &message),
            Kind::Notification => self.notified(now, child, &message),
        }
    }

    /// A line that is for no caller.
    fn stray(&mut self, child: ChildId, text: Bytes) {
        self.tally.strays += 1;
        self.outside.push(Output::Stray(child, text));
    }

    fn answered(&mut self, now: Instant, id: ChildId, message: &Message) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        let number = message.id().and_then(|id| id.parse::<u64>().ok());
        let Some((number, call)) = number.and_then(|it| Some((it, child.end(it)?))) else {
            self.tally.unmatched += 1;
            return;
        };
        if call.is_callers() {
            child.used = now;
        }
        if call.modern().is_some() {
            return self.modern_answered(now, id, number, call, message);
        }
        match &call.origin {
            Origin::Own(Own::Probe(probe)) => {
                child.probed(now, *probe, message);
                self.advance(now, id);
            }
            Origin::Own(Own::Listen(session)) => {
                if let Some(session) = self.sessions.get_mut(session)
                    && session.listening == Some(number)
                {
                    session.listening = None;
                }
            }
            Origin::Session(at) => self.session_answered(now, id, &call, at, message),
            Origin::Own(Own::Aside) | Origin::Modern(_) => {}
        }
    }

    fn session_answered(
        &mut self,
        now: Instant,
        id: ChildId,
        call: &Call,
        at: &SessionCall,
        message: &Message,
    ) {
        let is_modern = self.children.get(&id).and_then(|child| child.era()) == Some(Era::Modern);
        let again = at.again.as_ref().filter(|_| is_modern);
        if let Some(again) = again
            && message.result_member("resultType") == Some("\"input_required\"")
        {
            let again = Gathered::clone(again);
            return self.gather(now, at.session, at.stream, again, message);
        }
        if let Some(session) = self.sessions.get_mut(&at.session) {
            let line = message.with_id(&call.id);
            session.answer(now, &mut self.outside, at.stream, line);
        }
    }

    fn modern_answered(
        &mut self,
        now: Instant,
        id: ChildId,
        number: u64,
        mut call: Call,
        message: &Message,
    ) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        let era = child.era();
        let Some(modern) = call.modern_mut() else {
            return;
        };
        let Some(exchange) = modern.exchange else {
            // The caller gathers input, and gets the answer when it comes back.
            if let Some(parked) = &mut modern.parked {
                parked.answer = Some(message.clone());
                child.keep(number, call);
            }
            return;
        };
        if era == Some(Era::Legacy) && needs_url(message) && !modern.client.opens_urls() {
            let required = r#"{"elicitation":{"url":{}}}"#.to_owned();
            let error = BridgeError::MissingCapability { required };
            let id = Some(&*call.id);
            return self.outside.refuse(now, exchange, Era::Modern, &error, id);
        }
        let (status, line) = match era {
            Some(Era::Legacy) => of_legacy_child(message, &call.method, &call.id),
            _ => of_modern_child(message, &call.method, &call.id),
        };
        self.outside.answer(now, exchange, status, line);
    }

    fn notified(&mut self, now: Instant, id: ChildId, message: &Message) {
        let era = self.children.get(&id).and_then(|child| child.era());
        let Some(era) = era else {
            // No caller is there that could hear of it.
            return;
        };
        match message.method() {
            Some("notifications/progress") => self.progressed(now, id, message),
            Some("notifications/message") => self.logged(now, id, era, message),
            Some("notifications/cancelled") => self.withdrawn(now, id, era, message),
            _ => match era {
                Era::Legacy => self.changed(now, id, message),
                Era::Modern => self.reported(now, id, message),
            },
        }
    }

    /// Progress goes to the caller whose token it carries.
    fn progressed(&mut self, now: Instant, id: ChildId, message: &Message) {
        let number = message
            .progress_token()
            .and_then(|token| token.parse::<u64>().ok());
        let child = self.children.get(&id);
        let call = number.and_then(|number| child?.call(number));
        let Some((call, token)) = call.and_then(|call| Some((call, call.token.as_deref()?))) else {
            self.tally.unmatched += 1;
            return;
        };
        let line = message.edit().progress_token(token.to_owned()).line();
        match &call.origin {
            Origin::Session(at) => {
                if let Some(session) = self.sessions.get_mut(&at.session) {
                    session.send(now, &mut self.outside, at.stream, line);
                }
            }
            Origin::Modern(modern) => {
                if let Some(exchange) = modern.exchange.filter(|it| self.outside.takes_events(*it))
                {
                    self.outside.event(now, exchange, None, &line);
                }
            }
            Origin::Own(_) => {}
        }
    }

    /// A log message does not say which call it belongs to. It goes to the latest call, at a modern child to
    /// the latest that wants it, unless it could be for another caller: one that a legacy child has served, or one whose
    /// call at a modern child wants it too.
    fn logged(&mut self, now: Instant, id: ChildId, era: Era, message: &Message) {
        let Some(child) = self.children.get(&id) else {
            return;
        };
        let wants = |call: &&Call| self.wants_log(call, era, message);
        let latest = match era {
            Era::Legacy => child.working_calls().next(),
            Era::Modern => child.working_calls().find(wants),
        };
        let caller = latest.and_then(|call| self.caller_of(call));
        let is_doubtful = match era {
            Era::Legacy => child.has_served_several(),
            Era::Modern => {
                let mut wanting = child.working_calls().filter(wants);
                wanting.any(|call| self.caller_of(call) != caller)
            }
        };
        let is_unwanted = latest.is_some_and(|call| !wants(&call));
        let session = latest.and_then(Call::session);
        let exchange = latest.and_then(|call| call.modern()?.exchange);
        match (session, exchange) {
            _ if is_doubtful => self.stray(id, message.text().clone()),
            _ if is_unwanted => {}
            (Some(session), _) => self.tell_session(now, session, message.line()),
            (None, Some(exchange)) => {
                if self.outside.takes_events(exchange) {
                    self.outside.event(now, exchange, None, &message.line());
                }
            }
            (None, None) if era == Era::Legacy => self.tell_sessions(now, id, message),
            (None, None) => {}
        }
    }

    fn wants_log(&self, call: &Call, era: Era, message: &Message) -> bool {
        match &call.origin {
            Origin::Session(_) if era == Era::Legacy => true,
            Origin::Session(at) => {
                let session = self.sessions.get(&at.session);
                session.is_some_and(|session| session.log_level.is_some())
            }
            Origin::Modern(modern) => modern.wants_log(message.param("level").unwrap_or_default()),
            Origin::Own(_) => false,
        }
    }

    fn caller_of<'a>(&'a self, call: &'a Call) -> Option<&'a Caller> {
        match &call.origin {
            Origin::Session(at) => Some(&self.sessions.get(&at.session)?.caller),
            Origin::Modern(modern) => Some(&modern.caller),
            Origin::Own(_) => None,
        }
    }

    /// A child takes a request of its own back, or a modern one ends a subscription.
    fn withdrawn(&mut self, now: Instant, id: ChildId, era: Era, message: &Message) {
        let request = message.param("requestId").unwrap_or_default();
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        if era == Era::Modern {
            let number = request.parse::<u64>().unwrap_or_default();
            let is_subscription = child
                .call(number)
                .is_some_and(|call| &*call.method == LISTEN);
            let call = is_subscription.then(|| child.end(number)).flatten();
            let exchange = call
                .as_ref()
                .and_then(Call::modern)
                .and_then(|modern| modern.exchange);
            match (call, exchange) {
                (Some(call), Some(exchange)) => {
                    self.outside.answer(now, exchange, 200, ended(&call.id));
                }
                _ => self.tally.unmatched += 1,
            }
            return;
        }
        if child.withdraw(request) {
            return;
        }
        let of_child = self
            .sessions
            .values_mut()
            .filter(|session| session.child == id);
        for session in of_child {
            if let Some(asked) = session.withdrawn(request) {
                let line = message.edit().request_id(asked.to_string()).line();
                let stream = session.side_stream(&self.outside);
                return session.send(now, &mut self.outside, stream, line);
            }
        }
        self.tally.unmatched += 1;
    }

    /// A notification of a legacy child that belongs to no request.
    fn changed(&mut self, now: Instant, id: ChildId, message: &Message) {
        let Some(child) = self.children.get(&id) else {
            return;
        };
        if child.has_served_several() && !child.subscribers.may_tell_all(message) {
            return self.stray(id, message.text().clone());
        }
        for (exchange, line) in child.subscribers.hearing(message) {
            self.outside.event(now, exchange, None, &line);
        }
        self.tell_sessions(now, id, message);
    }

    /// A notification of a modern child, which belongs to a subscription.
    fn reported(&mut self, now: Instant, id: ChildId, message: &Message) {
        let number = message.meta(META_SUBSCRIPTION_ID);
        let number = number.and_then(|number| number.parse::<u64>().ok());
        let child = self.children.get(&id);
        let Some(call) = number.and_then(|number| child?.call(number)) else {
            self.tally.unmatched += 1;
            return;
        };
        match &call.origin {
            Origin::Modern(modern) => {
                if let Some(exchange) = modern.exchange {
                    let line = tagged(message, &call.id);
                    self.outside.event(now, exchange, None, &line);
                }
            }
            Origin::Own(Own::Listen(session)) if message.method() != Some(ACKNOWLEDGED) => {
                let (session, edit) = (*session, message.edit());
                let line = edit.remove_meta(META_SUBSCRIPTION_ID).line();
                self.tell_session(now, session, line);
            }
            _ => {}
        }
    }

    fn tell_sessions(&mut self, now: Instant, id: ChildId, message: &Message) {
        let Some(child) = self.children.get(&id) else {
            return;
        };
        for (number, session) in &mut self.sessions {
            if session.child == id && child.subscribers.reaches(*number, message) {
                let stream = session.side_stream(&self.outside);
                session.send(now, &mut self.outside, stream, message.line());
            }
        }
    }

    fn tell_session(&mut self, now: Instant, number: SessionNumber, line: Line) {
        if let Some(session) = self.sessions.get_mut(&number) {
            let stream = session.side_stream(&self.outside);
            session.send(now, &mut self.outside, stream, line);
        }
    }
}
