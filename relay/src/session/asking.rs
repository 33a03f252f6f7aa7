//! The links of one shard that wait to hear that what they sent has arrived. They are looked at far more
//! often than all links are, so that a dead path is noticed in time and idle links cost nothing.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tieline_wire::Moment;

use super::SharedMux;
use crate::io::{Signal, sleep};

/// How often these links are looked at: with [`tieline_wire::limits::PROBE_AFTER`] and
/// [`tieline_wire::limits::PROBE_TIMEOUT`], a dead one is given up within 4.5 s.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The links of one shard that ask something.
#[derive(Default)]
pub(crate) struct Asking {
    links: RefCell<Vec<Weak<SharedMux>>>,
    added: Signal,
}

impl Asking {
    /// Adds a link, which takes care not to be added twice.
    pub(super) fn add(&self, link: Weak<SharedMux>) {
        self.links.borrow_mut().push(link);
        self.added.raise();
    }

    /// Looks after the links, for as long as the shard runs.
    pub(crate) async fn watch(&self, now: impl Fn() -> Moment) {
        loop {
            self.added.wait().await;
            while !self.links.borrow().is_empty() {
                sleep(LOOK_INTERVAL).await;
                self.look(now());
            }
        }
    }

    /// Pings where that is due, ends links that stay silent, and forgets those that know enough.
    pub(super) fn look(&self, now: Moment) {
        let mut links = self.links.take();
        links.retain(|link| {
            link.upgrade()
                .is_some_and(|link: Rc<SharedMux>| link.look(now))
        });
        // A link that is ended here may have added others by what that wakes: none may be lost.
        self.links.borrow_mut().append(&mut links);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.links.borrow().len()
    }
}
