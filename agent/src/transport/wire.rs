//! A socket, plain or under TLS, with the calls that a WebSocket or a link needs: reads and writes that do not wait,
//! and polls for readiness.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use tieline_transport::{Received, Socket, Tls};
use tokio::net::TcpStream;

/// A connected socket, with TLS above it or without.
pub(super) enum Wire {
    /// The bytes of the socket are those of the wire.
    Plain(TcpSocket),
    /// TLS is between the socket's bytes and those of the wire.
    Tls(Box<TlsWire>),
}

/// A socket with TLS above it.
pub(super) struct TlsWire {
    socket: TcpSocket,
    /// Held for reads and writes that cannot block, never across an await.
    tls: Mutex<Tls>,
}

impl Wire {
    /// A wire over `socket` after the handshake of `tls`.
    pub(super) fn secured(socket: TcpSocket, tls: Tls) -> Self {
        Self::Tls(Box::new(TlsWire {
            socket,
            tls: Mutex::new(tls),
        }))
    }

    pub(super) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => &socket.0,
            Self::Tls(secured) => &secured.socket.0,
        }
    }

    /// The state of TLS, if there is TLS.
    pub(super) fn tls(&self) -> Option<MutexGuard<'_, Tls>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(secured) => Some(secured.tls()),
        }
    }

    /// Sends TLS's own end of the sending direction, if there is TLS; ready once the kernel has it, or the connection
    /// failed.
    pub(super) fn poll_finish(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(_) => Poll::Ready(()),
            Self::Tls(secured) => secured.tls().poll_finish(&secured.socket, cx),
        }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// The connection failed.
    pub(super) async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        poll_fn(|cx| {
            while !rest.is_empty() {
                match self.send_vectored(&[IoSlice::new(rest)]) {
                    Ok(0) => ready!(self.poll_writable(cx)),
                    Ok(count) => rest = &rest[count..],
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Waits for bytes, and appends up to `max` of them to `buffer`; 0 means that the peer has ended its direction.
    ///
    /// # Errors
    /// The connection failed.
    pub(super) async fn read(&self, buffer: &mut BytesMut, max: usize) -> io::Result<usize> {
        poll_fn(|cx| {
            loop {
                ready!(self.poll_readable(cx));
                match self.recv(buffer, max) {
                    Ok(Received::Bytes(count)) => return Poll::Ready(Ok(count)),
                    Ok(Received::End) => return Poll::Ready(Ok(0)),
                    Ok(Received::Nothing) => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        })
        .await
    }
}

impl Socket for Wire {
    fn recv(&self, buffer: &mut BytesMut, max: usize) -> io::Result<Received> {
        match self {
            Self::Plain(socket) => socket.recv(buffer, max),
            Self::Tls(secured) => {
                let put = |piece: &[u8]| buffer.extend_from_slice(piece);
                secured.tls().recv(&secured.socket, max, put)
            }
        }
    }

    fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.send_vectored(slices),
            Self::Tls(secured) => secured.tls().send(&secured.socket, slices),
        }
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(socket) => socket.poll_readable(cx),
            Self::Tls(secured) => secured.tls().poll_readable(&secured.socket, cx),
        }
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(socket) => socket.poll_writable(cx),
            Self::Tls(secured) => secured.socket.poll_writable(cx),
        }
    }
}

impl TlsWire {
    fn tls(&self) -> MutexGuard<'_, Tls> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket of tokio with the calls that TLS and the WebSocket need.
pub(super) struct TcpSocket(TcpStream);

impl TcpSocket {
    pub(super) const fn new(socket: TcpStream) -> Self {
        Self(socket)
    }

    pub(super) fn into_inner(self) -> TcpStream {
        self.0
    }
}

impl Socket for TcpSocket {
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

/// Readiness without its error: only a runtime that shuts down returns one, and it also drops the waiting task.
pub(super) fn until_ready(readiness: Poll<io::Result<()>>) -> Poll<()> {
    match readiness {
        Poll::Ready(Ok(())) => Poll::Ready(()),
        Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
    }
}
