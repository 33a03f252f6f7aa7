//! What a link's task asks of its shard's agents: its agent's hello, registrations and farewells.

use std::net::IpAddr;
use std::rc::Rc;

use tieline_wire::{
    AgentHello, ChannelBinding, LinkEnd, Lost, Mux, RefusalReason, Register, TunnelId,
};
use tracing::{debug, info};

use super::Agents;
use super::spread::shard_of;
use crate::directory::ReleaseKind;
use crate::host::{host_of, is_loopback};
use crate::link::{LinkHost, Stay};
use crate::listen::proxied::Source;
use crate::registry::{Channel, LinkId};

/// A link's access to its shard's agents.
pub(in crate::shard) struct Host {
    pub(in crate::shard) agents: Rc<Agents>,
    pub(in crate::shard) id: LinkId,
    pub(in crate::shard) source: Source,
    /// What carries the link, as a stable word.
    pub(in crate::shard) transport: &'static str,
    /// Exporter of the link's TLS connection, if this relay ends it; the agent's proof may be bound to it.
    pub(in crate::shard) exporter: Option<[u8; 32]>,
    /// The nonce that the agent is asked to sign.
    pub(in crate::shard) nonce: [u8; 32],
}

impl LinkHost for Host {
    fn hello(&self, hello: AgentHello, may_move: bool) -> Result<Stay, LinkEnd> {
        let agents = &self.agents;
        let domain = agents.kit.peers.config.domain.as_deref();
        if !is_called(domain, &hello.relay_name, self.source.address().ip()) {
            return Err(LinkEnd::RelayName);
        }
        if may_move
            && let Some(to) = shard_of(&hello, agents.kit.mail.shards())
            && to != agents.kit.index
        {
            return Ok(Stay::OnShard(to));
        }
        if agents.kit.auth().is_denied(None, Some(&hello.key)) {
            return Err(LinkEnd::Revoked);
        }
        let binding = hello.binding(&self.nonce, self.exporter.as_ref());
        if binding != ChannelBinding::Bound && agents.kit.peers.config.tls.require_binding {
            debug!(peer = %self.source.address(), binding = binding.word(), "an agent's proof is not bound");
            return Err(LinkEnd::Unbound);
        }
        let channel = Channel {
            transport: self.transport,
            is_bound: binding == ChannelBinding::Bound,
        };
        let mut registry = agents.registry.borrow_mut();
        registry.link(self.id).ok_or(LinkEnd::LinkLost)?;
        if agents.may_log() {
            info!(
                link = self.id.0,
                peer = %self.source.address(),
                agent = ?hello.key,
                version = hello.agent_version,
                transport = self.transport,
                binding = binding.word(),
                "link up"
            );
        }
        registry.introduce(self.id, hello, self.nonce, channel);
        agents.kit.metrics.link_established(self.transport);
        Ok(Stay::Here)
    }

    fn register(&self, mux: &mut Mux, register: Register) {
        let agents = &self.agents;
        let Err(refusal) = agents.register(self.id, self.source, mux, &register) else {
            return;
        };
        if refusal.reason == RefusalReason::AuthUnavailable {
            agents.kit.peers.asks.newer_keys();
        }
        // A token in the name's place may have capitals, which a tunnel's name has not.
        let name = register.name.as_deref();
        let name = name.filter(|name| !agents.kit.is_token(name));
        let name = name.and_then(|name| TunnelId::parse(name).ok());
        agents.note_early_refusal(self.id, name.as_ref(), refusal.reason);
        mux.refuse_registration(register.request, refusal);
    }

    fn unregister(&self, tunnel: &TunnelId) {
        self.part(tunnel, ReleaseKind::TakenBack);
    }

    fn lost(&self, lost: Lost) {
        let registry = self.agents.registry.borrow();
        let link = registry.link(self.id);
        if let Some(hello) = link.and_then(|it| it.agent.as_ref()) {
            self.agents.post_lost_report(hello, lost);
        }
    }

    fn going_away(&self) {
        let agents = &self.agents;
        let tunnels: Vec<TunnelId> = match agents.registry.borrow().link(self.id) {
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
        let agents = &self.agents;
        let mut registry = agents.registry.borrow_mut();
        let Some(it) = registry.remove_tunnel(self.id, tunnel) else {
            return;
        };
        if let Some(entry) = registry.link_mut(self.id) {
            entry.leave(tunnel.clone(), it);
        }
        drop(registry);
        agents.release(tunnel.clone(), self.id, kind);
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
    fn through_a_forwarder_on_its_machine_an_agent_needs_a_name_that_is_not_loopback() {
        let forwarder = IpAddr::from([192, 0, 2, 1]);
        let called = |domain, name| is_called(domain, name, forwarder);
        assert!(!called(None, "localhost:9001"));
        // A line in the hosts file leads the name to the forwarder.
        assert!(called(None, "relay.internal:9001"));
        assert!(called(Some("relay.example"), "relay.example:9001"));
        assert!(!called(Some("relay.example"), "relay.internal:9001"));
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
