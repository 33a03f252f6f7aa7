//! The sessions of one tunnel on one link: their number, their callers, and the bytes that they moved.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use slab::Slab;

use super::record::SessionRecord;

/// The sessions of one tunnel on one link that a task still holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct TunnelSessions(Rc<Inner>);

/// Number of held sessions, for the choice among agents on other shards, which need not be exact. Only the link's shard
/// writes it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Load(Arc<AtomicUsize>);

impl Load {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, count: usize) {
        self.0.store(count, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Inner {
    load: Load,
    records: RefCell<Slab<Rc<SessionRecord>>>,
    /// Bytes moved by sessions that are over: to the target, and to the frontend.
    bytes: Cell<(u64, u64)>,
}

impl TunnelSessions {
    pub(crate) fn count(&self) -> usize {
        self.0.records.borrow().len()
    }

    /// The number of held sessions, for other shards.
    pub(crate) fn load(&self) -> &Load {
        &self.0.load
    }

    /// Payload bytes of all sessions, past and present: to the target, and to the frontend.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let records = self.0.records.borrow();
        let live = records.iter().map(|(_, record)| record.bytes());
        live.fold(self.0.bytes.get(), add)
    }

    /// The sessions that are held now.
    pub(crate) fn records(&self) -> Vec<Rc<SessionRecord>> {
        let records = self.0.records.borrow();
        records
            .iter()
            .map(|(_, record)| Rc::clone(record))
            .collect()
    }

    pub(super) fn hold(&self, record: SessionRecord) -> CountedSession {
        let record = Rc::new(record);
        record.began();
        let place = self.0.records.borrow_mut().insert(Rc::clone(&record));
        self.0.load.set(self.count());
        CountedSession {
            sessions: self.clone(),
            place,
            record,
        }
    }
}

/// Counts one session while its holder has it.
pub(super) struct CountedSession {
    sessions: TunnelSessions,
    place: usize,
    /// The caller and the byte counts of the session.
    pub(super) record: Rc<SessionRecord>,
}

impl Drop for CountedSession {
    fn drop(&mut self) {
        let inner = &self.sessions.0;
        inner.records.borrow_mut().remove(self.place);
        inner.load.set(self.sessions.count());
        inner.bytes.set(add(inner.bytes.get(), self.record.bytes()));
        self.record.ended();
    }
}

fn add(one: (u64, u64), other: (u64, u64)) -> (u64, u64) {
    (one.0.wrapping_add(other.0), one.1.wrapping_add(other.1))
}

#[cfg(test)]
mod tests {
    use tieline_wire::{Moment, SessionId};

    use super::*;
    use crate::metrics::Direction;
    use crate::session::SessionCaller;

    #[test]
    fn what_went_over_a_session_still_counts_when_it_is_over() {
        let sessions = TunnelSessions::default();
        let hold = || {
            let id = SessionId(1);
            sessions.hold(SessionRecord::new(
                id,
                Moment::default(),
                SessionCaller::default(),
            ))
        };
        let (first, second) = (hold(), hold());
        first.record.moved(Direction::ToTarget, 10);
        second.record.moved(Direction::ToFrontend, 5);
        assert_eq!((sessions.count(), sessions.bytes()), (2, (10, 5)));
        drop(first);
        assert_eq!((sessions.count(), sessions.bytes()), (1, (10, 5)));
        assert_eq!(sessions.records()[0].bytes(), (0, 5));
        drop(second);
        assert_eq!((sessions.count(), sessions.bytes()), (0, (10, 5)));
    }
}
