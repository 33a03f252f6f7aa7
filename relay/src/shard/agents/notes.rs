//! Entries about agents that a shard adds to the audit log.

use tieline_wire::{LinkEnd, RefusalReason, TunnelId, WithdrawalReason};

use super::Agents;
use crate::audit::{Entry, Kind};
use crate::registry::{LinkEntry, LinkId};

impl Agents {
    /// Notes that a link was granted a tunnel.
    pub(super) fn note_registered(&self, link: &LinkEntry, tunnel: &TunnelId) {
        let entry = || self.registration(Kind::Registered, link, Some(tunnel));
        self.kit.peers.audit.note(entry);
    }

    /// Notes that a link loses a tunnel; called while the link still has the tunnel's entry, which names the holder.
    pub(super) fn note_withdrawn(
        &self,
        link: &LinkEntry,
        tunnel: &TunnelId,
        reason: WithdrawalReason,
    ) {
        let entry = || {
            self.registration(Kind::Withdrawn, link, Some(tunnel))
                .reason(reason.word())
        };
        self.kit.peers.audit.note(entry);
    }

    /// Notes that a registration was refused; `tunnel` is `None` if the agent requested no valid name.
    pub(super) fn note_registration_refused(
        &self,
        link: LinkId,
        tunnel: Option<&TunnelId>,
        reason: RefusalReason,
    ) {
        if let Some(link) = self.registry.borrow().link(link) {
            let entry = || self.registration(Kind::RegistrationRefused, link, tunnel);
            let entry = || entry().reason(reason.word());
            self.kit.peers.audit.note_refused(entry);
        }
    }

    /// Notes the end of a link, or of a connection that did not become one. Any peer can make a key and shake hands, so
    /// a link that never had a tunnel is noted like a refused connection.
    pub(super) fn note_link_end(&self, link: &LinkEntry, reason: LinkEnd) {
        let entry = || {
            match &link.agent {
                Some(agent) => Entry::new(Kind::LinkEnded).agent(agent.key),
                None => Entry::new(Kind::LinkRefused),
            }
            .from(link.peer)
            .reason(reason.word())
        };
        if link.has_served {
            self.kit.peers.audit.note(entry);
        } else {
            self.kit.peers.audit.note_refused(entry);
        }
    }

    /// Entry about a registration, with the tunnel's holder if the link has the tunnel. A name that holds a
    /// token is left out.
    fn registration(&self, kind: Kind, link: &LinkEntry, tunnel: Option<&TunnelId>) -> Entry {
        let mut entry = Entry::new(kind).from(link.peer);
        if let Some(agent) = &link.agent {
            entry = entry.agent(agent.key);
        }
        if let Some(tunnel) = tunnel {
            if !self.kit.is_token(tunnel.as_str()) {
                entry = entry.tunnel(tunnel.clone());
            }
            if let Some(it) = link.tunnels().get(tunnel) {
                entry = entry.of(it.identity.as_deref()).dcc(&it.info.dcc);
            }
        }
        entry
    }
}
