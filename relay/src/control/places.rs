//! Who keeps a place at an admin listener when there are too many connections: those that showed the admin
//! token before those that asked something, and these before most of those that have not asked anything yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use tokio::task::AbortHandle;

/// Admin connections at a time on one listener.
const CONNECTIONS_MAX: usize = 64;

/// Connections that may be silent without being the first to go: a request takes a moment to follow its
/// connection, and those that were answered must not leave newcomers a single place.
const SILENT_KEPT: usize = CONNECTIONS_MAX / 2;

/// What is known of one connection.
#[derive(Debug, Default)]
pub(super) struct Standing {
    has_asked: AtomicBool,
    /// Requests that are being answered: one, or none.
    asking: AtomicUsize,
    is_trusted: AtomicBool,
}

/// What a connection is worth keeping for, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    /// No head of it is complete.
    Silent,
    /// Between two requests.
    Idle,
    Asking,
    /// It showed the token.
    Trusted,
}

impl Standing {
    /// A request's head is here; it is being answered until the guard is dropped.
    pub(super) fn ask(self: &Arc<Self>) -> Asking {
        self.has_asked.store(true, Relaxed);
        self.asking.fetch_add(1, Relaxed);
        Asking(Arc::clone(self))
    }

    /// It has shown the admin token.
    pub(super) fn trust(&self) {
        self.is_trusted.store(true, Relaxed);
    }

    fn worth(&self) -> Worth {
        if self.is_trusted.load(Relaxed) {
            Worth::Trusted
        } else if self.asking.load(Relaxed) > 0 {
            Worth::Asking
        } else if self.has_asked.load(Relaxed) {
            Worth::Idle
        } else {
            Worth::Silent
        }
    }
}

/// A request that is being answered.
pub(super) struct Asking(Arc<Standing>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.asking.fetch_sub(1, Relaxed);
    }
}

/// The connections of one listener, the oldest first.
#[derive(Default)]
pub(super) struct Places(Vec<(Arc<Standing>, AbortHandle)>);

impl Places {
    /// Makes room for another connection; false if all places belong to holders of the token.
    pub(super) fn make_room(&mut self) -> bool {
        self.0.retain(|(_, task)| !task.is_finished());
        self.0.len() < CONNECTIONS_MAX || self.drop_one()
    }

    /// Ends the oldest connection of those that are worth least, but leaves some silent ones; false if there is none but those of
    /// holders of the token.
    pub(super) fn drop_one(&mut self) -> bool {
        self.0.retain(|(_, task)| !task.is_finished());
        let worths: Vec<_> = self
            .0
            .iter()
            .map(|(standing, _)| standing.worth())
            .collect();
        let silent = worths.iter().filter(|it| **it == Worth::Silent).count();
        let answered = worths.contains(&Worth::Idle) || worths.contains(&Worth::Asking);
        let is_spared = |worth: Worth| worth == Worth::Silent && answered && silent <= SILENT_KEPT;
        let rest = (0..worths.len()).filter(|at| !is_spared(worths[*at]));
        // The first of several that are alike.
        let least = rest.min_by_key(|at| worths[*at]);
        let Some(at) = least.filter(|at| worths[*at] < Worth::Trusted) else {
            return false;
        };
        self.0.remove(at).1.abort();
        true
    }

    pub(super) fn take(&mut self, standing: Arc<Standing>, task: AbortHandle) {
        self.0.push((standing, task));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills all places with connections that never end, of this standing.
    fn full(places: &mut Places, standing: impl Fn(usize) -> Arc<Standing>) {
        for number in 0..CONNECTIONS_MAX {
            assert!(places.make_room());
            let task = tokio::spawn(std::future::pending::<()>());
            places.take(standing(number), task.abort_handle());
        }
    }

    fn places_of(places: &Places, standing: &Arc<Standing>) -> bool {
        places.0.iter().any(|(it, _)| Arc::ptr_eq(it, standing))
    }

    #[tokio::test]
    async fn the_oldest_of_those_that_asked_nothing_goes_first() {
        let mut places = Places::default();
        let all: Vec<Arc<Standing>> = (0..CONNECTIONS_MAX).map(|_| Arc::default()).collect();
        full(&mut places, |number| Arc::clone(&all[number]));
        let asking = all[0].ask();
        drop(all[1].ask());
        all[2].trust();
        // Those without a request, the oldest first, but for the newest; then one between two, then one in
        // the middle of one.
        let kept = CONNECTIONS_MAX - SILENT_KEPT;
        for gone in (3..kept).chain([1, 0]).chain(kept..CONNECTIONS_MAX) {
            assert!(places.drop_one());
            assert!(!places_of(&places, &all[gone]), "{gone}");
        }
        drop(asking);
        assert!(!places.drop_one() && places_of(&places, &all[2]));
    }

    #[tokio::test]
    async fn holders_of_the_token_are_not_pushed_out() {
        let mut places = Places::default();
        full(&mut places, |_| {
            let standing = Arc::<Standing>::default();
            standing.trust();
            standing
        });
        assert!(!places.make_room());
        places.0[7].1.abort();
        while !places.0[7].1.is_finished() {
            tokio::task::yield_now().await;
        }
        assert!(places.make_room());
    }
}
