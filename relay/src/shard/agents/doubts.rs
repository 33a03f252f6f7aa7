//! Links in doubt: if one link of an agent does not answer a ping soon, the agent's other links are pinged too, on
//! whichever shards they are. So links that share a dead path are given up together, and a request that goes from one to
//! the next does not wait for each of them in turn.

use super::super::kit::Kit;
use super::super::mail::message::Message;
use super::Agents;
use crate::session::AgentRun;

/// Tells every shard that a link of this run of an agent is silent.
pub(super) fn post_doubt(kit: &Kit, run: AgentRun) {
    for shard in 0..kit.mail.shards() {
        kit.mail.post(shard, Message::Doubt(run));
    }
}

impl Agents {
    /// Pings the links of an agent one of whose links is silent; a link that answers goes on as before.
    pub(in crate::shard) fn confirm_links(&self, run: &AgentRun) {
        for entry in self.registry.borrow().links_of_run(run) {
            entry.mux.confirm();
        }
    }
}
