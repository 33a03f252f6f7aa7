//! The links of one shard with sent frames that are not known to have arrived, or whose agents may have more data to
//! send. They are checked far more often than other links, so that a dead path is noticed in time and idle links cost
//! nothing.
//!
//! If one link of an agent does not answer, the agent's other links may be dead too: the shard is told, and has them
//! pinged ([`SharedMux::confirm`]).

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Weak;
use std::time::Duration;

use tieline_wire::{AgentKey, InstanceId, Moment};

use super::SharedMux;
use crate::io::{Signal, sleep};

/// Interval of these checks: with [`tieline_wire::limits::PROBE_AFTER`] and [`tieline_wire::limits::PROBE_TIMEOUT`], a
/// dead link is given up within 4.5 s.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// One run of an agent, as its signed hello proves.
pub(crate) type AgentRun = (AgentKey, InstanceId);

/// The links of one shard that are waiting for bytes of their agents.
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

    /// Checks the links while the shard runs. Calls `doubt` for each agent one of whose links is silent.
    pub(crate) async fn watch(&self, now: impl Fn() -> Moment, doubt: impl Fn(AgentRun)) {
        loop {
            self.added.wait().await;
            while !self.links.borrow().is_empty() {
                sleep(LOOK_INTERVAL).await;
                self.look(now()).into_iter().for_each(&doubt);
            }
        }
    }

    /// Sends due pings, ends links that stay silent, and drops links that wait for nothing more. Returns the agents with
    /// several links one of which has just not answered a ping soon.
    pub(super) fn look(&self, now: Moment) -> HashSet<AgentRun> {
        let mut links = self.links.take();
        let mut doubted = HashSet::new();
        links.retain(|link| {
            let Some(link) = link.upgrade() else {
                return false;
            };
            let goes_on = link.look(now);
            doubted.extend(link.doubted(now));
            goes_on
        });
        // The end of a link may wake tasks that add other links: keep those too.
        self.links.borrow_mut().append(&mut links);
        doubted
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.links.borrow().len()
    }
}
