//! Links: serving an agent's connection, and releasing its names when it ends.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use ring::rand::{SecureRandom, SystemRandom};
use tieline_wire::{
    AgentHello, LinkEnd, LinkRefusal, Lost, Mux, RefusalReason, Register, RegisterAck, RelayHello,
    Settings, TunnelId,
};
use tracing::{Instrument, info, info_span};

use super::Shard;
use super::kit::Kit;
use super::mail::message::{Greeting, Message};
use super::placement::shard_of;
use super::registration::Registering;
use crate::directory::ReleaseKind;
use crate::host::{host_of, is_loopback};
use crate::io::{Socket, turn};
use crate::limits::Place;
use crate::link::{self, Left, LinkHost, NOTSENT_BYTES, Stay};
use crate::registry::{LinkEntry, LinkId, LinkRef};
use crate::session::SharedMux;

/// Links that are swept in one turn of the shard: 50 us on a shard with 10,000.
const SWEEP_LINKS: usize = 256;

impl Shard {
    pub(super) fn serve_link(
        self: &Rc<Self>,
        socket: Socket,
        (peer, stranger): (SocketAddr, Place),
        greeting: Option<Greeting>,
    ) {
        let greeted = greeting.is_some();
        let Greeting { mut nonce, said } = greeting.unwrap_or_default();
        if !greeted && SystemRandom::new().fill(&mut nonce).is_err() {
            // Without a random nonce a signed hello could be replayed.
            self.link_gone(self.kit.index);
            self.kit.metrics.link_refused(LinkRefusal::Internal);
            return;
        }
        let mux = self.new_mux(nonce);
        let since = self.kit.clock.now();
        let id = self
            .registry
            .borrow_mut()
            .add(Rc::clone(&mux), (peer, since), stranger);
        socket.tune_link(self.kit.peers.config.stale_timeout, NOTSENT_BYTES);
        self.kit.metrics.links.inc();
        let host = Host {
            shard: Rc::clone(self),
            id,
            peer,
            nonce,
        };
        let span = info_span!("link", id = id.0, %peer);
        let guard = LinkGuard {
            shard: Rc::clone(self),
            id,
            end: Some(LinkEnd::ShuttingDown),
        };
        let said = if greeted { mux.greeted(said) } else { said };
        self.kit.gate.spawn(
            async move {
                // The guard's drop runs even if the gate drops this task.
                let mut guard = guard;
                match link::run(socket, said, &mux, &host, &host.shard.link_block).await {
                    Left::Ended(reason) => guard.end = Some(reason),
                    Left::Moved { to, fd, said } => {
                        // Counted there first: otherwise callers would be steered as if no shard had a link.
                        host.shard.link_expected(to);
                        guard.end = None;
                        let message = Message::Link {
                            fd,
                            peer,
                            stranger: host.shard.registry.borrow_mut().take_stranger(id),
                            greeting: Some(Box::new(Greeting { nonce, said })),
                        };
                        drop(guard);
                        host.shard.move_link(to, message).await;
                    }
                }
            }
            .instrument(span),
        );
    }

    /// The mux of a new link, whose agent is asked to sign `nonce`.
    fn new_mux(&self, nonce: [u8; 32]) -> Rc<SharedMux> {
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

    fn link_ended(self: &Rc<Self>, id: LinkId, reason: LinkEnd) {
        let Some(entry) = self.registry.borrow_mut().remove(id) else {
            return;
        };
        entry.mux.fail_sessions(reason);
        self.keep_account(&entry);
        // The agent may close as soon as it reads the reason, so the reason decided here counts.
        let reason = entry.mux.closing().unwrap_or(reason);
        self.link_gone(self.kit.index);
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
    }

    /// Sends due pings, ends stale links, and withdraws tunnels whose permissions have expired.
    pub(super) async fn sweep_links(self: &Rc<Self>) {
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
}

/// Removes a link from its shard when its task ends or is dropped.
struct LinkGuard {
    shard: Rc<Shard>,
    id: LinkId,
    /// Reason of the link's end; `None` if the link moves to another shard.
    end: Option<LinkEnd>,
}

impl Drop for LinkGuard {
    fn drop(&mut self) {
        match self.end {
            Some(reason) => self.shard.link_ended(self.id, reason),
            None => self.shard.link_left(self.id),
        }
    }
}

/// The link's access to its shard.
struct Host {
    shard: Rc<Shard>,
    id: LinkId,
    peer: SocketAddr,
    /// The nonce that the agent is asked to sign.
    nonce: [u8; 32],
}

impl LinkHost for Host {
    fn hello(&self, hello: AgentHello, may_move: bool) -> Result<Stay, LinkEnd> {
        let shard = &self.shard;
        let domain = shard.kit.peers.config.domain.as_deref();
        if !is_called(domain, &hello.relay_name, self.peer.ip()) {
            return Err(LinkEnd::RelayName);
        }
        if may_move
            && let Some(to) = shard_of(&hello, shard.kit.mail.shards())
            && to != shard.kit.index
        {
            return Ok(Stay::OnShard(to));
        }
        if shard.kit.auth().is_denied(None, Some(&hello.key)) {
            return Err(LinkEnd::Revoked);
        }
        let mut registry = shard.registry.borrow_mut();
        registry.link(self.id).ok_or(LinkEnd::LinkLost)?;
        if shard.may_log() {
            info!(
                link = self.id.0,
                peer = %self.peer,
                agent = ?hello.key,
                version = hello.agent_version,
                transport = "tcp",
                "link up"
            );
        }
        registry.introduce(self.id, hello, self.nonce);
        shard.kit.metrics.links_total.inc();
        Ok(Stay::Here)
    }

    fn register(&self, mux: &mut Mux, register: Register) {
        let shard = &self.shard;
        let refusal = match shard.register(self.id, self.peer, &register) {
            Ok(Registering::Claimed) => return mux.trust(),
            Ok(Registering::Asked) => return,
            Err(refusal) => refusal,
        };
        if refusal.reason == RefusalReason::AuthUnavailable {
            shard.kit.wants_keys();
        }
        let name = register.name.as_deref().map(TunnelId::parse);
        let name = name.and_then(Result::ok);
        shard.note_refused(self.id, name.as_ref(), refusal.reason);
        mux.register_ack(&RegisterAck {
            request: register.request,
            outcome: Err(refusal),
        });
    }

    fn unregister(&self, tunnel: &TunnelId) {
        self.part(tunnel, ReleaseKind::TakenBack);
    }

    fn lost(&self, lost: Lost) {
        let registry = self.shard.registry.borrow();
        let agent = registry
            .link(self.id)
            .and_then(|it| it.agent.as_ref().cloned());
        drop(registry);
        if let Some(hello) = agent {
            self.shard.agent_tells(&hello, lost);
        }
    }

    fn going_away(&self) {
        let shard = &self.shard;
        let tunnels: Vec<TunnelId> = match shard.registry.borrow().link(self.id) {
            Some(entry) => entry.tunnels().keys().cloned().collect(),
            None => return,
        };
        for tunnel in tunnels {
            self.part(&tunnel, ReleaseKind::Away);
        }
    }
}

impl Host {
    /// Takes a tunnel from the link's registry entry; its sessions go on, and no new ones begin.
    fn part(&self, tunnel: &TunnelId, kind: ReleaseKind) {
        let shard = &self.shard;
        let mut registry = shard.registry.borrow_mut();
        let Some(it) = registry.remove_tunnel(self.id, tunnel) else {
            return;
        };
        if let Some(entry) = registry.link_mut(self.id) {
            entry.leave(tunnel.clone(), it);
        }
        drop(registry);
        let link = LinkRef {
            shard: shard.kit.index,
            link: self.id,
        };
        shard.release(tunnel.clone(), link, kind);
    }
}

/// Whether an agent at `peer` that dialled `name` (`host:port`) meant this relay, whose own name is `domain` if it has
/// one. A loopback name means a different relay on every machine: a hello signed for it is accepted from this machine
/// only. From elsewhere, it may have been signed for a relay there and passed on.
fn is_called(domain: Option<&str>, name: &str, peer: IpAddr) -> bool {
    let host = host_of(name);
    if is_loopback(host) {
        return peer.to_canonical().is_loopback();
    }
    domain.is_none_or(|domain| host.eq_ignore_ascii_case(domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_must_have_dialled_this_relays_name() {
        let here = IpAddr::from([127, 0, 0, 1]);
        let called = |name| is_called(Some("relay.example"), name, here);
        assert!(called("Relay.Example:9001"));
        assert!(called("relay.example.:9001"));
        assert!(called("127.0.0.1:9001"));
        assert!(called("[::1]:9001"));
        assert!(!called("evil.example:9001"));
        assert!(!called("192.0.2.1:9001"));
        assert!(is_called(None, "evil.example:9001", here));
    }

    #[test]
    fn a_loopback_name_is_good_from_this_machine_only() {
        for name in [
            "127.0.0.1:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
            "localhost.",
            "a.localhost:1",
        ] {
            for domain in [None, Some("relay.example"), Some("localhost")] {
                for (peer, expected) in [
                    ("127.9.9.9", true),
                    ("::1", true),
                    ("::ffff:127.0.0.1", true),
                    ("192.0.2.1", false),
                    ("2001:db8::1", false),
                    ("::ffff:192.0.2.1", false),
                ] {
                    let called = is_called(domain, name, peer.parse().unwrap());
                    assert_eq!(called, expected, "{name} from {peer}");
                }
            }
        }
    }
}
