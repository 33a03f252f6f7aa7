//! QUIC on a shard: its endpoints, what their connections become, and their end. `shard/links` serves links; `callers` takes
//! each stream of a caller to a session, and `crossing` to one on another shard.

mod callers;
mod crossing;

use std::net::{SocketAddr, UdpSocket};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tieline_transport::quic::close_code;
use tieline_wire::LinkEnd;
use tracing::{debug, error, warn};

pub(super) use self::crossing::serve_crossed;
use super::Shard;
use super::mail::message::{Message, QuicMessage, Stop};
use crate::certificates::{Served, ServerConfigs};
use crate::error::ListenKind;
use crate::io::{PacketSteering, timeout, turn};
use crate::limits::Handshake;
use crate::metrics::TlsFailure;
use crate::quic::{CONNECTIONS_MAX, Connection, Endpoint, Host, LocalTask, Place, Setup, Strays};

/// Part of the stale timeout by which the idle timeout of a connection is longer: the heartbeat of a link finds a silent
/// agent first, and tells the reason.
const IDLE_MARGIN: u32 = 2;

/// Least idle timeout of a connection: callers are told to send something every 30 s, which may be late or lost.
const IDLE_TIMEOUT_MIN: Duration = Duration::from_secs(60);

/// Time for the drivers of closed connections to tell the peers: [`CONNECTIONS_MAX`] packets at about 10 µs each, rounded
/// up. Only a socket that has no room needs the whole time.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);

/// A shard as its endpoints see it. They belong to the shard, so that none of the two keeps the other.
struct ShardHost(Weak<Shard>);

impl Host for ShardHost {
    fn spawn(&self, task: LocalTask) {
        if let Some(shard) = self.0.upgrade() {
            shard.kit.tasks.spawn(task);
        }
    }

    fn handshake_place(&self, client: SocketAddr, has_proof: bool) -> Option<Handshake> {
        let shard = self.0.upgrade()?;
        match has_proof {
            true => shard.handshake_place(client.ip()),
            false => shard.doors.handshakes.enter(client.ip(), None),
        }
    }

    fn pass_on(&self, to: usize, strays: Strays) -> bool {
        let shard = self.0.upgrade();
        shard.is_some_and(|shard| {
            let mailbox = shard.kit.peers.mailboxes.get(to);
            // Not posted: a packet that waits for room would be late, and is sent again anyway.
            let message = Message::Quic(QuicMessage::Strays(Box::new(strays)));
            mailbox.is_some_and(|it| it.try_send(message).is_ok())
        })
    }

    fn connected(&self, connection: Rc<Connection>) {
        if let Some(shard) = self.0.upgrade() {
            shard.quic_connected(connection);
        }
    }
}

impl Shard {
    pub(super) fn quic_arrived(self: &Rc<Self>, message: QuicMessage) {
        match message {
            QuicMessage::Listen {
                address,
                socket,
                steering,
            } => self.listen_quic(address, socket, steering),
            QuicMessage::Strays(strays) => {
                // Without the endpoint this shard does not read yet: the packets are sent again.
                if let Some(endpoint) = self.endpoint(strays.address) {
                    endpoint.take_strays(*strays);
                }
            }
        }
    }

    /// Reads `socket` from now on, one of those of the QUIC address with number `address`.
    fn listen_quic(self: &Rc<Self>, address: usize, socket: UdpSocket, steering: PacketSteering) {
        // The configuration is checked: without certificates there is no such address.
        let Some(configs) = self.kit.tls() else {
            return;
        };
        let known = self.endpoint(address);
        let opened = match &known {
            Some(endpoint) => endpoint.also_read(socket),
            None => self.open_endpoint(address, &configs, socket, steering),
        };
        match opened {
            Ok(reads) => self.doors.packets.spawn(reads),
            Err(error) => error!(%error, "a UDP socket is unusable"),
        }
    }

    fn open_endpoint(
        self: &Rc<Self>,
        address: usize,
        configs: &ServerConfigs,
        socket: UdpSocket,
        steering: PacketSteering,
    ) -> std::io::Result<LocalTask> {
        let peers = &self.kit.peers;
        let setup = Setup {
            host: Rc::new(ShardHost(Rc::downgrade(self))),
            place: Place {
                address,
                shard: self.kit.index,
                shards: peers.mailboxes.len(),
                steering,
            },
            keys: peers.quic.clone(),
            tls: Arc::clone(&configs.quic),
            handshake_timeout: peers.config.preamble_timeout,
            idle_timeout: idle_timeout(peers.config.stale_timeout),
            connections_max: CONNECTIONS_MAX,
            metrics: Arc::clone(&self.kit.metrics),
        };
        let (endpoint, reads) = Endpoint::open(setup, socket)?;
        self.doors.endpoints.borrow_mut().push(endpoint);
        Ok(reads)
    }

    fn endpoint(&self, address: usize) -> Option<Rc<Endpoint>> {
        let endpoints = self.doors.endpoints.borrow();
        endpoints.iter().find(|it| it.address() == address).cloned()
    }

    /// Uses other configurations of TLS for new connections.
    pub(super) fn tls_changed(&self, configs: Arc<ServerConfigs>) {
        for endpoint in self.doors.endpoints.borrow().iter() {
            endpoint.renew(&configs.quic);
        }
        *self.kit.tls.borrow_mut() = Some(configs);
    }

    /// Dispatches a connection by the protocol that the client named.
    fn quic_connected(self: &Rc<Self>, connection: Rc<Connection>) {
        let protocol = connection.protocol();
        let has_certificate = connection.has_peer_certificate();
        let served = self.kit.tls().and_then(|configs| {
            configs.served(protocol.as_deref(), ListenKind::Quic, has_certificate)
        });
        match served {
            Some(Served::As(ListenKind::Agent)) => self.serve_quic_link(connection),
            Some(Served::As(ListenKind::Tcp)) => self.serve_quic_caller(connection),
            None => {
                self.kit.metrics.tls_failed(TlsFailure::NoClientCertificate);
                connection.end(LinkEnd::ClientCertificate);
            }
            // The configuration of QUIC offers no other protocol.
            Some(Served::As(_) | Served::Check) => {
                debug!(peer = %connection.peer(), "QUIC connection closed, since nothing serves it");
                connection.end(LinkEnd::Version);
            }
        }
    }

    /// Begins no more connections. If another relay takes over, closes all, and reads no more: packets that this relay
    /// read would be lost to the other.
    pub(super) async fn close_quic_doors(&self, stop: Stop) {
        for endpoint in self.doors.endpoints.borrow().iter() {
            endpoint.turn_away();
        }
        if stop.hands_over {
            self.end_quic(LinkEnd::ShuttingDown).await;
            self.doors.packets.close();
            self.doors.packets.empty().await;
        }
    }

    /// Closes all connections, and tells their peers.
    pub(super) async fn end_quic(&self, reason: LinkEnd) {
        let endpoints = self.doors.endpoints.borrow().clone();
        for endpoint in &endpoints {
            endpoint.close(close_code(reason), reason.word().as_bytes());
        }
        let told = async {
            while endpoints.iter().any(|it| it.has_close_due()) {
                turn().await;
            }
        };
        if timeout(TELL_TIMEOUT, told).await.is_err() {
            warn!(
                "the relay stops without having told all peers over QUIC, since a UDP socket has no room"
            );
        }
    }
}

/// Silence after which a connection ends, for links that are evicted after `stale_timeout`.
fn idle_timeout(stale_timeout: Duration) -> Duration {
    let timeout = stale_timeout.saturating_mul(IDLE_MARGIN);
    timeout.max(IDLE_TIMEOUT_MIN)
}

#[cfg(test)]
mod tests {
    use tieline_transport::quic::IDLE_TIMEOUT_MAX;

    use super::*;

    #[test]
    fn callers_may_be_silent_for_a_minute_and_agents_for_longer_than_their_stale_timeout() {
        let seconds = Duration::from_secs;
        assert_eq!(idle_timeout(Duration::from_millis(100)), seconds(60));
        assert_eq!(idle_timeout(seconds(30)), seconds(60));
        assert_eq!(idle_timeout(seconds(45)), seconds(90));
        // The longest stale timeout of all: agents offer as much, so the relay's number holds.
        assert_eq!(idle_timeout(seconds(86_400)), IDLE_TIMEOUT_MAX);
    }
}
