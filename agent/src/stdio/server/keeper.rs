//! The one task of a server that starts children and wakes the bridge in time.

use std::sync::{Arc, Weak};

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::children;
use super::state::Shared;

/// Starts the keeper of a server, unless it runs.
pub(super) fn ensure(shared: &Arc<Shared>) {
    shared.keep(|wake| tokio::spawn(keep(Arc::downgrade(shared), wake)));
}

/// Keeps a server until nothing uses it any more.
async fn keep(shared: Weak<Shared>, wake: Arc<Notify>) {
    while let Some(shared) = shared.upgrade() {
        let turn = shared.turn();
        for start in turn.starts {
            let shared = Arc::clone(&shared);
            tokio::spawn(children::run(shared, start.child, start.inbox));
        }
        // The server may end while the keeper waits.
        drop(shared);
        let woken = wake.notified();
        match turn.until {
            Some(until) => {
                let _ = timeout_at(Instant::from_std(until), woken).await;
            }
            None => woken.await,
        }
    }
}
