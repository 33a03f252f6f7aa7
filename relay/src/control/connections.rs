//! Chooses which connection an admin listener closes when it has too many: silent ones first, except for some
//! of them, then idle ones, then those with a request in progress; never one that showed the admin token.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use tokio::task::AbortHandle;

/// Limit of open admin connections on one listener.
const CONNECTIONS_MAX: usize = 64;

/// Silent connections that are spared while others were answered: a request takes a moment to follow its
/// connection, and answered connections must not leave newcomers a single place.
const SILENT_KEPT: usize = CONNECTIONS_MAX / 2;

/// State of one connection.
#[derive(Debug, Default)]
pub(super) struct ConnectionState {
    has_asked: AtomicBool,
    /// Requests being answered: one, or none.
    asking: AtomicUsize,
    is_trusted: AtomicBool,
}

/// Reason to keep a connection, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    /// No complete request head has arrived.
    Silent,
    /// Between two requests.
    Idle,
    InProgress,
    /// The connection showed the admin token.
    Trusted,
}

impl ConnectionState {
    /// Notes that a request's head arrived; the request is in progress until the guard is dropped.
    pub(super) fn ask(self: &Arc<Self>) -> InProgress {
        self.has_asked.store(true, Relaxed);
        self.asking.fetch_add(1, Relaxed);
        InProgress(Arc::clone(self))
    }

    /// Notes that the connection showed the admin token.
    pub(super) fn trust(&self) {
        self.is_trusted.store(true, Relaxed);
    }

    fn worth(&self) -> Worth {
        if self.is_trusted.load(Relaxed) {
            Worth::Trusted
        } else if self.asking.load(Relaxed) > 0 {
            Worth::InProgress
        } else if self.has_asked.load(Relaxed) {
            Worth::Idle
        } else {
            Worth::Silent
        }
    }
}

/// Guard of a request in progress.
pub(super) struct InProgress(Arc<ConnectionState>);

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.asking.fetch_sub(1, Relaxed);
    }
}

/// The connections of one listener, oldest first.
#[derive(Default)]
pub(super) struct Connections(Vec<(Arc<ConnectionState>, AbortHandle)>);

impl Connections {
    /// Makes room for another connection; false if all places belong to connections that showed the token.
    pub(super) fn make_room(&mut self) -> bool {
        self.0.retain(|(_, task)| !task.is_finished());
        self.0.len() < CONNECTIONS_MAX || self.drop_one()
    }

    /// Ends the oldest of the connections that are worth least, but spares some silent ones; false if all
    /// connections showed the token.
    pub(super) fn drop_one(&mut self) -> bool {
        self.0.retain(|(_, task)| !task.is_finished());
        let worths: Vec<_> = self
            .0
            .iter()
            .map(|(standing, _)| standing.worth())
            .collect();
        let silent = worths.iter().filter(|it| **it == Worth::Silent).count();
        let answered = worths.contains(&Worth::Idle) || worths.contains(&Worth::InProgress);
        let is_spared = |worth: Worth| worth == Worth::Silent && answered && silent <= SILENT_KEPT;
        let rest = (0..worths.len()).filter(|at| !is_spared(worths[*at]));
        // `min_by_key` returns the first of several equal ones: the oldest.
        let least = rest.min_by_key(|at| worths[*at]);
        let Some(at) = least.filter(|at| worths[*at] < Worth::Trusted) else {
            return false;
        };
        self.0.remove(at).1.abort();
        true
    }

    pub(super) fn take(&mut self, standing: Arc<ConnectionState>, task: AbortHandle) {
        self.0.push((standing, task));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills all places with connections that never end; `standing` gives the state of each.
    fn full(places: &mut Connections, standing: impl Fn(usize) -> Arc<ConnectionState>) {
        for number in 0..CONNECTIONS_MAX {
            assert!(places.make_room());
            let task = tokio::spawn(std::future::pending::<()>());
            places.take(standing(number), task.abort_handle());
        }
    }

    fn places_of(places: &Connections, standing: &Arc<ConnectionState>) -> bool {
        places.0.iter().any(|(it, _)| Arc::ptr_eq(it, standing))
    }

    #[tokio::test]
    async fn the_oldest_of_those_that_asked_nothing_goes_first() {
        let mut places = Connections::default();
        let all: Vec<Arc<ConnectionState>> = (0..CONNECTIONS_MAX).map(|_| Arc::default()).collect();
        full(&mut places, |number| Arc::clone(&all[number]));
        let asking = all[0].ask();
        drop(all[1].ask());
        all[2].trust();
        // Order of closing: the older silent ones, then the idle one, then the one with a request in progress,
        // then the newer silent ones.
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
        let mut places = Connections::default();
        full(&mut places, |_| {
            let standing = Arc::<ConnectionState>::default();
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
