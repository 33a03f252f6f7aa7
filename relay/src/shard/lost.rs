//! Links that were lost with requests under way: their accounts are kept until their agents tell, over
//! other links, how far those had come, or until it is too late for a second try.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tieline_wire::{AgentHello, AgentKey, InstanceId, Lost, Moment, Reason};

use super::Shard;
use super::message::Message;
use crate::registry::LinkEntry;
use crate::session::Account;

/// Lost links of which a shard keeps the accounts, some 150 bytes each. Requests of any more are taken
/// for sent.
const KEPT_MAX: usize = 4096;

/// An agent tells of an earlier link of its run.
#[derive(Debug)]
pub(crate) struct LostLink {
    agent: (AgentKey, InstanceId),
    lost: Lost,
}

/// The accounts of links that are gone, by their nonces.
#[derive(Default)]
pub(super) struct LostLinks(HashMap<[u8; 32], Kept>);

struct Kept {
    agent: (AgentKey, InstanceId),
    account: Rc<Account>,
    until: Moment,
}

impl Shard {
    /// A link is gone. If there are requests whose fate its agent alone knows, these may learn it for a
    /// while.
    pub(super) fn keep_account(&self, entry: &LinkEntry) {
        let account = entry.mux.account();
        if !account.is_wanted() {
            return;
        }
        let grace = self.peers.config.http.offline_grace;
        let mut lost = self.lost.borrow_mut();
        match (&entry.agent, entry.nonce) {
            (Some(hello), Some(nonce)) if !grace.is_zero() && lost.0.len() < KEPT_MAX => {
                let kept = Kept {
                    agent: run_of(hello),
                    account: Rc::clone(account),
                    until: self.clock.now() + grace,
                };
                lost.0.insert(nonce, kept);
            }
            _ => account.close(),
        }
    }

    /// The agent of a link here tells of an earlier one, which may have been on any shard.
    pub(super) fn agent_tells(self: &Rc<Self>, hello: &AgentHello, lost: Lost) {
        let agent = run_of(hello);
        let told = Arc::new(LostLink { agent, lost });
        for shard in 0..self.peers.mailboxes.len() {
            self.post(shard, Message::Lost(Arc::clone(&told)));
        }
    }

    /// Takes an account of an agent's lost link, if that was here, and if it was the same run's.
    pub(super) fn lost_told(&self, told: &LostLink) {
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
            // Its agent has given it up, which was not noticed here yet.
            entry.mux.account().told(lost);
            entry.mux.close(Reason::LinkLost);
        }
    }

    /// Gives up the accounts that have not come in time.
    pub(super) fn sweep_lost(&self) {
        let now = self.clock.now();
        self.lost.borrow_mut().0.retain(|_, it| {
            let goes_on = now < it.until;
            if !goes_on {
                it.account.close();
            }
            goes_on
        });
    }
}

/// The run of an agent that a hello proved: nothing is taken from another one.
fn run_of(hello: &AgentHello) -> (AgentKey, InstanceId) {
    (hello.key, hello.instance)
}
