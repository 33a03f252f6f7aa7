//! Requests of modern callers, and what the era of the child makes of each.

use std::time::Instant;

use super::Bridge;
use super::arrivals::{stopping, unsupported};
use crate::call::{Call, ModernCall, Origin, Own};
use crate::child::Waiter;
use crate::error::BridgeError;
use crate::headers::{
    Era, META_CLIENT_CAPABILITIES, META_LOG_LEVEL, META_VERSION, MODERN_VERSION, RequestHead,
};
use crate::ids::{Caller, ChildId, ExchangeId};
use crate::json::Object;
use crate::message::{Kind, Message, raw};
use crate::modern::{LISTEN, for_legacy_child, for_same_era};
use crate::names::{is_removed, log_rank};
use crate::outside::Place;
use crate::own;
use crate::rounds::Ticket;
use crate::sse::CONTENT_TYPE;
use crate::subscriptions::{Listener, Subscriber};

impl Bridge {
    /// Takes a message of a modern caller.
    pub(super) fn modern_post(
        &mut self,
        now: Instant,
        exchange: ExchangeId,
        head: &RequestHead,
        caller: Caller,
        message: Message,
    ) -> Result<(), BridgeError> {
        match message.kind() {
            Kind::Request => {}
            Kind::Response => {
                let reason = "a caller of this protocol version sends no responses";
                return Err(BridgeError::InvalidRequest(reason.to_owned()));
            }
            Kind::Notification => {
                // The era defines none over HTTP: the end of a connection cancels (cancellation.mdx).
                self.outside.empty(exchange, 202);
                return Ok(());
            }
        }
        head.check_modern(&message)?;
        check_meta(&message)?;
        let waiter = Waiter {
            exchange,
            caller,
            era: Era::Modern,
            message,
        };
        match Ticket::of(&waiter.message) {
            Some(ticket) if self.era == Some(Era::Legacy) => self.resume(now, &waiter, &ticket),
            _ => {
                self.seek(now, waiter);
                Ok(())
            }
        }
    }

    /// Serves a request of a modern caller by a child that is open.
    pub(super) fn serve_modern(&mut self, now: Instant, id: ChildId, waiter: &Waiter) {
        let era = self.children.get(&id).and_then(|child| child.era());
        let served = match era {
            Some(Era::Modern) => self.call(now, id, waiter),
            Some(Era::Legacy) => self.serve_by_legacy_child(now, id, waiter),
            None => Err(stopping()),
        };
        if let Err(error) = served {
            self.refuse(now, waiter, &error);
        }
    }

    fn serve_by_legacy_child(
        &mut self,
        now: Instant,
        id: ChildId,
        waiter: &Waiter,
    ) -> Result<(), BridgeError> {
        let message = &waiter.message;
        self.initialized(id);
        match message.method().unwrap_or_default() {
            "server/discover" => {
                let child = self.children.get(&id);
                let greeting = child
                    .and_then(|child| child.greeting())
                    .ok_or_else(stopping)?;
                let result = greeting.discover_result();
                let line = own::response(message.id().unwrap_or("null"), result);
                self.outside.answer(now, waiter.exchange, 200, line);
                Ok(())
            }
            LISTEN => self.listen(now, id, waiter),
            method if is_removed(method) => Err(BridgeError::MethodNotFound(method.to_owned())),
            _ if message.param("requestState").is_some() => Err(spent()),
            _ => {
                self.set_log_level(id, message);
                self.call(now, id, waiter)
            }
        }
    }

    /// Passes a request on to a child.
    fn call(&mut self, now: Instant, id: ChildId, waiter: &Waiter) -> Result<(), BridgeError> {
        let (message, exchange) = (&waiter.message, waiter.exchange);
        let child = self.children.get_mut(&id).ok_or_else(stopping)?;
        child.has_room()?;
        let era = child.era().ok_or_else(stopping)?;
        let modern = ModernCall::new(exchange, waiter.caller.clone(), message, era);
        let number = child.begin(Call::new(message, Origin::Modern(Box::new(modern))));
        let line = match era {
            Era::Legacy => for_legacy_child(message, number),
            Era::Modern => for_same_era(message, number),
        };
        self.outside.write(id, line);
        self.outside.set_place(exchange, Place::Call(id, number));
        self.outside.expect_answer(now, exchange);
        Ok(())
    }

    /// Has a legacy child send log messages from the level on that this request asks for.
    fn set_log_level(&mut self, id: ChildId, message: &Message) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        let Some(level) = message.meta(META_LOG_LEVEL) else {
            return;
        };
        let rank = log_rank(level);
        let can_log = child.greeting().is_some_and(|greeting| greeting.logs);
        if can_log && child.log_rank != rank {
            child.log_rank = rank;
            let number = child.begin_own(Own::Aside);
            let params = Object::new().raw("level", level).end();
            self.outside
                .write(id, own::request(number, "logging/setLevel", &params));
        }
    }

    /// Begins a subscription to changes that a legacy child reports.
    fn listen(&mut self, now: Instant, id: ChildId, waiter: &Waiter) -> Result<(), BridgeError> {
        let exchange = waiter.exchange;
        let child = self.children.get_mut(&id).ok_or_else(stopping)?;
        let greeting = child.greeting().ok_or_else(stopping)?;
        let listener = Listener::read(&waiter.message, greeting)?;
        if !self.outside.takes_events(exchange) {
            return Err(BridgeError::NotAcceptable(CONTENT_TYPE));
        }
        if child.subscribers.is_full() {
            let what = "subscriptions";
            return Err(BridgeError::Overloaded { what });
        }
        self.outside.set_place(exchange, Place::Listener(id));
        self.outside
            .event(now, exchange, None, &listener.acknowledged());
        for uri in child.subscribers.listen(exchange, listener) {
            let number = child.begin_own(Own::Aside);
            let params = Object::new().text("uri", &uri).end();
            self.outside
                .write(id, own::request(number, "resources/subscribe", &params));
        }
        Ok(())
    }

    /// Forgets a subscriber at a legacy child; subscriptions of the child that no other one wants end.
    pub(super) fn leave(&mut self, id: ChildId, subscriber: Subscriber) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        for uri in child.subscribers.leave(subscriber) {
            let number = child.begin_own(Own::Aside);
            let params = Object::new().text("uri", &uri).end();
            self.outside
                .write(id, own::request(number, "resources/unsubscribe", &params));
        }
    }
}

/// Checks what each modern request says of its version, its client and its log level (basic/index.mdx, `_meta`).
fn check_meta(message: &Message) -> Result<(), BridgeError> {
    let version = message.meta(META_VERSION).and_then(raw::text);
    match version.as_deref() {
        Some(MODERN_VERSION) => {}
        Some(version) => return Err(unsupported(version)),
        None => return Err(BridgeError::MissingMeta(META_VERSION)),
    }
    if !message
        .meta(META_CLIENT_CAPABILITIES)
        .is_some_and(raw::is_object)
    {
        return Err(BridgeError::MissingMeta(META_CLIENT_CAPABILITIES));
    }
    match message.meta(META_LOG_LEVEL) {
        Some(level) if log_rank(level).is_none() => {
            let reason = "the log level is unknown";
            Err(BridgeError::InvalidParams(reason.to_owned()))
        }
        _ => Ok(()),
    }
}

/// The error of a request state that the bridge does not know, or knows no more.
pub(super) fn spent() -> BridgeError {
    let reason = "requestState is unknown, spent or of another request";
    BridgeError::InvalidParams(reason.to_owned())
}
