//! The auth snapshot of a shard, and the end of links and callers that a new snapshot no longer allows.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Shard;
use super::kit::Kit;
use crate::auth::Snapshot;
use crate::io::turn;
use crate::registry::LinkEntry;

/// Links and tunnels that are rechecked in one turn of the shard: some 100 us.
const RECHECK_COUNT: usize = 512;

impl Shard {
    /// Replaces the auth snapshot and ends the links that it no longer allows; `ended` receives their number.
    pub(super) fn auth_changed(
        self: &Rc<Self>,
        snapshot: Arc<Snapshot>,
        ended: oneshot::Sender<usize>,
    ) {
        // Snapshots arrive in order, since one sender sends them all.
        *self.kit.auth.borrow_mut() = Arc::clone(&snapshot);
        self.callers.recheck(&snapshot);
        let shard = Rc::clone(self);
        self.kit.gate.spawn(async move {
            // The control thread may have stopped waiting.
            let _ = ended.send(shard.recheck_links(&snapshot).await);
        });
    }

    async fn recheck_links(&self, snapshot: &Snapshot) -> usize {
        let (mut total, mut after) = (0, None);
        loop {
            let now_seconds = Kit::seconds_since_1970();
            let (ended, last) = self.registry.borrow().recheck(
                after,
                RECHECK_COUNT,
                |key, identity| {
                    let allowed = snapshot.still_allows(identity, key, now_seconds);
                    // The sweep withdraws tunnels whose tokens have merely expired.
                    allowed.or_else(|end| end.of_links().map_or(Ok(()), Err))
                },
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
