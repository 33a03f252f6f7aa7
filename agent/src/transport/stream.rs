//! The stream of a link, plain or over TLS, with two halves for the link's reader and writer.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use rustls::ProtocolVersion;
use socket2::SockRef;
use tieline_transport::{Received, Socket, Tls};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// A connection to the relay that is ready for a link.
pub struct Stream(Layer);

/// What is between the socket's bytes and the stream's.
enum Layer {
    Plain(TcpStream),
    Tls(Arc<Secured>),
}

/// A socket with TLS above it.
struct Secured {
    socket: TlsSocket,
    /// Held for reads and writes that cannot block, never across an await.
    tls: Mutex<Tls>,
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
    /// A stream over TCP alone.
    pub(crate) const fn plain(socket: TcpStream) -> Self {
        Self(Layer::Plain(socket))
    }

    /// A stream over `socket`, after the handshake of `tls`.
    pub(super) fn over_tls(socket: TlsSocket, tls: Tls) -> Self {
        Self(Layer::Tls(Arc::new(Secured {
            socket,
            tls: Mutex::new(tls),
        })))
    }

    /// This machine's address on the connection.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Layer::Plain(socket) => socket.local_addr(),
            Layer::Tls(secured) => secured.socket.0.local_addr(),
        }
    }

    /// The relay's address for bulk lanes; `None` over TLS, because lanes are not encrypted.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn lane_address(&self) -> io::Result<Option<SocketAddr>> {
        match &self.0 {
            Layer::Plain(socket) => socket.peer_addr().map(Some),
            Layer::Tls(_) => Ok(None),
        }
    }

    /// What the TLS handshake has agreed on; `None` without TLS.
    #[must_use]
    pub fn tls_details(&self) -> Option<TlsDetails> {
        let Layer::Tls(secured) = &self.0 else {
            return None;
        };
        let tls = secured.tls();
        let agreed = tls.agreed();
        let certificate = tls.peer_certificate().map(|it| it.to_vec());
        Some(TlsDetails {
            version: match agreed.version? {
                ProtocolVersion::TLSv1_2 => "TLS 1.2".to_owned(),
                ProtocolVersion::TLSv1_3 => "TLS 1.3".to_owned(),
                other => format!("{other:?}"),
            },
            group: agreed.group.map(|group| format!("{group:?}")),
            certificate: certificate.unwrap_or_default(),
        })
    }

    /// Exporter of the TLS connection, for channel binding; `None` without TLS, and below TLS 1.3.
    #[must_use]
    pub fn exporter(&self) -> Option<[u8; 32]> {
        match &self.0 {
            Layer::Plain(_) => None,
            Layer::Tls(secured) => secured.tls().exporter(),
        }
    }

    /// Divides the stream for two tasks.
    #[must_use]
    pub fn split(self) -> (Reads, Writes) {
        match self.0 {
            Layer::Plain(socket) => {
                let (reads, writes) = socket.into_split();
                (Reads(Half::Plain(reads)), Writes(Half::Plain(writes)))
            }
            Layer::Tls(secured) => {
                let reads = Reads(Half::Tls(Arc::clone(&secured)));
                (reads, Writes(Half::Tls(secured)))
            }
        }
    }
}

/// One direction of a stream: the half of a plain socket, or the whole of TLS, which both directions change.
enum Half<T> {
    Plain(T),
    Tls(Arc<Secured>),
}

impl<T: AsRef<TcpStream>> Half<T> {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(half) => half.as_ref(),
            Self::Tls(secured) => &secured.socket.0,
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
    /// The connection is broken; over TLS also if it ended without TLS's own end.
    pub async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match &mut self.0 {
            Half::Plain(half) => half.read_buf(buffer).await,
            Half::Tls(secured) => poll_fn(|cx| secured.poll_read(buffer, cx)).await,
        }
    }

    /// Ends the direction to the relay in order, while another task may hold the other half.
    pub async fn end_sending(&self) {
        if let Half::Tls(secured) = &self.0 {
            poll_fn(|cx| secured.poll_finish(cx)).await;
        }
        // Fails only on a broken connection, which the next read reports.
        let _ = SockRef::from(self.0.socket()).shutdown(Shutdown::Write);
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
            Half::Tls(secured) => match secured.tls().send(&secured.socket, slices)? {
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
            Half::Tls(secured) => secured.socket.0.writable().await,
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

impl Secured {
    fn tls(&self) -> MutexGuard<'_, Tls> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_read(&self, buffer: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // A read into a full buffer would look like the end.
        buffer.reserve(1);
        let max = buffer.capacity() - buffer.len();
        let mut tls = self.tls();
        loop {
            ready!(tls.poll_readable(&self.socket, cx));
            let put = |piece: &[u8]| buffer.extend_from_slice(piece);
            match tls.recv(&self.socket, max, put) {
                Ok(Received::Bytes(count)) => return Poll::Ready(Ok(count)),
                Ok(Received::End) => return Poll::Ready(Ok(0)),
                Ok(Received::Nothing) => {}
                Err(error) => return Poll::Ready(Err(in_short(error))),
            }
        }
    }

    fn poll_finish(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.tls().poll_finish(&self.socket, cx)
    }
}

/// `error` in a message of its own where rustls's leads to a manual for programmers.
fn in_short(error: io::Error) -> io::Error {
    match error.kind() {
        kind @ io::ErrorKind::UnexpectedEof => {
            io::Error::new(kind, "the connection was cut, without TLS's own end")
        }
        _ => error,
    }
}

/// A socket as TLS needs it.
pub(super) struct TlsSocket(TcpStream);

impl TlsSocket {
    pub(super) const fn new(socket: TcpStream) -> Self {
        Self(socket)
    }
}

impl Socket for TlsSocket {
    fn recv(&self, buffer: &mut BytesMut, max: usize) -> io::Result<Received> {
        buffer.reserve(max);
        match self.0.try_read_buf(&mut buffer.limit(max)) {
            Ok(0) => Ok(Received::End),
            Ok(count) => Ok(Received::Bytes(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
            Err(error) => Err(error),
        }
    }

    fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.0.try_write_vectored(slices) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            outcome => outcome,
        }
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        until_ready(self.0.poll_read_ready(cx))
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        until_ready(self.0.poll_write_ready(cx))
    }
}

/// Readiness without its error: only a runtime that ends returns one, and it drops the waiting task.
fn until_ready(readiness: Poll<io::Result<()>>) -> Poll<()> {
    match readiness {
        Poll::Ready(Ok(())) => Poll::Ready(()),
        Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
    }
}
