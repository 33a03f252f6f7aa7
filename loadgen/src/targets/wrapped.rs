//! A connection of the target whose bytes are wrapped in TLS, WebSocket messages or both.

use std::io::{self, ErrorKind, IoSlice};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use anyhow::ensure;
use rustls::{Connection, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::cli::WrapFlags;
use crate::socket::{BUFFER_BYTES_MIN, HEAD_BYTES_MAX, Layers, Role, answer_to, server_config};

/// What connections of this target are wrapped in.
#[derive(Clone, Debug)]
pub(super) struct Wrapping {
    tls: Option<Arc<ServerConfig>>,
    is_websocket: bool,
}

impl Wrapping {
    /// Reads the files of the flags; `None` if connections are plain.
    pub(super) fn read(flags: &WrapFlags) -> anyhow::Result<Option<Self>> {
        let files: Option<(&Path, &Path)> = flags.tls_cert.as_deref().zip(flags.tls_key.as_deref());
        let tls = files
            .map(|(cert, key)| server_config(cert, key))
            .transpose()?;
        let is_websocket = flags.websocket;
        Ok((tls.is_some() || is_websocket).then_some(Self { tls, is_websocket }))
    }
}

/// A wrapped connection.
#[derive(Debug)]
pub(super) struct Wrapped {
    tcp: TcpStream,
    layers: Layers,
    /// Bytes that were read ahead, of which the first `given` are no longer wanted.
    ahead: Vec<u8>,
    given: usize,
}

/// A connection on its way to another thread.
pub(super) type Parts = (std::net::TcpStream, Layers, Vec<u8>);

impl Wrapped {
    /// Prepares an accepted connection; grants the WebSocket if the target speaks it.
    pub(super) async fn accept(tcp: TcpStream, wrapping: &Wrapping) -> anyhow::Result<Self> {
        let layers = match &wrapping.tls {
            Some(config) => {
                let connection = ServerConnection::new(Arc::clone(config))?;
                Layers::over_tls(Connection::from(connection))
            }
            None => Layers::default(),
        };
        let mut wrapped = Self {
            tcp,
            layers,
            ahead: Vec::new(),
            given: 0,
        };
        if wrapping.is_websocket {
            wrapped.grant().await?;
        }
        Ok(wrapped)
    }

    async fn grant(&mut self) -> anyhow::Result<()> {
        let (mut head, mut buffer) = (Vec::new(), vec![0; BUFFER_BYTES_MIN]);
        loop {
            let len = self.read(&mut buffer).await?;
            ensure!(len > 0, "the connection ended within its first request");
            head.extend_from_slice(&buffer[..len]);
            if let Some((answer, end)) = answer_to(&head)? {
                ensure!(end == head.len(), "frames before the WebSocket was granted");
                self.write_all(answer.as_bytes()).await?;
                self.layers.add_websocket(Role::Server);
                return Ok(());
            }
            ensure!(head.len() < HEAD_BYTES_MAX, "the first request is too long");
        }
    }

    /// The first byte, which is read again with the others; `None` at the end.
    pub(super) async fn peek(&mut self) -> io::Result<Option<u8>> {
        let mut buffer = vec![0; BUFFER_BYTES_MIN];
        let len = self.read(&mut buffer).await?;
        buffer.truncate(len);
        let first = buffer.first().copied();
        (self.ahead, self.given) = (buffer, 0);
        Ok(first)
    }

    /// Takes the connection from this thread's runtime.
    pub(super) fn into_parts(mut self) -> io::Result<Parts> {
        let ahead = self.ahead.split_off(self.given);
        Ok((self.tcp.into_std()?, self.layers, ahead))
    }

    /// Gives the connection to this thread's runtime.
    pub(super) fn from_parts((tcp, layers, ahead): Parts) -> io::Result<Self> {
        Ok(Self {
            tcp: TcpStream::from_std(tcp)?,
            layers,
            ahead,
            given: 0,
        })
    }

    /// Gives the kernel bytes that were taken earlier; a task that waits for bytes to read is woken to go on.
    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.layers.flush(&mut Now(&self.tcp))? {
            ready!(self.tcp.poll_write_ready(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads into `room`, which has [`BUFFER_BYTES_MIN`].
    fn poll_layers(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        // The peer may wait for the unsent bytes before it sends more.
        if let Poll::Ready(flushed) = self.poll_unsent(cx) {
            flushed?;
        }
        loop {
            // Asking tokio for readiness also gives other tasks their turns when the socket is always ready.
            ready!(self.tcp.poll_read_ready(cx))?;
            match self.layers.read(&mut Now(&self.tcp), room) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }
}

impl AsyncRead for Wrapped {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.given == this.ahead.len() {
            if buffer.remaining() >= BUFFER_BYTES_MIN {
                let len = ready!(this.poll_layers(cx, buffer.initialize_unfilled()))?;
                buffer.advance(len);
                return Poll::Ready(Ok(()));
            }
            let mut ahead = vec![0; BUFFER_BYTES_MIN];
            let len = ready!(this.poll_layers(cx, &mut ahead))?;
            ahead.truncate(len);
            (this.ahead, this.given) = (ahead, 0);
        }
        let rest = &this.ahead[this.given..];
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        this.given += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wrapped {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            ready!(this.tcp.poll_write_ready(cx))?;
            match this.layers.write(&mut Now(&this.tcp), slices) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                taken => return Poll::Ready(taken),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_unsent(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.layers.finish(&mut Now(&this.tcp))?;
        Pin::new(&mut this.tcp).poll_shutdown(cx)
    }
}

/// Reads and writes that do not wait.
struct Now<'a>(&'a TcpStream);

impl io::Read for Now<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl io::Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
