//! A stream of QUIC as a target reads and writes it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use quinn::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// Both directions of a stream.
#[derive(Debug)]
pub(super) struct QuicStream {
    receive: RecvStream,
    send: SendStream,
    /// The first byte, if it was looked at and is to be read again.
    first: Option<u8>,
}

impl QuicStream {
    pub(super) const fn new(receive: RecvStream, send: SendStream) -> Self {
        Self {
            receive,
            send,
            first: None,
        }
    }

    /// The first byte, which the next read returns too.
    ///
    /// # Errors
    /// The stream ended or failed before it.
    pub(super) async fn peek(&mut self) -> io::Result<u8> {
        let first = self.read_u8().await?;
        self.first = Some(first);
        Ok(first)
    }
}

impl AsyncRead for QuicStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let first = self.first.take();
        if let Some(first) = first {
            buffer.put_slice(&[first]);
        }
        match AsyncRead::poll_read(Pin::new(&mut self.receive), cx, buffer) {
            // The first byte is there, whatever comes of the others: a failure comes again.
            _ if first.is_some() => Poll::Ready(Ok(())),
            read => read,
        }
    }
}

impl AsyncWrite for QuicStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.send), cx)
    }
}
