//! What a shard notes in the audit log.

use std::net::SocketAddr;

use tieline_wire::{Reason, TunnelId};

use super::Shard;
use super::callers::Caller;
use crate::audit::{Entry, Kind};
use crate::registry::{LinkEntry, LinkId};
use crate::session::Noted;

impl Shard {
    /// A link got a tunnel.
    pub(super) fn note_registered(&self, link: LinkId, tunnel: &TunnelId) {
        let mut registry = self.registry.borrow_mut();
        if let Some(link) = registry.link_mut(link) {
            link.serves();
            let entry = || registration(Kind::Registered, link, Some(tunnel));
            self.peers.audit.note(entry);
        }
    }

    /// A link loses a tunnel that it had. To be noted while it is known whose it was.
    pub(super) fn note_withdrawn(&self, link: &LinkEntry, tunnel: &TunnelId, reason: Reason) {
        let entry = || registration(Kind::Withdrawn, link, Some(tunnel)).reason(reason.word());
        self.peers.audit.note(entry);
    }

    /// A link did not get the tunnel that it asked for, or one without a name of its own choice.
    pub(super) fn note_unregistered(
        &self,
        link: LinkId,
        tunnel: Option<&TunnelId>,
        reason: Reason,
    ) {
        if let Some(link) = self.registry.borrow().link(link) {
            let entry = || registration(Kind::RegistrationRefused, link, tunnel);
            let entry = || entry().reason(reason.word());
            self.peers.audit.note_refused(entry);
        }
    }

    /// A link is gone, or a connection did not become one. Anybody can make a key and shake hands: a
    /// link that never got a tunnel is no more than a connection that was turned away.
    pub(super) fn note_link_end(&self, link: &LinkEntry, reason: Reason) {
        let entry = || {
            match &link.agent {
                Some(agent) => Entry::new(Kind::LinkEnded).agent(agent.key),
                None => Entry::new(Kind::LinkRefused),
            }
            .from(link.peer)
            .reason(reason.word())
        };
        if link.has_served {
            self.peers.audit.note(entry);
        } else {
            self.peers.audit.note_refused(entry);
        }
    }

    /// A raw caller is turned away.
    pub(super) fn raw_refused(
        &self,
        peer: SocketAddr,
        tunnel: Option<&TunnelId>,
        caller: Option<&Caller>,
        reason: Reason,
    ) {
        self.metrics.frontend_refused(reason);
        self.peers.audit.note_refused(|| {
            let known = caller.and_then(Caller::known);
            let identity = known.map(|known| &**known.identity());
            let entry = Entry::new(Kind::SessionRefused).of(identity);
            let entry = entry.from(peer).reason(reason.word());
            match tunnel {
                Some(tunnel) => entry.tunnel(tunnel.clone()),
                None => entry,
            }
        });
    }

    /// How a raw session is noted, if it is.
    pub(super) fn noted(&self, peer: SocketAddr, tunnel: &TunnelId) -> Option<Box<Noted>> {
        let audit = &self.peers.audit;
        audit.is_on().then(|| {
            Box::new(Noted {
                audit: audit.clone(),
                tunnel: tunnel.clone(),
                peer,
            })
        })
    }
}

/// What is said of a registration: whose tunnel it is is known where the link has it.
fn registration(kind: Kind, link: &LinkEntry, tunnel: Option<&TunnelId>) -> Entry {
    let mut entry = Entry::new(kind).from(link.peer);
    if let Some(agent) = &link.agent {
        entry = entry.agent(agent.key);
    }
    if let Some(tunnel) = tunnel {
        entry = entry.tunnel(tunnel.clone());
        if let Some(it) = link.tunnels().get(tunnel) {
            entry = entry.of(it.identity.as_deref()).dcc(&it.info.dcc);
        }
    }
    entry
}
