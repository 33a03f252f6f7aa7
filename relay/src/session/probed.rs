//! The links of one shard with sent frames that are not known to have arrived. They are checked far more often than
//! other links, so that a dead path is noticed in time and idle links cost nothing.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tieline_wire::Moment;

use super::SharedMux;
use crate::io::{Signal, sleep};

/// Interval of these checks: with [`tieline_wire::limits::PROBE_AFTER`] and [`tieline_wire::limits::PROBE_TIMEOUT`], a
/// dead link is given up within 4.5 s.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The links of one shard with sent frames that are not known to have arrived.
#[derive(Default)]
pub(crate) struct ProbedLinks {
    links: RefCell<Vec<Weak<SharedMux>>>,
    added: Signal,
}

impl ProbedLinks {
    /// Adds a link; the link itself prevents being added twice.
    pub(super) fn add(&self, link: Weak<SharedMux>) {
        self.links.borrow_mut().push(link);
        self.added.raise();
    }

    /// Checks the links while the shard runs.
    pub(crate) async fn watch(&self, now: impl Fn() -> Moment) {
        loop {
            self.added.wait().await;
            while !self.links.borrow().is_empty() {
                sleep(LOOK_INTERVAL).await;
                self.look(now());
            }
        }
    }

    /// Sends due pings, ends links that stay silent, and drops links whose frames have arrived.
    pub(super) fn look(&self, now: Moment) {
        let mut links = self.links.take();
        links.retain(|link| {
            link.upgrade()
                .is_some_and(|link: Rc<SharedMux>| link.look(now))
        });
        // The end of a link may wake tasks that add other links: keep those too.
        self.links.borrow_mut().append(&mut links);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.links.borrow().len()
    }
}
