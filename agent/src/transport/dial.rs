//! Dials the relay: TCP with the socket options of a link, then TLS for `tls://`.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tieline_transport::Tls;
#[cfg(any(target_os = "linux", target_os = "android"))]
use tieline_wire::limits::STALE_TIMEOUT;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::stream::{Stream, TlsSocket};
use super::tls::Trust;
use super::url::{RelayUrl, Transport};
use super::{client_certificate, server_kind};
use crate::address::deadline_in;
use crate::error::{ConfigError, Error, TrustError};

/// Time limit for dialling the relay: name lookup, connection and TLS handshake together.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Protocol that agents ask for in the handshake (ALPN, RFC 7301).
const PROTOCOL: &[u8] = b"tieline-agent/1";

/// Limit on unsent bytes in the kernel: a link at the limit counts as busy.
///
/// Small, so that a heartbeat or a small session does not wait behind megabytes of one large session; large
/// enough for one gathered send.
#[cfg(any(target_os = "linux", target_os = "android"))]
const NOTSENT_BYTES_MAX: u32 = 256 * 1024;

/// Dials one relay.
#[derive(Clone, Debug)]
pub struct Dialler {
    relay: RelayUrl,
    /// `None` for a relay without TLS.
    tls: Option<TlsClient>,
}

/// What a TLS handshake with the relay needs.
#[derive(Clone, Debug)]
struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    /// True if the certificates of `--ca` are trusted.
    has_own_ca: bool,
}

/// A TCP connection to the relay, before TLS.
#[derive(Debug)]
pub struct Connected {
    socket: TcpStream,
    /// When the dial has taken [`DIAL_TIMEOUT`].
    deadline: Instant,
}

impl Connected {
    /// Address of the relay.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.peer_addr()
    }
}

impl Dialler {
    /// A dialler for `relay`; reads the certificates to trust for `tls://`, the system's and those in the file `ca`.
    ///
    /// # Errors
    /// [`ConfigError`] if the certificates cannot be read, or `ca` is given for a relay without TLS.
    pub fn new(relay: RelayUrl, ca: Option<&Path>) -> Result<Self, ConfigError> {
        let tls = match (relay.transport(), ca) {
            (Transport::Tcp, None) => None,
            (Transport::Tcp, Some(_)) => return Err(ConfigError::CaWithoutTls),
            (Transport::Tls, ca) => {
                let name = ServerName::try_from(relay.address().host());
                Some(TlsClient {
                    config: Trust::read(ca)?.client_config(PROTOCOL)?,
                    name: name.map_err(|error| TrustError::Tls(error.to_string()))?,
                    has_own_ca: ca.is_some(),
                })
            }
        };
        Ok(Self { relay, tls })
    }

    /// Shows the relay the certificate in the file `cert`, whose key is in the file `key`, in each handshake.
    ///
    /// # Errors
    /// [`ConfigError`] if the files cannot be used, or the relay is without TLS.
    pub fn with_client_certificate(mut self, cert: &Path, key: &Path) -> Result<Self, ConfigError> {
        let client = self.tls.as_mut().ok_or(ConfigError::ClientCertWithoutTls)?;
        let certificate = client_certificate::read(cert, key)?;
        Arc::make_mut(&mut client.config).client_auth_cert_resolver = certificate;
        Ok(self)
    }

    /// The relay that is dialled.
    #[must_use]
    pub const fn relay(&self) -> &RelayUrl {
        &self.relay
    }

    /// Connects to the relay, with TLS if its URL says so.
    ///
    /// # Errors
    /// As [`Dialler::connect`] and [`Dialler::secure`].
    pub async fn dial(&self) -> Result<Stream, Error> {
        let connected = self.connect().await?;
        self.secure(connected).await
    }

    /// The first step of a dial: the TCP connection.
    ///
    /// # Errors
    /// [`Error::Dial`] with the system's error.
    pub async fn connect(&self) -> Result<Connected, Error> {
        let failed = |source| Error::Dial {
            relay: self.relay.to_string(),
            source,
        };
        let deadline = deadline_in(DIAL_TIMEOUT);
        let connecting = self.relay.address().connect(deadline);
        let socket = connecting.await.map_err(failed)?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        prepare(&socket).map_err(failed)?;
        Ok(Connected { socket, deadline })
    }

    /// The last step of a dial: the TLS handshake, if the relay's URL asks for TLS.
    ///
    /// # Errors
    /// [`Error::Tls`] says what is wrong with the server or its certificate.
    pub async fn secure(&self, connected: Connected) -> Result<Stream, Error> {
        let Connected { socket, deadline } = connected;
        let Some(client) = &self.tls else {
            return Ok(Stream::plain(socket));
        };
        let socket = TlsSocket::new(socket);
        let (config, name) = (Arc::clone(&client.config), client.name.clone());
        let shaken = timeout_at(deadline, Tls::connect(&socket, config, name)).await;
        let problem = match shaken {
            Ok(Ok(tls)) => return Ok(Stream::over_tls(socket, tls)),
            Ok(Err(error)) => {
                server_kind::of_handshake(&error, self.relay.address(), client.has_own_ca)
            }
            Err(_) => "no answer in time; does the server there speak TLS?".to_owned(),
        };
        Err(Error::Tls {
            relay: self.relay.to_string(),
            problem,
        })
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn prepare(socket: &TcpStream) -> io::Result<()> {
    let socket = socket2::SockRef::from(socket);
    // The kernel ends a connection whose data stays unacknowledged for this long.
    socket.set_tcp_user_timeout(Some(STALE_TIMEOUT))?;
    socket.set_tcp_notsent_lowat(NOTSENT_BYTES_MAX)
}
