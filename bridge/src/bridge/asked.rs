//! Requests of children, and the callers that are asked.

use std::time::Instant;

use super::Bridge;
use crate::child::Addressee;
use crate::error::{INTERNAL_ERROR, METHOD_NOT_FOUND, error_line};
use crate::headers::Era;
use crate::ids::{ChildId, SessionNumber};
use crate::message::Message;
use crate::own;
use crate::session::Asked;

impl Bridge {
    /// Takes a request of a child. Which call it belongs to is not in it, so it goes to the caller of the latest one,
    /// and is refused once the child has served several callers.
    pub(super) fn asked(&mut self, now: Instant, id: ChildId, request: &Message) {
        let Some(child) = self.children.get(&id) else {
            return;
        };
        let is_legacy = child.era() == Some(Era::Legacy);
        let is_doubtful = child.has_served_several();
        let addressee = child.addressee().or_else(|| self.latest_session(id));
        let addressee = addressee.filter(|_| is_legacy && !is_doubtful);
        let is_ping = request.method() == Some("ping");
        match addressee {
            Some(Addressee::Session(session)) if !is_ping || self.hears(session) => {
                self.ask_session(now, id, session, request);
            }
            // No caller need be there for the child to know that its other side is.
            _ if is_ping => {
                let line = own::response(request.id().unwrap_or("null"), "{}");
                self.outside.write(id, line);
            }
            Some(Addressee::Call(number)) => self.ask_modern(now, id, number, request),
            _ => {
                let text = match is_doubtful {
                    true => {
                        "several clients use this server, and the request does not say which of them it is for"
                    }
                    false => "no client is there that could answer this request",
                };
                let line = error_line(request.id(), METHOD_NOT_FOUND, text, None);
                self.outside.write(id, line);
            }
        }
    }

    fn ask_session(&mut self, now: Instant, id: ChildId, number: SessionNumber, request: &Message) {
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        if session.is_deaf(&self.outside) {
            let text = "the client accepts no events, so no request reaches it";
            let line = error_line(request.id(), METHOD_NOT_FOUND, text, None);
            return self.outside.write(id, line);
        }
        let asked = Asked::Child(request.id().unwrap_or("null").into());
        match session.ask(asked) {
            Some(asked) => {
                let line = request.with_id(&asked.to_string());
                let stream = session.side_stream(&self.outside);
                session.send(now, &mut self.outside, stream, line);
            }
            None => {
                let text = "the client has not answered too many requests";
                let line = error_line(request.id(), INTERNAL_ERROR, text, None);
                self.outside.write(id, line);
            }
        }
    }

    /// The session of this child whose caller has sent something last.
    fn latest_session(&self, id: ChildId) -> Option<Addressee> {
        let sessions = self
            .sessions
            .iter()
            .filter(|(_, session)| session.child == id);
        let latest = sessions.max_by_key(|(_, session)| session.used);
        latest.map(|(number, _)| Addressee::Session(*number))
    }

    fn hears(&self, number: SessionNumber) -> bool {
        let session = self.sessions.get(&number);
        session.is_some_and(|session| session.hears(&self.outside))
    }
}
