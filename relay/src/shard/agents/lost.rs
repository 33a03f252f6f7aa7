//! Reports on links that were lost with requests under way. A report is awaited until the agent sends it over another
//! link and says how much of each request had reached it, or until it is too late to retry the requests.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tieline_wire::{AgentHello, LinkEnd, Lost, Moment};

use super::super::mail::message::{LostLink, Message};
use super::Agents;
use crate::registry::LinkEntry;
use crate::session::{AgentRun, LostLinkReport};

/// Reports that one shard awaits, some 150 bytes each. Requests of further lost links count as sent, and are not
/// retried.
const KEPT_MAX: usize = 4096;

/// Awaited reports on lost links, by the links' nonces.
#[derive(Default)]
pub(super) struct LostLinks(HashMap<[u8; 32], KeptReport>);

struct KeptReport {
    agent: AgentRun,
    lost_report: Rc<LostLinkReport>,
    until: Moment,
}

impl Agents {
    /// Awaits the report on a link that ended, if the outcome of any of its requests is known to its agent alone. The
    /// requests wait for the agent's report until the offline grace is over.
    pub(super) fn keep_lost_report(&self, entry: &LinkEntry) {
        let lost_report = entry.mux.lost_report();
        if !lost_report.is_wanted() {
            return;
        }
        let grace = self.kit.peers.config.callers.offline_grace;
        let mut lost = self.lost.borrow_mut();
        match (&entry.agent, entry.nonce) {
            (Some(hello), Some(nonce)) if !grace.is_zero() && lost.0.len() < KEPT_MAX => {
                let kept = KeptReport {
                    agent: run_of(hello),
                    lost_report: Rc::clone(lost_report),
                    until: self.kit.clock.now() + grace,
                };
                lost.0.insert(nonce, kept);
            }
            _ => lost_report.close(),
        }
    }

    /// Sends an agent's report on an earlier link to every shard, since that link may have been on any of them.
    pub(super) fn post_lost_report(&self, hello: &AgentHello, lost: Lost) {
        let agent = run_of(hello);
        let told = Arc::new(LostLink { agent, lost });
        for shard in 0..self.kit.mail.shards() {
            self.kit.mail.post(shard, Message::Lost(Arc::clone(&told)));
        }
    }

    /// Applies an agent's report to the lost link, if that link was here and of the same run.
    pub(in crate::shard) fn apply_lost_report(&self, told: &LostLink) {
        let LostLink { agent, lost } = told;
        let mut kept = self.lost.borrow_mut();
        if kept.0.get(&lost.nonce).is_some_and(|it| it.agent == *agent) {
            if let Some(it) = kept.0.remove(&lost.nonce) {
                it.lost_report.apply(lost);
            }
            return;
        }
        drop(kept);
        let registry = self.registry.borrow();
        let entry = registry.link_of_nonce(&lost.nonce);
        let is_theirs = |it: &&LinkEntry| it.agent.as_ref().map(run_of) == Some(*agent);
        if let Some(entry) = entry.filter(is_theirs) {
            // The agent has given the link up before this shard noticed the loss.
            entry.mux.lost_report().apply(lost);
            entry.mux.close(LinkEnd::LinkLost);
        }
    }

    /// Gives up on the reports that have not arrived in time.
    pub(in crate::shard) fn sweep_lost(&self) {
        let now = self.kit.clock.now();
        self.lost.borrow_mut().0.retain(|_, it| {
            let goes_on = now < it.until;
            if !goes_on {
                it.lost_report.close();
            }
            goes_on
        });
    }
}

/// The run of an agent, as its signed hello proves; a report counts for links of the same run only.
fn run_of(hello: &AgentHello) -> AgentRun {
    (hello.key, hello.instance)
}
