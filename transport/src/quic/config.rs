//! Every limit of a connection, with its arithmetic.

use std::sync::Arc;
use std::time::Duration;

use quinn_proto::congestion::{BbrConfig, ControllerFactory, CubicConfig};
use quinn_proto::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn_proto::crypto::{HandshakeTokenKey, HmacKey};
use quinn_proto::{
    ClientConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig,
    VarInt,
};

/// What a connection that is a link is called in ALPN.
pub const ALPN_AGENT: &[u8] = b"tieline-agent/1";

/// Bytes that a peer may have on their way on one stream.
///
/// 100 ms x 200 Mbit/s are 2.5 MB on their way, and the window must hold twice that, because QUIC announces its growth
/// a round trip late. So one session does not fill 300 ms x 200 Mbit/s, which needs 15 MB. It holds no memory at a slow
/// reader: the mux's credit bounds that, session by session.
pub const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// Bytes that a peer may have on their way on all streams: 100 ms x 1.3 Gbit/s.
///
/// Everything that arrives in order is read at once, so only bytes behind a lost packet fill this much memory.
pub(super) const RECEIVE_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// The same for an agent that has not shown a valid token, and for a caller without a session: two of the largest control
/// messages.
pub const STRANGER_WINDOW_BYTES: u32 = 128 * 1024;

/// Bytes of all streams that QUIC keeps until the peer has acknowledged them: 100 ms x 640 Mbit/s.
pub const SEND_WINDOW_BYTES: u64 = 8 * 1024 * 1024;

/// Sessions for which a new link has streams; the agent raises the number as sessions are opened. Room for one stream
/// costs an agent about 80 bytes.
pub(super) const STREAMS_AT_FIRST: u32 = 256;

/// Silence that an agent's QUIC offers to endure. The smaller one of both ends' idle timeouts holds (RFC 9000, section
/// 10.1), and that is the relay's: twice its longest `stale_timeout`, which is one day. The agent's mux gives up a silent
/// relay after 45 s, and says why.
pub const IDLE_TIMEOUT_MAX: Duration = Duration::from_secs(48 * 3600);

/// Bytes of a hello that arrive in disorder; hellos have 1 to 2 KiB.
const CRYPTO_BUFFER_BYTES: usize = 16 * 1024;

/// Longest silence of an agent. Routers forget a UDP flow after 30 s (RFC 4787, section 4.3, demands two minutes, but
/// many keep half a minute).
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Pause after packets of a larger size seemed to vanish, until larger sizes are tried again. Losses alone may look
/// like that.
const MTU_PAUSE: Duration = Duration::from_secs(30);

/// Time for a client to come back with the token of a Retry packet.
pub(super) const RETRY_TOKEN_LIFETIME: Duration = Duration::from_secs(15);

/// The configuration that both sides share; a connection on which nothing arrives ends after `idle_timeout`.
fn transport(idle_timeout: Duration) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.black_hole_cooldown(MTU_PAUSE);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .send_fairness(true)
        // Of times beyond the largest that a packet can hold, which is 146 million years, there is none.
        .max_idle_timeout(IdleTimeout::try_from(idle_timeout).ok())
        .crypto_buffer_size(CRYPTO_BUFFER_BYTES)
        .mtu_discovery_config(Some(mtu))
        .congestion_controller_factory(congestion())
        // No datagrams.
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        // Observers need not learn the round trip.
        .allow_spin(false);
    config
}

/// What decides how much is on its way: CUBIC, as on the TCP of most systems.
///
/// For measurements alone, `QUIC_CONGESTION=bbr` in the environment of relay and agent puts BBR in its place. It is no
/// setting, because `quinn-proto` calls its BBR experimental.
fn congestion() -> Arc<dyn ControllerFactory + Send + Sync> {
    match std::env::var_os("QUIC_CONGESTION").is_some_and(|name| name == "bbr") {
        true => Arc::new(BbrConfig::default()),
        false => Arc::new(CubicConfig::default()),
    }
}

/// The relay's configuration of connections, with `tls` for their handshakes and `token_key` for Retry packets. The relay
/// adds how many may wait for their handshake. A client may
/// have one stream and little on its way, as an agent needs it at first. A connection on which nothing arrives ends after
/// `idle_timeout`. No early data, whatever `tls` says: it could be replayed. `tls` must allow TLS 1.3.
///
/// # Errors
/// `tls` lacks the cipher suite of Initial packets.
pub fn server(
    tls: &rustls::ServerConfig,
    token_key: Arc<dyn HandshakeTokenKey>,
    idle_timeout: Duration,
) -> Result<ServerConfig, NoInitialCipherSuite> {
    let mut tls = tls.clone();
    tls.max_early_data_size = 0;
    let mut transport = transport(idle_timeout);
    transport
        // The control stream.
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .receive_window(VarInt::from_u32(STRANGER_WINDOW_BYTES));
    let mut config = ServerConfig::new(Arc::new(QuicServerConfig::try_from(tls)?), token_key);
    config
        .transport_config(Arc::new(transport))
        .migration(true)
        .retry_token_lifetime(RETRY_TOKEN_LIFETIME);
    Ok(config)
}

/// An agent's configuration of its link, with `tls` for the handshake, which must allow TLS 1.3.
///
/// # Errors
/// `tls` lacks the cipher suite of Initial packets.
pub fn client(tls: &rustls::ClientConfig) -> Result<ClientConfig, NoInitialCipherSuite> {
    let mut tls = tls.clone();
    tls.enable_early_data = false;
    let mut transport = transport(IDLE_TIMEOUT_MAX);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_AT_FIRST))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW_BYTES))
        .keep_alive_interval(Some(KEEP_ALIVE_INTERVAL));
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// The configuration of an endpoint; `reset_key` makes the tokens of stateless resets.
#[must_use]
pub fn endpoint(reset_key: Arc<dyn HmacKey>) -> EndpointConfig {
    let mut config = EndpointConfig::new(reset_key);
    // Version 1 alone (RFC 9000), not its drafts.
    config.supported_versions(vec![1]);
    config
}
