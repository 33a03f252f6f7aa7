//! The links in the tables: how one comes in, opens sessions, is swept and ends.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tieline_wire::{LinkEnd, Mux, NoSession, OpenError, RelayHello, Settings, TunnelId};
use tracing::info;

use super::super::kit::Kit;
use super::Agents;
use crate::directory::ReleaseKind;
use crate::io::turn;
use crate::limits::Place;
use crate::registry::{LinkEntry, LinkId, LinkRef};
use crate::session::{Session, SessionCaller, SharedMux};

/// Links that are swept in one turn of the shard: 50 us on a shard with 10,000.
const SWEEP_LINKS: usize = 256;

impl Agents {
    /// Puts a link from `peer` into the tables; `stranger` counts it until its agent has a tunnel.
    pub(in crate::shard) fn link_arrived(
        &self,
        mux: &Rc<SharedMux>,
        peer: SocketAddr,
        stranger: Place,
    ) -> LinkId {
        let came = (peer, self.kit.clock.now());
        self.kit.metrics.links.inc();
        self.registry
            .borrow_mut()
            .add(Rc::clone(mux), came, stranger)
    }

    /// The mux of a new link, whose agent is asked to sign `nonce`.
    pub(in crate::shard) fn new_mux(&self, nonce: [u8; 32]) -> Rc<SharedMux> {
        let config = &self.kit.peers.config;
        let settings = Settings {
            heartbeat: config.stale_timeout / 3,
            stale: config.stale_timeout,
            sessions_max: config.sessions_max,
            bulk_run_bytes: config.bulk_run_bytes,
            ..Settings::default()
        };
        let hello = RelayHello::new(nonce, config.sessions_max);
        let mut mux = Mux::relay(hello, settings, self.kit.clock.now());
        mux.share_budget(Arc::clone(&self.kit.metrics.budget));
        SharedMux::new(
            mux,
            self.kit.clock,
            Arc::clone(&self.kit.metrics),
            Rc::clone(&self.lanes),
            Rc::clone(&self.probed),
        )
    }

    /// Opens a session on a link of this shard.
    pub(in crate::shard) fn open_session(
        &self,
        link: LinkRef,
        tunnel: &TunnelId,
        caller: SessionCaller,
    ) -> Result<Session, NoSession> {
        let registry = self.registry.borrow();
        // The update that removes the link from the route may be on its way.
        let entry = registry.link(link.link).ok_or(NoSession::TunnelOffline)?;
        let it = entry
            .tunnels()
            .get(tunnel)
            .ok_or(NoSession::TunnelOffline)?;
        entry
            .mux
            .open(tunnel, &it.held, caller)
            .map_err(|error| match error {
                OpenError::Full => NoSession::SessionLimit,
                OpenError::Closing => NoSession::TunnelOffline,
            })
    }

    /// Takes what counts a link whose agent has no tunnel, for the shard that the link moves to.
    pub(in crate::shard) fn take_stranger(&self, id: LinkId) -> Place {
        self.registry.borrow_mut().take_stranger(id)
    }

    /// Forgets a link that moves to another shard.
    pub(in crate::shard) fn link_left(&self, id: LinkId) {
        self.registry.borrow_mut().remove(id);
        self.kit.metrics.links.dec();
    }

    /// Takes a link that ended out of the tables, and releases its names; false if there was no such link.
    pub(in crate::shard) fn link_ended(&self, id: LinkId, reason: LinkEnd) -> bool {
        let Some(entry) = self.registry.borrow_mut().remove(id) else {
            return false;
        };
        entry.mux.fail_sessions(reason);
        self.keep_account(&entry);
        // The agent may close as soon as it reads the reason, so the reason decided here counts.
        let reason = entry.mux.closing().unwrap_or(reason);
        self.kit.metrics.links.dec();
        self.note_link_end(&entry, reason);
        let link = LinkRef {
            shard: self.kit.index,
            link: id,
        };
        match &entry.agent {
            Some(_) => {
                if let Some(eviction) = reason.eviction() {
                    self.kit.metrics.link_evicted(eviction);
                }
                if self.may_log() {
                    info!(link = id.0, reason = reason.word(), "link ended");
                }
            }
            None => {
                self.kit.metrics.link_refused(reason.refusal());
                if self.may_log() {
                    info!(link = id.0, peer = %entry.peer, reason = reason.word(), "link refused: {reason}");
                }
            }
        }
        let kind = match reason {
            LinkEnd::AuthChanged => ReleaseKind::HolderChanged,
            _ => ReleaseKind::Away,
        };
        for tunnel in entry.into_tunnels() {
            self.release(tunnel, link, kind);
        }
        true
    }

    /// Sends due pings, ends stale links, and withdraws tunnels whose permissions have expired.
    pub(in crate::shard) async fn sweep_links(&self) {
        let mut from = None;
        loop {
            let (now, now_seconds) = (self.kit.clock.now(), Kit::seconds_since_1970());
            let end = |entry: &LinkEntry, reason| entry.mux.close(reason);
            let (expired, next) =
                self.registry
                    .borrow_mut()
                    .sweep(from, SWEEP_LINKS, now, now_seconds, end);
            // Before other tasks run, since they may renew a permission that has expired here.
            self.withdraw_expired(expired);
            if next.is_none() {
                return;
            }
            from = next;
            turn().await;
        }
    }

    /// Tells every agent to go within `left`.
    pub(in crate::shard) fn drain(&self, left: Duration) {
        for mux in self.registry.borrow().muxes() {
            mux.drain(left);
        }
    }

    /// Ends every link.
    pub(in crate::shard) fn close(&self, reason: LinkEnd) {
        for mux in self.registry.borrow().muxes() {
            mux.close(reason);
        }
    }

    /// Whether no link has a session.
    pub(in crate::shard) fn is_idle(&self) -> bool {
        self.registry.borrow().is_idle()
    }

    /// Whether there are no links.
    pub(in crate::shard) fn is_empty(&self) -> bool {
        self.registry.borrow().is_empty()
    }
}
