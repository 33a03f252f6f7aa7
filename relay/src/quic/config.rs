//! Settings of a shard's QUIC endpoint, beside those that relay and agent share (`transport::quic`). Every limit is set on
//! purpose.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn_proto::{
    ConnectionIdGenerator, EndpointConfig, NoneTokenLog, ServerConfig, ValidationTokenConfig,
};
use tieline_transport::quic;

use super::ids::{Here, ShardIds};
use super::keys::QuicKeys;

/// First packets of a shard that wait for their handshake. One is answered in a turn, in about 1 ms, so the last of
/// these waits a quarter of a second, as long as clients wait before they send again. Each holds a datagram of 1.5 KiB:
/// 384 KiB.
pub(super) const WAITING_MAX: usize = 256;

/// Bytes of further datagrams of a connection that waits: the hello of a client with X25519MLKEM768 has two datagrams,
/// and is sent up to three times.
const WAITING_BYTES: u64 = 6 * 1500;

/// Bytes of such datagrams of all connections that wait; clients send again what is dropped.
const WAITING_BYTES_TOTAL: u64 = 1024 * 1024;

/// Handshakes of clients without a proof of their address, beyond which further ones must prove it first. A flood from
/// invented addresses takes an eighth of the shard's handshakes at most. Handshakes that failed count until their state is
/// gone, a few seconds later: with an invented address, too, a hello and a close behind it can be sent.
pub(super) const UNPROVED_MAX: usize = 64;

/// Time for which a hello counts that failed at once, and so has no state: about as long as the state of others.
pub(super) const UNPROVED_FAILED: Duration = Duration::from_secs(3);

/// Connections of an address on one shard: idle ones hold 48 KiB at most, so these 3 GiB. Connections over TCP have such
/// a limit in the number of open files.
pub(crate) const CONNECTIONS_MAX: usize = 65_536;

/// Least time between two stateless resets: after a restart, 1,000 agents of a shard are told within a second. A reset
/// is shorter than the packet that it answers, so two hosts that answer each other soon stop.
const RESET_INTERVAL: Duration = Duration::from_millis(1);

/// Longest datagram that clients may send: one Ethernet frame of 9000 bytes without the headers of IPv4 and UDP.
const DATAGRAM_BYTES_MAX: u16 = 9000 - 28;

/// The settings of the endpoint of the address `bound`, whose packets come to `here`.
pub(super) fn endpoint(keys: &QuicKeys, bound: SocketAddr, here: Here) -> EndpointConfig {
    let mut config = quic::endpoint(keys.reset_at(bound));
    let check = keys.check;
    config.cid_generator(move || -> Box<dyn ConnectionIdGenerator> {
        Box::new(ShardIds::new(here, check))
    });
    config.min_reset_interval(RESET_INTERVAL);
    config
        .max_udp_payload_size(DATAGRAM_BYTES_MAX)
        .expect("the length is that of a UDP datagram");
    config
}

/// The settings of connections, with `tls`; a connection on which nothing arrives ends after `idle_timeout`.
pub(super) fn server(
    keys: &QuicKeys,
    tls: &rustls::ServerConfig,
    idle_timeout: Duration,
) -> ServerConfig {
    let mut config = quic::server(tls, keys.token.clone(), idle_timeout)
        .expect("the provider has the cipher suite of first packets, AES-128-GCM");
    // Clients get no tokens for later connections: shards would have to share which of them were used.
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0).log(Arc::new(NoneTokenLog));
    config.validation_token_config(tokens);
    config.max_incoming(WAITING_MAX);
    config.incoming_buffer_size(WAITING_BYTES);
    config.incoming_buffer_size_total(WAITING_BYTES_TOTAL);
    config
}
