//! HTTP requests: which era they are of, and which session.

use std::time::Instant;

use bytes::Bytes;

use super::Bridge;
use crate::error::BridgeError;
use crate::headers::{Era, LEGACY_VERSIONS, MODERN_VERSION, RequestHead};
use crate::ids::{Caller, ExchangeId, SessionKey, SessionNumber};
use crate::message::{Kind, Message};
use crate::sse::{CONTENT_TYPE, EventId};
use crate::surface::{HttpMethod, Request};

/// The content types that an answer may have.
const MEDIA_TYPES: &str = "application/json, text/event-stream";

impl Bridge {
    /// Takes a request, and returns the number by which outputs name its answer.
    pub fn request(&mut self, now: Instant, request: Request) -> ExchangeId {
        let Request {
            method,
            head,
            caller,
            body,
        } = request;
        let exchange = self.outside.begin(&head);
        let taken = match method {
            _ if self.is_stopped => Err(stopping()),
            HttpMethod::Post => {
                self.post(now, exchange, &head, caller, body);
                Ok(())
            }
            HttpMethod::Get => self.get(now, exchange, &head, &caller),
            HttpMethod::Delete => self.delete(now, exchange, &head, &caller),
            HttpMethod::Other => Err(BridgeError::HttpMethod),
        };
        if let Err(error) = taken {
            let era = head.era(None);
            self.outside.refuse(now, exchange, era, &error, None);
        }
        exchange
    }

    /// The session that a request names, if it is the caller's.
    pub(super) fn session_of(
        &mut self,
        now: Instant,
        head: &RequestHead,
        caller: &Caller,
    ) -> Result<SessionNumber, BridgeError> {
        let key = head.session.as_deref().ok_or(BridgeError::MissingSession)?;
        let key = SessionKey::parse(key).ok_or(BridgeError::UnknownSession)?;
        let number = self
            .session_keys
            .get(&key)
            .ok_or(BridgeError::UnknownSession)?;
        let session = self.sessions.get_mut(number);
        let session = session.filter(|session| session.caller == *caller);
        let session = session.ok_or(BridgeError::UnknownSession)?;
        session.used = now;
        if let Some(child) = self.children.get_mut(&session.child) {
            child.used = now;
        }
        match head.protocol_version.as_deref() {
            Some(version) if !LEGACY_VERSIONS.contains(&version) => Err(unsupported(version)),
            _ => Ok(*number),
        }
    }

    fn post(
        &mut self,
        now: Instant,
        exchange: ExchangeId,
        head: &RequestHead,
        caller: Caller,
        body: Bytes,
    ) {
        let message = match Message::parse(body) {
            Ok(message) => message,
            Err(error) => {
                let (era, error) = (head.era(None), BridgeError::from(error));
                return self.outside.refuse(now, exchange, era, &error, None);
            }
        };
        let era = head.era(Some(&message));
        let id = message.id().filter(|_| message.kind() == Kind::Request);
        let id = id.map(str::to_owned);
        let checked = check_form(head);
        let taken = checked.and_then(|()| match era {
            Era::Legacy => self.legacy_post(now, exchange, head, caller, message),
            Era::Modern => self.modern_post(now, exchange, head, caller, message),
        });
        if let Err(error) = taken {
            self.outside
                .refuse(now, exchange, era, &error, id.as_deref());
        }
    }

    fn get(
        &mut self,
        now: Instant,
        exchange: ExchangeId,
        head: &RequestHead,
        caller: &Caller,
    ) -> Result<(), BridgeError> {
        check_session_request(head)?;
        if !head.accepts_events() {
            return Err(BridgeError::NotAcceptable(CONTENT_TYPE));
        }
        let number = self.session_of(now, head, caller)?;
        let last = head.last_event_id.as_deref();
        let last = last.and_then(|last| last.parse::<EventId>().ok());
        if let Some(session) = self.sessions.get_mut(&number) {
            session.listen(now, &mut self.outside, exchange, last);
        }
        Ok(())
    }

    fn delete(
        &mut self,
        now: Instant,
        exchange: ExchangeId,
        head: &RequestHead,
        caller: &Caller,
    ) -> Result<(), BridgeError> {
        check_session_request(head)?;
        let number = self.session_of(now, head, caller)?;
        self.end_session(now, number, "the caller has ended the session");
        self.outside.empty(exchange, 204);
        Ok(())
    }
}

/// Checks what each POST needs, whatever its era.
fn check_form(head: &RequestHead) -> Result<(), BridgeError> {
    if let Some(fault) = &head.fault {
        return Err(fault.clone().into());
    }
    if !head.has_json_body() {
        return Err(BridgeError::NotJsonBody);
    }
    match head.accepts_json() || head.accepts_events() {
        true => Ok(()),
        false => Err(BridgeError::NotAcceptable(MEDIA_TYPES)),
    }
}

/// Checks a GET or DELETE, which only legacy callers send (streamable-http.mdx, Earlier Streamable HTTP Revisions).
fn check_session_request(head: &RequestHead) -> Result<(), BridgeError> {
    if let Some(fault) = &head.fault {
        return Err(fault.clone().into());
    }
    match head.era(None) {
        Era::Legacy => Ok(()),
        Era::Modern => Err(BridgeError::HttpMethod),
    }
}

/// The error of a version that the bridge does not speak.
pub(super) fn unsupported(version: &str) -> BridgeError {
    let supported = std::iter::once(MODERN_VERSION).chain(LEGACY_VERSIONS);
    BridgeError::UnsupportedVersion {
        requested: version.to_owned(),
        supported: supported.map(str::to_owned).collect(),
    }
}

/// The error while the bridge stops.
pub(super) fn stopping() -> BridgeError {
    BridgeError::Unavailable {
        reason: "this end of the tunnel stops".to_owned(),
        retry_after: None,
    }
}
