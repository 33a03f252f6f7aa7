//! Number of callers on all shards, each counted from its arrival to its end, on any shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Number of callers of the relay.
#[derive(Default)]
pub(crate) struct CallerCount(Arc<AtomicUsize>);

impl CallerCount {
    /// Counts a caller that has just connected.
    pub(super) fn arrived(&self) -> Arrived {
        self.0.fetch_add(1, Ordering::SeqCst);
        Arrived(Arc::clone(&self.0))
    }

    /// Whether there are no callers.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Counts one caller while it lives.
pub(crate) struct Arrived(Arc<AtomicUsize>);

impl Drop for Arrived {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
