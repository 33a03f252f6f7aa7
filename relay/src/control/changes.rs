//! Gate for operators' changes. It is closed while a successor relay reads this relay's state, and after the
//! successor took over: a change made then would be lost to the successor.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Admits changes, or holds them back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<ChangesState>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct ChangesState {
    under_way: usize,
    is_held: bool,
}

/// A change in progress; ends when dropped.
#[derive(Debug)]
pub(super) struct Change(Arc<Inner>);

impl Changes {
    /// Begins a change; `None` while changes are held back.
    pub(super) fn begin(&self) -> Option<Change> {
        let mut state = self.0.state();
        if state.is_held {
            return None;
        }
        state.under_way += 1;
        Some(Change(Arc::clone(&self.0)))
    }

    /// Holds new changes back and waits for those in progress. Returns false, and admits changes again, if that
    /// takes longer than `limit`.
    pub(crate) fn hold(&self, limit: Duration) -> bool {
        let mut state = self.0.state();
        state.is_held = true;
        let waited = self
            .0
            .ended
            .wait_timeout_while(state, limit, |state| state.under_way > 0);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.is_held = state.under_way == 0;
        state.is_held
    }

    /// Holds new changes back, without waiting.
    pub(crate) fn close(&self) {
        self.0.state().is_held = true;
    }

    /// Admits changes again.
    pub(crate) fn go_on(&self) {
        self.0.state().is_held = false;
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, ChangesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
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
        let other = changes.begin().expect("a failed hold admits changes again");
        drop((change, other));
        assert!(changes.hold(Duration::ZERO));
        assert!(changes.begin().is_none());
        changes.go_on();
        assert!(changes.begin().is_some());
    }
}
