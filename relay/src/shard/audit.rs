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
        self.note_registration(Kind::Registered, link, Some(tunnel), |entry| entry);
    }

    /// A link did not get the tunnel that it asked for, or one without a name of its own choice; or it
    /// lost one that it had.
    pub(super) fn note_unregistered(
        &self,
        link: LinkId,
        tunnel: Option<&TunnelId>,
        reason: Reason,
    ) {
        let why = |entry: Entry| entry.reason(reason.word());
        self.note_registration(Kind::RegistrationRefused, link, tunnel, why);
    }

    fn note_registration(
        &self,
        kind: Kind,
        link: LinkId,
        tunnel: Option<&TunnelId>,
        more: impl FnOnce(Entry) -> Entry,
    ) {
        if !self.peers.audit.is_on() {
            return;
        }
        let registry = self.registry.borrow();
        let Some(link) = registry.link(link) else {
            return;
        };
        self.peers.audit.note(|| {
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
            more(entry)
        });
    }

    /// A link is gone, or a connection did not become one.
    pub(super) fn note_link_end(&self, link: &LinkEntry, reason: Reason) {
        self.peers.audit.note(|| {
            match &link.agent {
                Some(agent) => Entry::new(Kind::LinkEnded).agent(agent.key),
                None => Entry::new(Kind::LinkRefused),
            }
            .from(link.peer)
            .reason(reason.word())
        });
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
        self.peers.audit.note(|| {
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
