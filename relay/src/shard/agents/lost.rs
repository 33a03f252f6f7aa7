//! Accounts of links that were lost with requests under way. An account is kept until its agent reports, over another
//! link, how much of each request had reached it, or until it is too late to retry the requests.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tieline_wire::{AgentHello, AgentKey, InstanceId, LinkEnd, Lost, Moment};

use super::super::mail::message::{LostLink, Message};
use super::Agents;
use crate::registry::LinkEntry;
use crate::session::Account;

/// Accounts that one shard keeps, some 150 bytes each. Requests of further lost links count as sent, and are not
/// retried.
const KEPT_MAX: usize = 4096;

/// Accounts of lost links, by the links' nonces.
#[derive(Default)]
pub(super) struct LostLinks(HashMap<[u8; 32], Kept>);

struct Kept {
    agent: (AgentKey, InstanceId),
    account: Rc<Account>,
    until: Moment,
}

impl Agents {
    /// Keeps the account of a link that ended, if the outcome of any of its requests is known to its agent alone. The
    /// requests wait for the agent's report until the offline grace is over.
    pub(super) fn keep_account(&self, entry: &LinkEntry) {
        let account = entry.mux.account();
        if !account.is_wanted() {
            return;
        }
        let grace = self.kit.peers.config.http.offline_grace;
        let mut lost = self.lost.borrow_mut();
        match (&entry.agent, entry.nonce) {
            (Some(hello), Some(nonce)) if !grace.is_zero() && lost.0.len() < KEPT_MAX => {
                let kept = Kept {
                    agent: run_of(hello),
                    account: Rc::clone(account),
                    until: self.kit.clock.now() + grace,
                };
                lost.0.insert(nonce, kept);
            }
            _ => account.close(),
        }
    }

    /// Sends an agent's report on an earlier link to every shard, since that link may have been on any of them.
    pub(super) fn agent_tells(&self, hello: &AgentHello, lost: Lost) {
        let agent = run_of(hello);
        let told = Arc::new(LostLink { agent, lost });
        for shard in 0..self.kit.mail.shards() {
            self.kit.mail.post(shard, Message::Lost(Arc::clone(&told)));
        }
    }

    /// Applies an agent's report to the account of the lost link, if that link was here and of the same run.
    pub(in crate::shard) fn lost_told(&self, told: &LostLink) {
        let LostLink { agent, lost } = told;
        let mut kept = self.lost.borrow_mut();
        if kept.0.get(&lost.nonce).is_some_and(|it| it.agent == *agent) {
            if let Some(it) = kept.0.remove(&lost.nonce) {
                it.account.told(lost);
            }
            return;
        }
        drop(kept);
        let registry = self.registry.borrow();
        let entry = registry.link_of_nonce(&lost.nonce);
        let is_theirs = |it: &&LinkEntry| it.agent.as_ref().map(run_of) == Some(*agent);
        if let Some(entry) = entry.filter(is_theirs) {
            // The agent has given the link up before this shard noticed the loss.
            entry.mux.account().told(lost);
            entry.mux.close(LinkEnd::LinkLost);
        }
    }

    /// Closes the accounts whose reports have not arrived in time.
    pub(in crate::shard) fn sweep_lost(&self) {
        let now = self.kit.clock.now();
        self.lost.borrow_mut().0.retain(|_, it| {
            let goes_on = now < it.until;
            if !goes_on {
                it.account.close();
            }
            goes_on
        });
    }
}

/// The run of an agent, as its signed hello proves; a report counts for links of the same run only.
fn run_of(hello: &AgentHello) -> (AgentKey, InstanceId) {
    (hello.key, hello.instance)
}
