//! Finds a child for a request, or starts one, and serves the requests that waited for it.

use std::time::{Duration, Instant};

use super::Bridge;
use crate::child::{Child, ChildKey, Waiter};
use crate::client::Client;
use crate::error::BridgeError;
use crate::headers::Era;
use crate::ids::ChildId;
use crate::message::raw;
use crate::outside::{Place, Timer};
use crate::own;
use crate::session::Session;
use crate::settings::{BUSY_WAIT, EVICTION_AGE, Share};
use crate::start::{Opening, START_TIMEOUT, Step};
use crate::surface::Output;

impl Bridge {
    /// Serves a request by a child that may serve it, now or once the child has started.
    pub(super) fn seek(&mut self, now: Instant, waiter: Waiter) {
        let key = self.key_for(&waiter);
        let found = self.children.iter().find(|(_, child)| child.key == key);
        let found = found.filter(|_| key != ChildKey::Session);
        let child = match found {
            Some((child, _)) => *child,
            None => match self.start(now, key, &waiter) {
                Ok(child) => child,
                Err(error) => return self.refuse(now, &waiter, &error),
            },
        };
        self.serve_or_wait(now, child, waiter);
    }

    /// Goes on with the start of a child.
    pub(super) fn advance(&mut self, now: Instant, id: ChildId) {
        while let Some(child) = self.children.get_mut(&id) {
            match child.step(now) {
                None => return,
                Some(Step::Wait(until)) => {
                    return self.outside.wake(Timer::Child(id), until);
                }
                Some(Step::Send(probe)) => {
                    if let Some(line) = child.probe(now, probe) {
                        self.outside.write(id, line);
                    }
                }
                Some(Step::Open(_)) => return self.opened(now, id),
                Some(Step::Silent) => {
                    let seconds = START_TIMEOUT.as_secs();
                    let reason = format!("it has not answered within {seconds} s of its start");
                    return self.end_child(now, id, &reason);
                }
                Some(Step::Refused(error)) => return self.refused(now, id, &error),
            }
        }
    }

    /// Tells a child once that the handshake is complete.
    pub(super) fn initialized(&mut self, id: ChildId) {
        if let Some(child) = self.children.get_mut(&id)
            && child.era() == Some(Era::Legacy)
            && !std::mem::replace(&mut child.is_initialized, true)
        {
            let line = own::notification("notifications/initialized", None);
            self.outside.write(id, line);
        }
    }

    /// Refuses a request that waited.
    pub(super) fn refuse(&mut self, now: Instant, waiter: &Waiter, error: &BridgeError) {
        let id = waiter.message.id();
        self.outside
            .refuse(now, waiter.exchange, waiter.era, error, id);
    }

    /// The callers that the child of this request may serve, as far as the era of the target is known.
    fn key_for(&self, waiter: &Waiter) -> ChildKey {
        let caller = || waiter.caller.clone();
        let is_modern = self.era == Some(Era::Modern);
        match (self.settings.share, waiter.era) {
            (Share::Always, _) => ChildKey::All,
            (Share::Auto | Share::Caller, _) if is_modern => ChildKey::All,
            (Share::Caller, Era::Legacy) => ChildKey::Caller(caller()),
            (Share::Auto | Share::Never, Era::Legacy) => ChildKey::Session,
            (_, Era::Modern) => {
                let client = Client::of_meta(&waiter.message);
                ChildKey::Client(caller(), client.capabilities().into())
            }
        }
    }

    /// Starts a child for a request.
    fn start(
        &mut self,
        now: Instant,
        key: ChildKey,
        waiter: &Waiter,
    ) -> Result<ChildId, BridgeError> {
        if let Some(hold) = self.restarts.hold(now) {
            return Err(BridgeError::Unavailable {
                reason: hold.reason.to_string(),
                retry_after: Some(hold.wait),
            });
        }
        self.make_room(now)?;
        let (client, initialize) = match waiter.era {
            Era::Legacy => {
                let client = Client::of_initialize(&waiter.message);
                (client, Some(waiter.message.clone()))
            }
            Era::Modern => (Client::of_meta(&waiter.message), None),
        };
        let era = self.era.unwrap_or(waiter.era);
        let id = ChildId(self.next_child);
        self.next_child += 1;
        self.tally.starts += 1;
        let opening = Box::new(Opening::new(now, era, client, initialize));
        self.children.insert(id, Child::new(now, key, opening));
        self.outside.push(Output::Start(id));
        Ok(id)
    }

    /// Ends the child that was idle for the longest time, if there is no room for another one.
    fn make_room(&mut self, now: Instant) -> Result<(), BridgeError> {
        if self.children.len() < self.settings.children_max {
            return Ok(());
        }
        let age = |child: &Child| now.saturating_duration_since(child.used);
        let gathers =
            |session: &Session, id: ChildId| session.child == id && !session.gatherings.is_empty();
        let is_idle = |id: ChildId, child: &Child| {
            let is_old = child.is_unused() && age(child) >= EVICTION_AGE;
            is_old && !self.sessions.values().any(|session| gathers(session, id))
        };
        let idle = self
            .children
            .iter()
            .filter(|(id, child)| is_idle(**id, child));
        let oldest = idle.min_by_key(|(_, child)| child.used);
        match oldest.map(|(id, _)| *id) {
            Some(id) => {
                self.end_child(now, id, "another server needed its place");
                Ok(())
            }
            None => Err(busy("all servers that may run are in use", BUSY_WAIT)),
        }
    }

    fn serve_or_wait(&mut self, now: Instant, id: ChildId, waiter: Waiter) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        child.used = now;
        if child.greeting().is_some() {
            return self.serve(now, id, waiter);
        }
        if let Err(error) = child.can_wait(&waiter) {
            return self.refuse(now, &waiter, &error);
        }
        self.outside.set_place(waiter.exchange, Place::Waiting(id));
        child.wait(waiter);
        self.advance(now, id);
    }

    fn serve(&mut self, now: Instant, id: ChildId, waiter: Waiter) {
        if let Some(child) = self.children.get_mut(&id) {
            child.serves(&waiter.caller);
        }
        match waiter.era {
            Era::Legacy => self.begin_session(now, id, &waiter),
            Era::Modern => self.serve_modern(now, id, &waiter),
        }
    }

    /// A child has shown its era: requests that waited are served, by other children if this one may not serve them.
    fn opened(&mut self, now: Instant, id: ChildId) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        let (Some((era, is_own)), waiters) = (child.open(), child.take_waiters()) else {
            return;
        };
        self.era = Some(era);
        self.outside
            .wake(Timer::Child(id), now + self.settings.idle);
        if is_own {
            self.initialized(id);
        }
        let Some(first) = waiters.front() else {
            return self.opened_for_none(now, id);
        };
        let key = self.key_for(first);
        let is_taken = self
            .children
            .values()
            .any(|child| child.key == ChildKey::All);
        if let Some(child) = self.children.get_mut(&id)
            && !(key == ChildKey::All && is_taken)
        {
            child.key = key.clone();
        }
        for (place, waiter) in waiters.into_iter().enumerate() {
            let is_shared = key != ChildKey::Session && self.key_for(&waiter) == key;
            match place == 0 || is_shared {
                true => self.serve(now, id, waiter),
                false => self.seek(now, waiter),
            }
        }
    }

    /// A child has opened whose callers have left.
    fn opened_for_none(&mut self, now: Instant, id: ChildId) {
        let is_useless = self
            .children
            .get(&id)
            .is_some_and(|child| child.key == ChildKey::Session);
        if is_useless {
            self.end_child(now, id, "the caller has left");
        }
    }

    /// A child has refused both first requests with an error, which is what its callers get.
    fn refused(&mut self, now: Instant, id: ChildId, error: &str) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        let message = raw::member(error, "message").and_then(raw::text);
        let message = message.unwrap_or_else(|| "no message".to_owned());
        let reason = format!("it refuses to begin: {message}");
        for waiter in child.take_waiters() {
            match waiter.era {
                Era::Legacy => {
                    let id = waiter.message.id().unwrap_or("null");
                    let line = own::refusal(id, error.to_owned());
                    self.outside.answer(now, waiter.exchange, 200, line);
                }
                Era::Modern => self.refuse(now, &waiter, &busy(&reason, BUSY_WAIT)),
            }
        }
        self.end_child(now, id, &reason);
    }
}

/// The error of a request that may succeed after `wait`.
pub(super) fn busy(reason: &str, wait: Duration) -> BridgeError {
    BridgeError::Unavailable {
        reason: reason.to_owned(),
        retry_after: Some(wait),
    }
}
