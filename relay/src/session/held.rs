//! Counts sessions by who holds them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many of the sessions that were opened with it somebody still holds.
///
/// Written by the shard of its link only; others read it to choose among agents, and need not be
/// exact.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held(Arc<AtomicUsize>);

impl Held {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn hold(&self) -> Hold {
        self.0.fetch_add(1, Ordering::Relaxed);
        Hold(self.clone())
    }
}

/// One of them.
pub(crate) struct Hold(Held);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
