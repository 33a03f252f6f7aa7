//! The links in the tables: how one comes in, opens sessions, is swept and rechecked, and ends.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tieline_wire::{
    AgentKey, LinkEnd, Mux, NoSession, OpenError, RelayHello, Settings, TunnelId, WithdrawalReason,
};
use tracing::info;

use super::Agents;
use crate::auth::{Identity, Snapshot};
use crate::clock::now_seconds;
use crate::directory::ReleaseKind;
use crate::io::{Stream, turn};
use crate::limits::AddressCount;
use crate::quic::Connection;
use crate::registry::{LinkEntry, LinkId, LinkRef};
use crate::session::{Session, SessionCaller, SharedMux};

/// Links that are swept in one turn of the shard: 50 us on a shard with 10,000.
const SWEEP_LINKS: usize = 256;

/// Links and tunnels that are rechecked in one turn of the shard: some 100 us.
const RECHECK_COUNT: usize = 512;

impl Agents {
    /// Puts a link from `peer` into the tables; `stranger` counts it until its agent has a tunnel.
    pub(in crate::shard) fn link_arrived(
        &self,
        mux: &Rc<SharedMux>,
        peer: SocketAddr,
        stranger: AddressCount,
    ) -> LinkId {
        let came = (peer, self.kit.clock.now());
        self.kit.metrics.links.inc();
        self.registry
            .borrow_mut()
            .add(Rc::clone(mux), came, stranger)
    }

    /// Notes that a link is over QUIC, so that its path can be shown.
    pub(in crate::shard) fn link_over_quic(&self, id: LinkId, connection: &Rc<Connection>) {
        self.registry.borrow_mut().runs_over(id, connection);
    }

    /// The mux of a new link over `stream`, whose agent is asked to sign `nonce`. Only a link over a plain socket may
    /// have bulk lanes.
    pub(in crate::shard) fn new_mux(&self, nonce: [u8; 32], stream: &Stream) -> Rc<SharedMux> {
        // The kernel cannot move bytes that TLS encrypts, and a lane in clear text would show them. A lane has no
        // WebSocket, so a network that lets only WebSockets pass would stop it.
        let bulk_run_bytes = match stream.plain() {
            Some(_) => self.kit.peers.config.bulk_run_bytes,
            None => 0,
        };
        self.shared(self.mux(nonce, stream.exporter(), bulk_run_bytes))
    }

    /// The mux of a new link over QUIC, whose sessions have streams of their own.
    pub(in crate::shard) fn new_mux_over_quic(
        &self,
        nonce: [u8; 32],
        exporter: Option<[u8; 32]>,
    ) -> Rc<SharedMux> {
        self.shared(self.mux(nonce, exporter, 0).over_streams())
    }

    fn mux(&self, nonce: [u8; 32], exporter: Option<[u8; 32]>, bulk_run_bytes: u64) -> Mux {
        let config = &self.kit.peers.config;
        let settings = Settings {
            heartbeat: config.stale_timeout / 3,
            stale: config.stale_timeout,
            sessions_max: config.sessions_max,
            bulk_run_bytes,
            ..Settings::default()
        };
        let hello = RelayHello::new(nonce, config.sessions_max).with_exporter(exporter);
        let mut mux = Mux::relay(hello, settings, self.kit.clock.now());
        mux.share_budget(Arc::clone(&self.kit.metrics.budget));
        mux
    }

    fn shared(&self, mux: Mux) -> Rc<SharedMux> {
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
            .open(tunnel, &it.sessions, caller)
            .map_err(|error| match error {
                OpenError::Full => NoSession::SessionLimit,
                OpenError::Closing => NoSession::TunnelOffline,
            })
    }

    /// Takes what counts a link whose agent has no tunnel, for the shard that the link moves to.
    pub(in crate::shard) fn take_stranger(&self, id: LinkId) -> AddressCount {
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
        self.keep_lost_report(&entry);
        // The agent may close as soon as it reads the reason, so the reason decided here counts.
        let reason = entry.mux.closing().unwrap_or(reason);
        self.kit.metrics.links.dec();
        self.note_link_end(&entry, reason);
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
            self.release(tunnel, id, kind);
        }
        true
    }

    /// Sends due pings, ends stale links, and withdraws tunnels whose permissions have expired.
    pub(in crate::shard) async fn sweep_links(&self) {
        in_turns(|from| {
            let (now, now_seconds) = (self.kit.clock.now(), now_seconds());
            let end = |entry: &LinkEntry, reason| entry.mux.close(reason);
            let mut registry = self.registry.borrow_mut();
            let (expired, next) = registry.sweep(from, SWEEP_LINKS, now, now_seconds, end);
            drop(registry);
            // Before other tasks run, since they may renew a permission that has expired here.
            for (link, tunnel) in expired {
                self.withdraw(link, &tunnel, WithdrawalReason::TokenExpired, None);
            }
            next
        })
        .await;
    }

    /// Ends the links that a new auth snapshot no longer allows; returns their number.
    pub(in crate::shard) async fn recheck(&self, snapshot: &Snapshot) -> usize {
        let mut total = 0;
        in_turns(|after| {
            let now_seconds = now_seconds();
            let check = |key: Option<&AgentKey>, identity: Option<&Identity>| {
                let allowed = snapshot.still_allows(identity, key, now_seconds);
                // The sweep withdraws tunnels whose tokens have merely expired.
                allowed.or_else(|end| end.of_links().map_or(Ok(()), Err))
            };
            let end = |entry: &LinkEntry, reason| entry.mux.close(reason);
            let registry = self.registry.borrow();
            let (ended, last) = registry.recheck(after, RECHECK_COUNT, check, end);
            total += ended;
            last
        })
        .await;
        total
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

/// Calls `step`, first with `None` and then with what it returned, in one turn of the shard each, until it returns
/// `None`.
pub(super) async fn in_turns(mut step: impl FnMut(Option<LinkId>) -> Option<LinkId>) {
    let mut at = None;
    loop {
        at = step(at);
        if at.is_none() {
            return;
        }
        turn().await;
    }
}
