//! Who is let in: this shard's copy of what decides it, and what a change of that ends.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Shard;
use crate::auth::{Ask, Snapshot};
use crate::io::turn;
use crate::registry::LinkEntry;

/// Links that are checked before others get a turn: some 100 us.
const RECHECK_LINKS: usize = 256;

impl Shard {
    /// What decides now who is let in.
    pub(super) fn auth(&self) -> Arc<Snapshot> {
        Arc::clone(&self.auth.borrow())
    }

    /// Has the control thread look for newer keys; it does so every now and then at most.
    pub(super) fn wants_keys(&self) {
        // If so many wait already, one of them wants the same.
        let _ = self.peers.asks.try_send(Ask::NewerKeys);
    }

    /// Takes a snapshot over and ends the links that it no longer allows; `ended` hears how many.
    pub(super) fn auth_changed(
        self: &Rc<Self>,
        snapshot: Arc<Snapshot>,
        ended: oneshot::Sender<usize>,
    ) {
        // Never an older one: they come from one sender, in order.
        *self.auth.borrow_mut() = Arc::clone(&snapshot);
        let shard = Rc::clone(self);
        self.gate.spawn(async move {
            // Nobody may be waiting any more.
            let _ = ended.send(shard.recheck_links(&snapshot).await);
        });
    }

    async fn recheck_links(&self, snapshot: &Snapshot) -> usize {
        let (mut total, mut after) = (0, None);
        loop {
            let now_seconds = Self::seconds_since_1970();
            let (ended, last) = self.registry.borrow().recheck(
                after,
                RECHECK_LINKS,
                |key, identity| snapshot.still_allows(identity, Some(key), now_seconds),
                |entry: &LinkEntry, reason| entry.mux.close(reason),
            );
            total += ended;
            match last {
                Some(last) => after = Some(last),
                None => return total,
            }
            turn().await;
        }
    }
}
