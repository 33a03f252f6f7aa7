//! A connection of the generator: plain, over TLS, in WebSocket messages, in WebSocket messages over TLS, or a stream over
//! QUIC.
//!
//! All loads use [`Socket`], so a wrapped path runs the same code as a plain one. TLS comes from rustls; the WebSocket
//! frames are those of this program, so that relay and agent are not measured with their own code.

mod certificate;
mod layers;
mod quic;
mod tls;
mod websocket;

use std::io::{self, ErrorKind, IoSlice};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, HandshakeKind};

pub(crate) use certificate::{Certificate, server_config};
pub(crate) use layers::Layers;
pub(crate) use quic::quic_server_config;
pub(crate) use tls::{Shake, TlsClient};
pub(crate) use websocket::{HEAD_BYTES_MAX, Role, answer_to};

/// Smallest buffer for a read over TLS, in bytes: a read takes no more ciphertext than the plaintext that fits.
pub(crate) const BUFFER_BYTES_MIN: usize = 64 * 1024;

/// What the client puts around the bytes of a path; by default nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wrap {
    /// Settings of TLS, if the path begins with TLS or QUIC.
    pub(crate) tls: Option<TlsClient>,
    /// Whether the bytes travel in WebSocket messages.
    pub(crate) is_websocket: bool,
    /// Whether the bytes travel on a stream of QUIC, with the settings of `tls`.
    pub(crate) is_quic: bool,
}

/// A connected socket with what wraps its bytes.
#[derive(Debug)]
pub(crate) struct Socket {
    /// For QUIC an end of a socket pair, see `quic`.
    tcp: TcpStream,
    layers: Layers,
}

impl Socket {
    /// Connects, and completes the handshakes of TLS, WebSocket and QUIC. The socket blocks, at most for `timeout`.
    pub(crate) fn open(
        address: SocketAddr,
        wrap: &Wrap,
        page: &str,
        timeout: Duration,
    ) -> io::Result<Self> {
        if let (true, Some(client)) = (wrap.is_quic, &wrap.tls) {
            return Ok(Self {
                tcp: quic::open(address, &client.config(), timeout)?,
                layers: Layers::default(),
            });
        }
        let tcp = TcpStream::connect_timeout(&address, timeout)?;
        tcp.set_nodelay(true)?;
        tcp.set_write_timeout(Some(timeout))?;
        tcp.set_read_timeout(Some(timeout))?;
        let mut layers = Layers::default();
        if let Some(client) = &wrap.tls {
            let mut connection = tls::connection(client.config())?;
            connection.complete_io(&mut &tcp)?;
            layers = Layers::over_tls(connection.into());
        }
        let mut socket = Self { tcp, layers };
        if wrap.is_websocket {
            websocket::upgrade(&mut socket, &address.to_string(), page)?;
            socket.layers.add_websocket(Role::Client);
        }
        Ok(socket)
    }

    /// Wraps a non-blocking socket that may still be connecting; `tls` does its handshake in reads and writes.
    pub(crate) fn begin(tcp: TcpStream, tls: Option<Arc<ClientConfig>>) -> io::Result<Self> {
        let layers = match tls {
            Some(config) => Layers::over_tls(tls::connection(config)?.into()),
            None => Layers::default(),
        };
        Ok(Self { tcp, layers })
    }

    /// Switches between blocking and non-blocking calls.
    pub(crate) fn set_nonblocking(&self, is_nonblocking: bool) -> io::Result<()> {
        self.tcp.set_nonblocking(is_nonblocking)
    }

    /// Reads into `buffer`, which has [`BUFFER_BYTES_MIN`] if the path is wrapped; 0 is the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.layers.read(&mut &self.tcp, buffer)
    }

    /// Takes bytes to write. The kernel may not have all of them: see [`has_unsent`](Self::has_unsent).
    pub(crate) fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.layers.write(&mut &self.tcp, slices)
    }

    /// Writes all of `bytes` to a socket that blocks.
    pub(crate) fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write(&[IoSlice::new(bytes)]) {
                Ok(taken) => bytes = &bytes[taken..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.flush()? {
            Ok(())
        } else {
            Err(ErrorKind::TimedOut.into())
        }
    }

    /// Gives the kernel bytes that were taken earlier; returns whether it has all of them.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        self.layers.flush(&mut &self.tcp)
    }

    /// Whether bytes that were taken wait for room in the kernel.
    pub(crate) fn has_unsent(&self) -> bool {
        self.layers.has_unsent()
    }

    /// How the TLS handshake was done; `None` until it is complete.
    pub(crate) fn handshake(&self) -> Option<HandshakeKind> {
        self.layers.handshake()
    }

    /// Sends TLS's own end and the end of the stream.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.layers.finish(&mut &self.tcp)?;
        self.tcp.shutdown(Shutdown::Write)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

/// Error for bytes that the peer must not send.
fn invalid(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// Whether an error only says that the socket is not ready.
pub(crate) fn is_not_yet(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected
    )
}

#[cfg(test)]
mod tests;
