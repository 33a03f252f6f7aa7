//! Authenticated callers that this shard serves now. A change of tokens or denials revokes those that it no longer
//! allows.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;
use slab::Slab;
use tieline_wire::{Reason, TunnelId};

use super::Shard;
use super::kit::{Kit, ends_what_runs};
use crate::auth::{Identity, TokenRefusal, may_reach, verify_caller};
use crate::config::CallerAuth;
use crate::registry::TunnelInfo;

/// The authenticated callers of one shard.
#[derive(Default)]
pub(super) struct Callers {
    entries: RefCell<Slab<Rc<Entry>>>,
}

struct Entry {
    identity: Arc<Identity>,
    is_revoked: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Callers {
    /// Registers a caller that is served from now on.
    pub(super) fn enter(self: &Rc<Self>, identity: Arc<Identity>) -> Known {
        let entry = Rc::new(Entry {
            identity,
            is_revoked: Cell::new(false),
            waiter: RefCell::default(),
        });
        let place = self.entries.borrow_mut().insert(Rc::clone(&entry));
        Known {
            entry,
            place,
            callers: Rc::clone(self),
        }
    }

    /// Revokes the callers that `allowed` rejects; returns how many.
    pub(super) fn recheck(&self, allowed: impl Fn(&Identity) -> bool) -> usize {
        let mut ended = 0;
        for (_, entry) in self.entries.borrow().iter() {
            if !entry.is_revoked.get() && !allowed(&entry.identity) {
                entry.is_revoked.set(true);
                ended += 1;
                if let Some(waiter) = entry.waiter.take() {
                    waiter.wake();
                }
            }
        }
        ended
    }
}

/// An authenticated caller, while this shard serves it.
pub(super) struct Known {
    entry: Rc<Entry>,
    place: usize,
    callers: Rc<Callers>,
}

impl Known {
    pub(super) fn identity(&self) -> &Arc<Identity> {
        &self.entry.identity
    }

    /// Ready once the caller is revoked.
    pub(super) fn poll_revoked(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.entry.is_revoked.get() {
            return Poll::Ready(());
        }
        let mut waiter = self.entry.waiter.borrow_mut();
        match &mut *waiter {
            Some(known) => known.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Whether the caller's token is neither revoked nor expired.
    pub(super) fn is_current(&self, now_seconds: u64) -> bool {
        let ends = self.entry.identity.expires_at_seconds;
        !self.entry.is_revoked.get() && ends.is_none_or(|end| now_seconds < end)
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        self.callers.entries.borrow_mut().remove(self.place);
    }
}

/// A caller: authenticated, or anonymous where the relay needs no token.
#[derive(Clone)]
pub(super) struct Caller(Option<Rc<Known>>);

impl Caller {
    pub(super) fn known(&self) -> Option<&Known> {
        self.0.as_deref()
    }

    pub(super) fn identity(&self) -> Option<Arc<Identity>> {
        self.known().map(|known| Arc::clone(known.identity()))
    }

    /// Runs `task` for the caller and drops it unfinished if the caller is revoked; `beside` lives equally long.
    pub(super) fn while_welcome<T, B>(self, task: T, beside: B) -> WhileWelcome<T, B> {
        WhileWelcome {
            task,
            caller: self,
            beside,
        }
    }

    /// Whether the caller may know of a tunnel that one of its agents described with `info`.
    pub(super) fn may_reach(&self, tunnel: &TunnelId, info: &TunnelInfo) -> bool {
        self.known()
            .is_none_or(|known| may_reach(known.identity(), tunnel, info.owner.as_deref()))
    }
}

pin_project! {
    /// A task for a caller. Written by hand because an async block would hold the task twice, and a session's task
    /// is most of the memory that an idle session takes.
    pub(super) struct WhileWelcome<T, B> {
        #[pin]
        task: T,
        caller: Caller,
        beside: B,
    }
}

impl<T: Future, B> Future for WhileWelcome<T, B> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if let Some(known) = this.caller.known()
            && known.poll_revoked(cx).is_ready()
        {
            return Poll::Ready(());
        }
        this.task.poll(cx).map(drop)
    }
}

impl Shard {
    /// Authenticates the caller that presents `token`.
    pub(super) fn caller(&self, token: Option<&str>) -> Result<Caller, TokenRefusal> {
        if self.kit.peers.config.caller_auth == CallerAuth::None {
            return Ok(Caller(None));
        }
        let now_seconds = Kit::seconds_since_1970();
        let token = token.unwrap_or_default();
        let verified = verify_caller(&self.kit.auth.borrow(), token, now_seconds);
        if let Err(TokenRefusal::Unavailable(_)) = verified {
            self.kit.wants_keys();
        }
        let identity = verified?;
        Ok(Caller(Some(Rc::new(
            self.callers.enter(Arc::new(identity)),
        ))))
    }

    /// Registers a caller that another shard authenticated. This shard's auth snapshot may be newer.
    pub(super) fn caller_from(&self, identity: Option<Arc<Identity>>) -> Result<Caller, Reason> {
        let Some(identity) = identity else {
            return Ok(Caller(None));
        };
        let now_seconds = Kit::seconds_since_1970();
        let allowed = self
            .kit
            .auth
            .borrow()
            .still_allows(Some(&identity), None, now_seconds);
        match allowed {
            Err(reason) if ends_what_runs(reason) => Err(reason),
            _ => Ok(Caller(Some(Rc::new(self.callers.enter(identity))))),
        }
    }
}

/// The reason for the counters when a raw caller's token is refused.
pub(super) fn reason(refusal: &TokenRefusal) -> Reason {
    match refusal {
        TokenRefusal::Expired(_) => Reason::TokenExpired,
        TokenRefusal::NotYet(_) => Reason::TokenNotYet,
        TokenRefusal::Revoked => Reason::Revoked,
        TokenRefusal::Unavailable(_) => Reason::AuthUnavailable,
        TokenRefusal::Missing
        | TokenRefusal::Bad(_)
        | TokenRefusal::Scope(_)
        | TokenRefusal::NoTokens => Reason::BadToken,
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::auth::Owner;

    fn identity(sub: &str) -> Arc<Identity> {
        let owner = Arc::new(Owner {
            sub: sub.to_owned(),
            groups: Vec::new(),
        });
        Arc::new(Identity {
            owner,
            expires_at_seconds: Some(100),
            ..Identity::default()
        })
    }

    #[tokio::test]
    async fn only_those_who_are_allowed_no_longer_are_ended() {
        let callers = Rc::new(Callers::default());
        let (ada, bob) = (
            callers.enter(identity("ada")),
            callers.enter(identity("bob")),
        );
        assert_eq!(callers.recheck(|it| it.sub() != "bob"), 1);
        assert_eq!(callers.recheck(|it| it.sub() != "bob"), 0);
        poll_fn(|cx| bob.poll_revoked(cx)).await;
        assert!(ada.is_current(99) && !bob.is_current(99));
        let adas = poll_fn(|cx| Poll::Ready(ada.poll_revoked(cx))).await;
        assert!(adas.is_pending());
    }

    #[test]
    fn who_is_served_no_longer_is_forgotten() {
        let callers = Rc::new(Callers::default());
        drop(callers.enter(identity("ada")));
        assert!(callers.entries.borrow().is_empty());
    }

    #[test]
    fn a_token_is_good_until_its_last_second() {
        let callers = Rc::new(Callers::default());
        let ada = callers.enter(identity("ada"));
        assert!(ada.is_current(99) && !ada.is_current(100));
    }
}
