//! A connection to a SOCKS proxy that keeps what the proxy says: the errors of `tokio-socks` do not tell at which step the
//! proxy closed the connection, nor the code of a reply that they do not know.

use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What a proxy has said of the answer that is being read; it may be looked at while the rest is awaited.
#[derive(Default)]
pub(super) struct Said(Mutex<Vec<u8>>);

impl Said {
    /// The bytes so far.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.all().clone()
    }

    /// Adds `bytes`.
    pub(super) fn add(&self, bytes: &[u8]) {
        self.all().extend_from_slice(bytes);
    }

    /// Forgets the bytes: another answer follows.
    pub(super) fn clear(&self) {
        self.all().clear();
    }

    fn all(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that adds the bytes that are read from it to `said`: those of the handshake alone, some 260 at most.
pub(super) struct Heard<'a> {
    pub(super) socket: &'a mut TcpStream,
    pub(super) said: &'a Said,
}

impl AsyncRead for Heard<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut *self.socket).poll_read(cx, buf);
        self.said.add(&buf.filled()[before..]);
        polled
    }
}

impl AsyncWrite for Heard<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.socket).poll_shutdown(cx)
    }
}
