//! The stream of a link: a socket, plain or over TLS, bare or under a WebSocket, with two halves for the link's reader
//! and writer.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustls::ProtocolVersion;
use socket2::SockRef;
use tieline_transport::websocket::{Role, WebSocket, code};
use tieline_transport::{Received, Socket};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::gauge::Gauge;
use super::wire::Wire;

/// Empty messages after which other tasks get a turn before the next read.
const EMPTY_MESSAGES_MAX: usize = 16;

/// A connection to the relay that is ready for a link.
pub struct Stream {
    layer: Layer,
    /// True if bulk lanes may be dialled beside the connection.
    has_lanes: bool,
}

/// What is between the socket's bytes and the stream's.
enum Layer {
    Plain(TcpStream),
    Shared(Arc<Shared>),
}

/// TLS, a WebSocket or both, whose state the reader and the writer change.
struct Shared {
    wire: Wire,
    /// Held for reads and writes that cannot block, never across an await.
    websocket: Option<Mutex<WebSocket>>,
}

/// What a TLS handshake has agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsDetails {
    /// Version of TLS, such as `TLS 1.3`.
    pub version: String,
    /// Group of the key exchange, such as `X25519`; `None` after a resumption without a key exchange.
    pub group: Option<String>,
    /// The server's certificate, in DER.
    pub certificate: Vec<u8>,
}

impl Stream {
    /// A stream over TCP alone, straight from this machine to the relay.
    pub(crate) const fn plain(socket: TcpStream) -> Self {
        Self {
            layer: Layer::Plain(socket),
            has_lanes: true,
        }
    }

    /// A stream of the bytes of `wire`.
    pub(super) fn over(wire: Wire) -> Self {
        Self {
            layer: match wire {
                Wire::Plain(socket) => Layer::Plain(socket.into_inner()),
                wire @ Wire::Tls(_) => Layer::Shared(Arc::new(Shared {
                    wire,
                    websocket: None,
                })),
            },
            has_lanes: false,
        }
    }

    /// A stream of the binary messages of a WebSocket over `wire`; `input` is what the relay sent after the handshake's
    /// head.
    pub(super) fn over_websocket(wire: Wire, role: Role, input: BytesMut) -> Self {
        let websocket = WebSocket::with_input(role, input);
        Self {
            layer: Layer::Shared(Arc::new(Shared {
                wire,
                websocket: Some(Mutex::new(websocket)),
            })),
            has_lanes: false,
        }
    }

    /// This machine's address on the connection.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket().local_addr()
    }

    /// The relay's address for bulk lanes; `None` over TLS, because lanes are not encrypted, over a WebSocket, whose
    /// port takes none, and through a proxy.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn lane_address(&self) -> io::Result<Option<SocketAddr>> {
        match self.has_lanes {
            true => self.socket().peer_addr().map(Some),
            false => Ok(None),
        }
    }

    /// Tells how far the connection's bytes have come.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn gauge(&self) -> io::Result<Gauge> {
        Gauge::of(self.socket())
    }

    fn socket(&self) -> &TcpStream {
        match &self.layer {
            Layer::Plain(socket) => socket,
            Layer::Shared(shared) => shared.wire.socket(),
        }
    }

    /// What the TLS handshake has agreed on; `None` without TLS.
    #[must_use]
    pub fn tls_details(&self) -> Option<TlsDetails> {
        match &self.layer {
            Layer::Plain(_) => None,
            Layer::Shared(shared) => TlsDetails::of(&shared.wire),
        }
    }

    /// Exporter of the TLS connection, for channel binding; `None` without TLS, and below TLS 1.3.
    #[must_use]
    pub fn exporter(&self) -> Option<[u8; 32]> {
        match &self.layer {
            Layer::Plain(_) => None,
            Layer::Shared(shared) => shared.wire.tls()?.exporter(),
        }
    }

    /// True if the stream is that of a WebSocket.
    pub(crate) fn is_websocket(&self) -> bool {
        matches!(&self.layer, Layer::Shared(shared) if shared.websocket.is_some())
    }

    /// Divides the stream for two tasks.
    #[must_use]
    pub fn split(self) -> (Reads, Writes) {
        match self.layer {
            Layer::Plain(socket) => {
                let (reads, writes) = socket.into_split();
                (Reads(Half::Plain(reads)), Writes(Half::Plain(writes)))
            }
            Layer::Shared(shared) => {
                let reads = Reads(Half::Shared(Arc::clone(&shared)));
                (reads, Writes(Half::Shared(shared)))
            }
        }
    }
}

impl TlsDetails {
    /// What the handshake over `wire` has agreed on.
    pub(super) fn of(wire: &Wire) -> Option<Self> {
        let tls = wire.tls()?;
        let agreed = tls.agreed();
        let certificate = tls.peer_certificate().map(|it| it.to_vec());
        Some(Self {
            version: match agreed.version? {
                ProtocolVersion::TLSv1_2 => "TLS 1.2".to_owned(),
                ProtocolVersion::TLSv1_3 => "TLS 1.3".to_owned(),
                other => format!("{other:?}"),
            },
            group: agreed.group.map(|group| format!("{group:?}")),
            certificate: certificate.unwrap_or_default(),
        })
    }
}

/// One direction of a stream: the half of a plain socket, or the whole of layers that both directions change.
enum Half<T> {
    Plain(T),
    Shared(Arc<Shared>),
}

impl<T: AsRef<TcpStream>> Half<T> {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(half) => half.as_ref(),
            Self::Shared(shared) => shared.wire.socket(),
        }
    }
}

/// The direction from the relay.
pub struct Reads(Half<OwnedReadHalf>);

impl Reads {
    /// Waits for bytes and appends them to `buffer`, as many as fit; 0 bytes mean that the relay has ended its
    /// direction.
    ///
    /// # Errors
    /// The connection is broken; over TLS or a WebSocket also if it ended without the layer's own end.
    pub async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match &mut self.0 {
            Half::Plain(half) => half.read_buf(buffer).await,
            Half::Shared(shared) => poll_fn(|cx| shared.poll_read(buffer, cx)).await,
        }
    }

    /// Ends the direction to the relay in order, while another task may hold the other half.
    pub async fn end_sending(&self) {
        if let Half::Shared(shared) = &self.0 {
            poll_fn(|cx| shared.poll_finish(cx)).await;
        }
        // Fails only on a broken connection, which the next read reports.
        let _ = SockRef::from(self.0.socket()).shutdown(Shutdown::Write);
    }

    /// Makes the coming close of the connection a reset, without an end of TLS or of a WebSocket (`SO_LINGER` of 0 s,
    /// socket(7)).
    pub(crate) fn reset_on_close(&self) {
        // Fails only on a broken connection, whose close says nothing to the relay.
        let _ = self.0.socket().set_zero_linger();
    }

    /// The socket, for tests that record its calls.
    #[cfg(test)]
    pub(crate) fn socket(&self) -> &TcpStream {
        self.0.socket()
    }
}

/// The direction to the relay.
pub struct Writes(Half<OwnedWriteHalf>);

impl Writes {
    /// Writes without waiting; returns how many bytes the kernel has whole. Bytes that were not taken are offered again
    /// before others, also after an error `WouldBlock`.
    ///
    /// # Errors
    /// `WouldBlock`: wait with [`Writes::writable`]. Other errors: the connection is broken.
    pub(crate) fn try_send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.0 {
            Half::Plain(half) => half.try_write_vectored(slices),
            Half::Shared(shared) => match shared.send(slices)? {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                count => Ok(count),
            },
        }
    }

    /// Waits until a write may take something.
    ///
    /// # Errors
    /// The runtime ends.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        match &self.0 {
            Half::Plain(half) => half.writable().await,
            Half::Shared(shared) => shared.wire.socket().writable().await,
        }
    }

    /// Waits until the kernel takes some of the bytes; returns how many. The rest is offered again before other bytes.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            match self.try_send_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                outcome => return outcome,
            }
        }
    }

    /// The socket, for tests that record its calls.
    #[cfg(test)]
    pub(crate) fn socket(&self) -> &TcpStream {
        self.0.socket()
    }
}

impl Shared {
    /// The WebSocket above the wire, if there is one.
    fn websocket(&self) -> Option<MutexGuard<'_, WebSocket>> {
        let websocket = self.websocket.as_ref()?;
        Some(websocket.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn poll_read(&self, buffer: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // A read into a full buffer would look like the end.
        buffer.reserve(1);
        let max = buffer.capacity() - buffer.len();
        for _ in 0..EMPTY_MESSAGES_MAX {
            ready!(self.poll_readable(cx));
            match self.recv(buffer, max) {
                Ok(Received::Bytes(0) | Received::Nothing) => {}
                Ok(Received::Bytes(count)) => return Poll::Ready(Ok(count)),
                Ok(Received::End) => return Poll::Ready(self.end()),
                Err(error) => return Poll::Ready(Err(self.in_short(error))),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.websocket() {
            Some(mut websocket) => websocket.poll_readable(&self.wire, cx),
            None => self.wire.poll_readable(cx),
        }
    }

    fn recv(&self, buffer: &mut BytesMut, max: usize) -> io::Result<Received> {
        let Some(mut websocket) = self.websocket() else {
            return self.wire.recv(buffer, max);
        };
        let put = |piece: &[u8]| buffer.extend_from_slice(piece);
        websocket.recv(&self.wire, max, put)
    }

    fn send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.websocket() {
            Some(mut websocket) => websocket.send(&self.wire, slices),
            None => self.wire.send_vectored(slices),
        }
    }

    fn poll_finish(&self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(mut websocket) = self.websocket() {
            ready!(websocket.poll_finish(&self.wire, cx));
        }
        self.wire.poll_finish(cx)
    }

    /// The end of the relay's direction: in order, also with code 1001, which the relay sends after its `GoAway`; or an
    /// error that names the code of the Close frame.
    fn end(&self) -> io::Result<usize> {
        let Some(websocket) = self.websocket() else {
            return Ok(0);
        };
        match websocket.peer_close() {
            None | Some((code::NORMAL | code::GOING_AWAY, _)) => Ok(0),
            Some((code, reason)) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                format!("the relay closed the WebSocket with code {code} {reason:?}"),
            )),
        }
    }

    /// `error` with a message for users if the connection was cut: rustls's own message refers to its manual for
    /// programmers.
    fn in_short(&self, error: io::Error) -> io::Error {
        let layer = match self.websocket {
            Some(_) => "a WebSocket's",
            None => "TLS's",
        };
        match error.kind() {
            kind @ io::ErrorKind::UnexpectedEof => io::Error::new(
                kind,
                format!("the connection was cut, without {layer} own end"),
            ),
            _ => error,
        }
    }
}
