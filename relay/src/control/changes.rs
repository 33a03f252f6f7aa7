//! Whether operators may change something now: not while another relay reads what this one has kept, and not
//! once that one has taken over. What they change then would hold at this relay alone.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Lets changes begin, or holds them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    gate: Mutex<Gate>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Gate {
    under_way: usize,
    is_held: bool,
}

/// A change that is under way, until this is dropped.
#[derive(Debug)]
pub(super) struct Change(Arc<Inner>);

impl Changes {
    /// Begins a change; nothing while they are held.
    pub(super) fn begin(&self) -> Option<Change> {
        let mut gate = self.0.gate();
        if gate.is_held {
            return None;
        }
        gate.under_way += 1;
        Some(Change(Arc::clone(&self.0)))
    }

    /// Lets no more changes begin, and waits for those under way. False, and they go on, if that takes longer than
    /// `limit`.
    pub(crate) fn hold(&self, limit: Duration) -> bool {
        let mut gate = self.0.gate();
        gate.is_held = true;
        let waited = self
            .0
            .ended
            .wait_timeout_while(gate, limit, |gate| gate.under_way > 0);
        gate = waited.unwrap_or_else(PoisonError::into_inner).0;
        gate.is_held = gate.under_way == 0;
        gate.is_held
    }

    /// Lets no more changes begin.
    pub(crate) fn close(&self) {
        self.0.gate().is_held = true;
    }

    /// Lets changes begin again.
    pub(crate) fn go_on(&self) {
        self.0.gate().is_held = false;
    }
}

impl Inner {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        self.0.gate().under_way -= 1;
        self.0.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reads_the_folder_waits_for_changes_and_lets_none_begin() {
        let changes = Changes::default();
        let change = changes.begin().unwrap();
        assert!(!changes.hold(Duration::from_millis(1)));
        let other = changes.begin().expect("they go on");
        drop((change, other));
        assert!(changes.hold(Duration::ZERO));
        assert!(changes.begin().is_none());
        changes.go_on();
        assert!(changes.begin().is_some());
    }
}
