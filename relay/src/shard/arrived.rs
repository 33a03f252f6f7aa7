//! Number of callers on all shards, each counted from its arrival to its end, on any shard.

use std::sync::Arc;

/// Number of callers of the relay.
#[derive(Default)]
pub(crate) struct CallerCount(Arrived);

/// Counts one caller while it lives.
pub(crate) type Arrived = Arc<()>;

impl CallerCount {
    /// Counts a caller that has just connected.
    pub(super) fn arrived(&self) -> Arrived {
        Arc::clone(&self.0)
    }

    /// Whether there are no callers.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        // One reference is the count's own.
        Arc::strong_count(&self.0) - 1
    }
}
