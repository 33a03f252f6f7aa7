//! A caller over QUIC, as a socket: the generator polls descriptors, and a stream of QUIC has none.
//!
//! A thread of its own runs `quinn`, which is not the driver of relay and agent. It moves bytes between one end of a socket
//! pair, whose other end is the generator's, and a stream on a connection of its own. So direct and relayed connections over
//! QUIC cost the generator the same, and more than others do: their rates are not compared with those over TCP.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, ServerConfig, TransportConfig, VarInt};
use tokio::net::UnixStream;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::tls::NAME;
use crate::pump::Pump;

/// What raw callers name in the handshake (ALPN).
const PROTOCOL: &[u8] = b"tieline";

/// Capacity of the queue of connections to open; a full queue makes the next one wait.
const WAITING_MAX: usize = 256;

/// Bytes on their way on a stream: as much as relay and agent allow.
const WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// Longest silence of a caller: less than half of the time after which a relay gives up a silent connection.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// A connection to open.
struct Open {
    address: SocketAddr,
    config: ClientConfig,
    /// The end of the socket pair that this thread reads and writes.
    socket: std::os::unix::net::UnixStream,
    /// Receives the outcome of the handshake.
    opened: SyncSender<io::Result<()>>,
}

/// Connects to `address` and opens a stream. The socket blocks, at most for `timeout`; its end in each direction is that of
/// the stream.
pub(super) fn open(
    address: SocketAddr,
    tls: &rustls::ClientConfig,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let (own, socket) = std::os::unix::net::UnixStream::pair()?;
    socket.set_nonblocking(true)?;
    // Reads, writes and shutdowns of a stream socket are the same calls in both families of addresses.
    let own = TcpStream::from(OwnedFd::from(own));
    own.set_write_timeout(Some(timeout))?;
    own.set_read_timeout(Some(timeout))?;
    let (opened, outcome) = sync_channel(1);
    let open = Open {
        address,
        config: client_config(tls)?,
        socket,
        opened,
    };
    let ended = || io::Error::other("the thread of QUIC connections has ended");
    thread()?.blocking_send(open).map_err(|_| ended())?;
    match outcome.recv_timeout(timeout) {
        Ok(opened) => opened.map(|()| own),
        Err(RecvTimeoutError::Timeout) => Err(ErrorKind::TimedOut.into()),
        Err(RecvTimeoutError::Disconnected) => Err(ended()),
    }
}

/// The queue of the thread, which starts with the first connection and runs until the process ends.
fn thread() -> io::Result<&'static Sender<Open>> {
    static QUEUE: OnceLock<Sender<Open>> = OnceLock::new();
    if let Some(queue) = QUEUE.get() {
        return Ok(queue);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (queue, opens) = channel(WAITING_MAX);
    // Two generator threads may both come here; the thread whose queue is not kept ends at once.
    std::thread::Builder::new()
        .name("quic".to_owned())
        .spawn(move || runtime.block_on(serve(opens)))?;
    Ok(QUEUE.get_or_init(|| queue))
}

async fn serve(mut opens: Receiver<Open>) {
    while let Some(open) = opens.recv().await {
        drop(tokio::spawn(join(open)));
    }
}

/// Opens one connection, and moves its bytes until both directions have ended or one has failed.
async fn join(open: Open) {
    let Open {
        address,
        config,
        socket,
        opened,
    } = open;
    let connect = async move {
        let socket = UnixStream::from_std(socket)?;
        // A port for each connection, as callers on different machines have.
        let endpoint = Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let connecting = endpoint.connect_with(config, address, NAME);
        let connection = connecting.map_err(io::Error::other)?.await?;
        let stream = connection.open_bi().await?;
        io::Result::Ok((socket, connection, stream))
    };
    // Fails if the caller has not waited.
    let (mut socket, connection, (mut send, mut receive)) = match connect.await {
        Ok(connected) => match opened.send(Ok(())) {
            Ok(()) => connected,
            Err(_) => return,
        },
        Err(error) => return drop(opened.send(Err(error))),
    };
    let (mut from, mut to) = socket.split();
    let (mut up, mut down) = (Pump::default(), Pump::default());
    // The peers see a failure, and tell it.
    let _ = poll_fn(|cx| {
        let up = up.poll(cx, &mut from, &mut send)?;
        let down = down.poll(cx, &mut receive, &mut to)?;
        match up.is_ready() && down.is_ready() {
            true => Poll::Ready(io::Result::Ok(())),
            false => Poll::Pending,
        }
    })
    .await;
    connection.close(VarInt::from_u32(0), b"");
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(WINDOW_BYTES))
        .receive_window(VarInt::from_u32(WINDOW_BYTES))
        .send_window(u64::from(WINDOW_BYTES))
        .keep_alive_interval(Some(KEEP_ALIVE_INTERVAL));
    Arc::new(transport)
}

fn client_config(tls: &rustls::ClientConfig) -> io::Result<ClientConfig> {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![PROTOCOL.to_vec()];
    let tls = QuicClientConfig::try_from(tls).map_err(io::Error::other)?;
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(transport());
    Ok(config)
}

/// Settings of a target that speaks QUIC, with these settings of TLS.
pub(crate) fn quic_server_config(tls: &rustls::ServerConfig) -> anyhow::Result<ServerConfig> {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![PROTOCOL.to_vec()];
    let tls = QuicServerConfig::try_from(tls)?;
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(transport());
    Ok(config)
}
