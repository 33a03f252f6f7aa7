//! Input of legacy callers for calls of a modern child.

use std::time::Instant;

use super::Bridge;
use crate::call::{Call, Origin, SessionCall};
use crate::error::{INTERNAL_ERROR, error_line};
use crate::gathering::{Gathered, Gathering};
use crate::headers::Era;
use crate::ids::SessionNumber;
use crate::message::Message;
use crate::own;
use crate::session::Asked;

impl Bridge {
    /// Asks the caller of a session for what a call needs, or repeats the call at once if it needs nothing of the
    /// caller.
    pub(super) fn gather(
        &mut self,
        now: Instant,
        number: SessionNumber,
        stream: u64,
        call: Gathered,
        result: &Message,
    ) {
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        let id = call.message.id().unwrap_or("null").to_owned();
        if session.takes_object_only(&self.outside, stream) {
            let text = "the server asks for input, but the client accepts no events (Accept: text/event-stream)";
            let line = error_line(Some(&id), INTERNAL_ERROR, text, None);
            return session.answer(now, &mut self.outside, stream, line);
        }
        let Some((gathering, requests)) = Gathering::new(call, result) else {
            let text = "the server asks for input too often or in an unknown form";
            let line = error_line(Some(&id), INTERNAL_ERROR, text, None);
            return session.answer(now, &mut self.outside, stream, line);
        };
        session.gatherings.insert(stream, gathering);
        for (place, request) in requests.into_iter().enumerate() {
            let Some(asked) = session.ask(Asked::Input(stream, place)) else {
                session.gatherings.remove(&stream);
                let text = "the caller has not answered too many requests";
                let line = error_line(Some(&id), INTERNAL_ERROR, text, None);
                return session.answer(now, &mut self.outside, stream, line);
            };
            let line = own::request_with(asked, &request.method, request.params);
            session.send(now, &mut self.outside, stream, line);
        }
        self.repeat_if_complete(now, number, stream);
    }

    /// Takes the caller's answer to one of those requests; an error ends the call.
    pub(super) fn input_came(
        &mut self,
        now: Instant,
        number: SessionNumber,
        stream: u64,
        place: usize,
        answer: &Message,
    ) {
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        let Some(gathering) = session.gatherings.get_mut(&stream) else {
            self.tally.unmatched += 1;
            return;
        };
        if let Some(result) = answer.result() {
            gathering.answered(place, answer.piece(result));
            return self.repeat_if_complete(now, number, stream);
        }
        let error = answer.error().map(|error| answer.piece(error));
        let line = own::refusal(gathering.id(), error.unwrap_or_default());
        session.gatherings.remove(&stream);
        session.answer(now, &mut self.outside, stream, line);
    }

    fn repeat_if_complete(&mut self, now: Instant, number: SessionNumber, stream: u64) {
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        let is_complete = |gathering: &Gathering| gathering.is_complete();
        if !session.gatherings.get(&stream).is_some_and(is_complete) {
            return;
        }
        let (Some(gathering), Some(child)) = (
            session.gatherings.remove(&stream),
            self.children.get_mut(&session.child),
        ) else {
            return;
        };
        if let Err(error) = child.has_room() {
            let line = error.line(Era::Legacy, Some(gathering.id()));
            return session.answer(now, &mut self.outside, stream, line);
        }
        let again = gathering.call();
        let message = again.message.clone();
        let origin = Origin::Session(SessionCall {
            session: number,
            stream,
            again: Some(Box::new(again)),
        });
        let call = child.begin(Call::new(&message, origin));
        let level = session.log_level.as_deref();
        let line = gathering.repeat(call, &session.client, level);
        self.outside.write(session.child, line);
    }
}
