//! Authenticated callers that this shard serves now. A change of tokens or denials revokes those that it no longer
//! allows.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use slab::Slab;
use tieline_wire::{NoSession, TunnelId};

use crate::auth::{Identity, may_reach};
use crate::io::Signal;
use crate::registry::TunnelInfo;

/// The authenticated callers of one shard, while it serves them.
#[derive(Default)]
pub(super) struct Served {
    callers: RefCell<Slab<Weak<ServedCaller>>>,
}

/// An authenticated caller, while this shard serves it.
struct ServedCaller {
    identity: Arc<Identity>,
    /// Why the caller is revoked, once it is.
    reason: Cell<Option<NoSession>>,
    /// Raised when the caller is revoked.
    revoked: Signal,
    served: Rc<Served>,
    /// Index of the caller in `served`.
    place: usize,
}

impl Drop for ServedCaller {
    fn drop(&mut self) {
        self.served.callers.borrow_mut().remove(self.place);
    }
}

impl Served {
    /// Registers a caller that is served from now on.
    pub(super) fn enter(self: &Rc<Self>, identity: Arc<Identity>) -> Caller {
        Caller(Some(Rc::new_cyclic(|caller| ServedCaller {
            identity,
            reason: Cell::new(None),
            revoked: Signal::default(),
            served: Rc::clone(self),
            place: self.callers.borrow_mut().insert(Weak::clone(caller)),
        })))
    }

    /// Revokes the callers for which `reason_of` has a reason; returns how many.
    pub(super) fn recheck(&self, reason_of: impl Fn(&Identity) -> Option<NoSession>) -> usize {
        let mut ended = 0;
        for caller in self.callers.borrow().iter().filter_map(|it| it.1.upgrade()) {
            if caller.reason.get().is_none()
                && let Some(reason) = reason_of(&caller.identity)
            {
                caller.reason.set(Some(reason));
                caller.revoked.raise();
                ended += 1;
            }
        }
        ended
    }
}

/// A caller: authenticated, or anonymous where the relay needs no token.
#[derive(Clone)]
pub(in crate::shard) struct Caller(Option<Rc<ServedCaller>>);

impl Caller {
    pub(super) const ANONYMOUS: Self = Self(None);

    /// The caller's identity; `None` for an anonymous caller.
    pub(in crate::shard) fn identity(&self) -> Option<&Arc<Identity>> {
        self.0.as_ref().map(|it| &it.identity)
    }

    /// Ready once the caller is revoked, with the reason.
    pub(in crate::shard) fn poll_revoked(&self, cx: &mut Context<'_>) -> Poll<NoSession> {
        let Some(caller) = &self.0 else {
            return Poll::Pending;
        };
        loop {
            if let Some(reason) = caller.reason.get() {
                return Poll::Ready(reason);
            }
            ready!(caller.revoked.poll_wait(cx));
        }
    }

    /// Whether the caller's token is neither revoked nor expired.
    pub(in crate::shard) fn is_current(&self, now_seconds: u64) -> bool {
        self.0.as_ref().is_none_or(|it| {
            let ends = it.identity.expires_at_seconds;
            it.reason.get().is_none() && ends.is_none_or(|end| now_seconds < end)
        })
    }

    /// Runs `task` for the caller and drops it unfinished if the caller is revoked; `beside` lives equally long.
    pub(in crate::shard) fn while_welcome<T, B>(self, task: T, beside: B) -> WhileWelcome<T, B> {
        WhileWelcome {
            task,
            caller: self,
            beside,
        }
    }

    /// Whether the caller may know of a tunnel that one of its agents described with `info`.
    pub(in crate::shard) fn may_reach(&self, tunnel: &TunnelId, info: &TunnelInfo) -> bool {
        self.identity()
            .is_none_or(|it| may_reach(it, tunnel, info.owner.as_deref()))
    }
}

pin_project! {
    /// A task for a caller. Written by hand because an async block would hold the task twice, and a session's task
    /// is most of the memory that an idle session takes.
    pub(in crate::shard) struct WhileWelcome<T, B> {
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
        if this.caller.poll_revoked(cx).is_ready() {
            return Poll::Ready(());
        }
        this.task.poll(cx).map(drop)
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
        let served = Rc::new(Served::default());
        let (ada, bob) = (served.enter(identity("ada")), served.enter(identity("bob")));
        let recheck = |reason| served.recheck(move |it| (it.sub() == "bob").then_some(reason));
        assert_eq!(recheck(NoSession::AuthChanged), 1);
        assert_eq!(recheck(NoSession::Revoked), 0);
        let reason = poll_fn(|cx| bob.poll_revoked(cx)).await;
        assert_eq!(reason, NoSession::AuthChanged);
        assert!(ada.is_current(99) && !bob.is_current(99));
        let adas = poll_fn(|cx| Poll::Ready(ada.poll_revoked(cx))).await;
        assert!(adas.is_pending());
    }

    #[test]
    fn who_is_served_no_longer_is_forgotten() {
        let served = Rc::new(Served::default());
        drop(served.enter(identity("ada")));
        assert!(served.callers.borrow().is_empty());
    }

    #[test]
    fn a_token_is_good_until_its_last_second() {
        let served = Rc::new(Served::default());
        let ada = served.enter(identity("ada"));
        assert!(ada.is_current(99) && !ada.is_current(100));
    }
}
