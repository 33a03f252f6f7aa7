//! A connection to a SOCKS proxy that keeps what the proxy says: the errors of `tokio-socks` do not tell at which step the
//! proxy closed the connection, nor the code of a reply that they do not know.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection, and the bytes that were read from it: those of the handshake alone, some 260 at most.
pub(super) struct Heard<'a> {
    pub(super) socket: &'a mut TcpStream,
    pub(super) bytes: Vec<u8>,
}

impl AsyncRead for Heard<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut *self.socket).poll_read(cx, buf);
        self.bytes.extend_from_slice(&buf.filled()[before..]);
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
