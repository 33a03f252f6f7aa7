//! Connections after `101 Switching Protocols`: passes the bytes of caller and relay unchanged, until both directions
//! have ended.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tieline_agent::socket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;

use crate::outbound::dial::Stream;

/// Buffer for the bytes of one direction.
const BUFFER_BYTES: usize = 16 * 1024;

/// A connection to the relay that has left HTTP. Dropping it resets the connection.
pub(super) struct Upgraded(Resumed<Box<dyn Stream>>);

impl Upgraded {
    /// The `stream` to the relay, without the HTTP client that read and wrote it; `ahead` is what the relay sent after
    /// the head of its answer.
    pub(super) fn new(stream: Box<dyn Stream>, ahead: Bytes) -> Self {
        // Until both directions have ended in order, closing the connection resets it, also if the process is killed.
        let _ = stream.socket().set_zero_linger();
        Self(Resumed { ahead, stream })
    }

    /// Passes bytes both ways until both directions have ended, each by itself. `ahead` is what the caller sent after
    /// the head of its request.
    ///
    /// An error on one side, such as a reset or an end of TLS without notice, resets both. So does dropping the future.
    pub(super) async fn pass(self, caller: TcpStream, ahead: Bytes) {
        let Self(mut relay) = self;
        let mut caller = Resumed {
            ahead,
            stream: caller,
        };
        let passing =
            copy_bidirectional_with_sizes(&mut caller, &mut relay, BUFFER_BYTES, BUFFER_BYTES);
        match passing.await {
            Ok(_) => {
                socket::finish(&caller.stream);
                socket::finish(relay.stream.socket());
            }
            Err(error) => tracing::debug!(%error, "a WebSocket broke off"),
        }
    }
}

/// A stream with the bytes that were read from it before.
struct Resumed<S> {
    ahead: Bytes,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Resumed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.ahead.len().min(buf.remaining());
        let bytes = self.ahead.split_to(count);
        buf.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Resumed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
