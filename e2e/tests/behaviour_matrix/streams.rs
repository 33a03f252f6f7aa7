//! Connections of callers as streams of bytes, those over WebSockets included.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use anyhow::Result;
use bytes::{Buf, Bytes};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// Longest message that a caller sends, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Both directions of a connection.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection of any transport.
pub(crate) type Stream = Box<dyn Duplex>;

/// A raw caller over a WebSocket. Its end in order is a normal Close; shutting it down sends one.
pub(crate) struct Messages {
    socket: WebSocketStream<Stream>,
    /// The rest of a message.
    ahead: Bytes,
}

impl Messages {
    /// Opens a WebSocket to the raw tunnel `tunnel` of the relay at `address`, on a connection to it.
    pub(crate) async fn open(stream: Stream, address: SocketAddr, tunnel: &str) -> Result<Self> {
        let url = format!("ws://{address}/tunnel/{tunnel}");
        let (socket, _) = client_async(url, stream).await?;
        Ok(Self {
            socket,
            ahead: Bytes::new(),
        })
    }
}

fn broken(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncRead for Messages {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.ahead.is_empty() {
            match ready!(self.socket.poll_next_unpin(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.ahead = bytes,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(Some(frame)))) if frame.code == CloseCode::Normal => {
                    return Poll::Ready(Ok(()));
                }
                Some(Ok(other)) => {
                    let error = io::Error::new(io::ErrorKind::ConnectionReset, other.to_string());
                    return Poll::Ready(Err(error));
                }
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
        }
        let count = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead[..count]);
        self.ahead.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Messages {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.socket.poll_ready_unpin(cx)).map_err(broken)?;
        let piece = &bytes[..bytes.len().min(MESSAGE_BYTES_MAX)];
        let message = Message::binary(piece.to_vec());
        self.socket.start_send_unpin(message).map_err(broken)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_flush_unpin(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_close_unpin(cx).map_err(broken)
    }
}
