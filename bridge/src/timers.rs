//! Moments at which the bridge has something to do by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// A set of named moments, at most one for each name.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    moments: BTreeMap<T, Instant>,
    order: BTreeSet<(Instant, T)>,
}

impl<T: Copy + Ord> Timers<T> {
    /// No moments.
    pub(crate) const fn new() -> Self {
        Self {
            moments: BTreeMap::new(),
            order: BTreeSet::new(),
        }
    }

    /// Sets the moment of `name`, in place of an earlier one.
    pub(crate) fn set(&mut self, name: T, at: Instant) {
        self.clear(name);
        self.moments.insert(name, at);
        self.order.insert((at, name));
    }

    /// Forgets the moment of `name`.
    pub(crate) fn clear(&mut self, name: T) {
        if let Some(at) = self.moments.remove(&name) {
            self.order.remove(&(at, name));
        }
    }

    /// The first moment.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes the first name whose moment has come.
    pub(crate) fn due(&mut self, now: Instant) -> Option<T> {
        let (at, name) = self.order.first().copied()?;
        if at > now {
            return None;
        }
        self.clear(name);
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tests::first_moment;

    #[test]
    fn names_come_due_in_the_order_of_time() {
        let start = first_moment();
        let at = |second| start + Duration::from_secs(second);
        let mut timers = Timers::new();
        timers.set('a', at(1));
        timers.set('b', at(2));
        timers.set('a', at(3));
        timers.set('c', at(4));
        timers.clear('c');
        assert_eq!(timers.first(), Some(at(2)));
        assert_eq!(timers.due(at(1)), None);
        assert_eq!(timers.due(at(5)), Some('b'));
        assert_eq!(timers.due(at(5)), Some('a'));
        assert_eq!(timers.due(at(5)), None);
        assert_eq!(timers.first(), None);
    }
}
