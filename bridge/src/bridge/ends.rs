//! Ends of calls, sessions and children, and what callers hear of them.

use std::time::Instant;

use super::Bridge;
use super::arrivals::stopping;
use super::starts::busy;
use crate::call::{Call, Origin};
use crate::child::{Child, ChildKey};
use crate::error::{BridgeError, INTERNAL_ERROR, error_line};
use crate::headers::Era;
use crate::ids::{ChildId, SessionNumber};
use crate::modern::LISTEN;
use crate::outside::{Place, Timer};
use crate::own;
use crate::session::{GET_STREAM, Session};
use crate::settings::BUSY_WAIT;
use crate::subscriptions::{Subscriber, ended};
use crate::surface::{ChildEnd, Output};

impl Bridge {
    /// Takes that a child's process has ended, or that it could not be started.
    pub fn child_ended(&mut self, now: Instant, child: ChildId, end: &ChildEnd) {
        if self.ending.remove(&child) {
            return;
        }
        let Some(ended) = self.children.get(&child) else {
            return;
        };
        let reason = end.to_string();
        let age = now.saturating_duration_since(ended.started);
        self.restarts.ended(now, age, &reason);
        self.tally.ends += 1;
        self.fail(now, child, &reason);
        self.tally.last_end = Some(reason);
    }

    /// Ends all children and breaks off what is under way; requests are refused from now on.
    pub fn stop(&mut self, now: Instant) {
        self.is_stopped = true;
        for (id, child) in std::mem::take(&mut self.children) {
            self.ending.insert(id);
            self.outside.push(Output::End(id));
            self.end_subscriptions(now, &child);
        }
        for exchange in self.outside.exchanges() {
            match self.outside.place(exchange) {
                Some(Place::Stream(_, GET_STREAM)) => self.outside.finish(exchange),
                _ if self.outside.is_stream(exchange) => self.outside.break_off(exchange),
                _ => self
                    .outside
                    .refuse(now, exchange, Era::Legacy, &stopping(), None),
            }
        }
        self.sessions.clear();
        self.session_keys.clear();
    }

    /// Tells a child to end; what is under way there fails for this reason.
    pub(super) fn end_child(&mut self, now: Instant, id: ChildId, reason: &str) {
        if self.children.contains_key(&id) {
            self.ending.insert(id);
            self.outside.push(Output::End(id));
            self.fail(now, id, reason);
        }
    }

    /// Ends a session, and its child if it served only this session.
    pub(super) fn end_session(&mut self, now: Instant, number: SessionNumber, reason: &str) {
        let Some(session) = self.sessions.get(&number) else {
            return;
        };
        let id = session.child;
        let key = self.children.get(&id).map(|child| &child.key);
        if key == Some(&ChildKey::Session) {
            return self.end_child(now, id, reason);
        }
        let Some(session) = self.forget_session(number) else {
            return;
        };
        for request in session.owed() {
            let line = error_line(Some(&request), INTERNAL_ERROR, reason, None);
            self.outside.write(id, line);
        }
        self.leave(id, Subscriber::Session(number));
        let calls = self
            .children
            .get(&id)
            .map(Child::calls)
            .into_iter()
            .flatten();
        let calls = calls.filter(|(_, call)| call.session() == Some(number));
        let calls: Vec<u64> = calls.map(|(call, _)| call).collect();
        let mut failed = Vec::new();
        for call in calls {
            failed.extend(self.take_back(id, call, reason));
        }
        self.close_session(now, session, &failed, reason);
    }

    /// Ends a call whose caller does not wait any more; the child is told.
    pub(super) fn cancel(&mut self, id: ChildId, number: u64, reason: &str) {
        self.take_back(id, number, reason);
    }

    /// A child has not answered yet, or was not used.
    pub(super) fn child_waits(&mut self, now: Instant, id: ChildId) {
        let Some(child) = self.children.get(&id) else {
            return;
        };
        if child.greeting().is_none() {
            return self.advance(now, id);
        }
        let has_session = self.sessions.values().any(|session| session.child == id);
        let is_used = has_session || !child.is_unused();
        let until = match is_used {
            true => now + self.settings.idle,
            false => child.used + self.settings.idle,
        };
        match until > now {
            true => self.outside.wake(Timer::Child(id), until),
            false => self.end_child(now, id, "it was not used"),
        }
    }

    /// A session was not used.
    pub(super) fn session_waits(&mut self, now: Instant, number: SessionNumber) {
        let Some(session) = self.sessions.get(&number) else {
            return;
        };
        let until = match session.is_busy() {
            true => now + self.settings.idle,
            false => session.used + self.settings.idle,
        };
        match until > now {
            true => self.outside.wake(Timer::Session(number), until),
            false => self.end_session(now, number, "the session was not used"),
        }
    }

    /// A child is gone: requests that wait for it, calls, subscriptions and sessions end.
    fn fail(&mut self, now: Instant, id: ChildId, reason: &str) {
        let Some(mut child) = self.children.remove(&id) else {
            return;
        };
        self.outside.let_sleep(Timer::Child(id));
        let wait = self.restarts.hold(now).map_or(BUSY_WAIT, |hold| hold.wait);
        for waiter in child.take_waiters() {
            self.refuse(now, &waiter, &busy(reason, wait));
        }
        self.end_subscriptions(now, &child);
        let ended = BridgeError::Ended {
            reason: reason.to_owned(),
        };
        let mut failed = Vec::new();
        for (number, call) in child.take_calls() {
            self.outside.let_sleep(Timer::Parked(id, number));
            match &call.origin {
                Origin::Modern(modern) => {
                    if let Some(exchange) = modern.exchange {
                        let (era, id) = (Era::Modern, Some(&*call.id));
                        self.outside.refuse(now, exchange, era, &ended, id);
                    }
                }
                Origin::Session(_) => failed.push(call),
                Origin::Own(_) => {}
            }
        }
        let of_child = self
            .sessions
            .iter()
            .filter(|(_, session)| session.child == id);
        let numbers: Vec<SessionNumber> = of_child.map(|(number, _)| *number).collect();
        for number in numbers {
            if let Some(session) = self.forget_session(number) {
                self.close_session(now, session, &failed, reason);
            }
        }
    }

    /// Ends the subscriptions of modern callers in order.
    fn end_subscriptions(&mut self, now: Instant, child: &Child) {
        for (exchange, line) in child.subscribers.ends() {
            self.outside.answer(now, exchange, 200, line);
        }
        for (_, call) in child.calls().filter(|(_, call)| &*call.method == LISTEN) {
            if let Some(exchange) = call.modern().and_then(|modern| modern.exchange) {
                self.outside.answer(now, exchange, 200, ended(&call.id));
            }
        }
    }

    /// Answers the calls of a session with an error, and ends its streams.
    fn close_session(&mut self, now: Instant, mut session: Session, failed: &[Call], reason: &str) {
        let error = BridgeError::Ended {
            reason: reason.to_owned(),
        };
        for call in failed {
            if let Origin::Session(at) = &call.origin
                && at.session == session.number()
            {
                let line = error.line(Era::Legacy, Some(&call.id));
                session.answer(now, &mut self.outside, at.stream, line);
            }
        }
        for (stream, gathering) in std::mem::take(&mut session.gatherings) {
            let line = error.line(Era::Legacy, Some(gathering.id()));
            session.answer(now, &mut self.outside, stream, line);
        }
        session.close(&mut self.outside);
    }

    fn forget_session(&mut self, number: SessionNumber) -> Option<Session> {
        let session = self.sessions.remove(&number)?;
        self.session_keys.remove(&session.key);
        self.outside.let_sleep(Timer::Session(number));
        Some(session)
    }

    /// Takes a call from a child, which is told that no answer is wanted.
    fn take_back(&mut self, id: ChildId, number: u64, reason: &str) -> Option<Call> {
        let call = self.children.get_mut(&id)?.end(number)?;
        self.outside
            .write(id, own::cancelled(&number.to_string(), reason));
        Some(call)
    }
}
