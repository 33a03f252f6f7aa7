//! Dials the relay, one layer after the other: TCP with the socket options of a link, straight or through a proxy; TLS;
//! and a WebSocket. Or over QUIC all at once: for `quic://`, and for `https://` if the caller asks for it.

use std::future::ready;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use rustls::pki_types::ServerName;
use tieline_transport::quic::ALPN_AGENT;
use tieline_transport::{Received, Socket, Tls};
#[cfg(any(target_os = "linux", target_os = "android"))]
use tieline_wire::limits::STALE_TIMEOUT;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::choice::Proxies;
use super::client_certificate;
use super::connection::Connection;
use super::hello::{Hellos, Try};
use super::logins::Logins;
use super::quic::{self, Quic};
use super::server_kind;
use super::stream::{Stream, TlsDetails};
use super::tls::Trust;
use super::untried::{Untried, has_room_for_quic, small_buffers};
use super::upgrade::{self, Refused};
use super::url::{RelayUrl, Transport};
use super::verifier::Refusals;
use super::way::Way;
use super::wire::{TcpSocket, Wire};
use crate::address::deadline_in;
use crate::error::{ConfigError, Error, ProxyError, TrustError};

/// Time limit for dialling the relay: name lookup, connection, and the handshakes with a proxy, of TLS and of a
/// WebSocket together.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for the first packets behind a handshake over QUIC: two repetitions at a round trip of 300 ms, and below the
/// relay's limit of 5 s for the first frame of a connection.
const PROOF_TIMEOUT: Duration = Duration::from_secs(3);

/// Interval of the checks whether the system still names the proxy that refuses the login.
const WAY_INTERVAL: Duration = Duration::from_secs(10);

/// Protocol that agents ask for in the TLS handshake below a WebSocket.
const HTTP_PROTOCOL: &[u8] = b"http/1.1";

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
    proxies: Proxies,
    logins: Logins,
    /// `None` for a relay without TLS.
    tls: Option<TlsClient>,
    /// The same over QUIC; `None` for a relay whose URL names another transport.
    quic: Option<TlsClient>,
}

/// What a TLS handshake with the relay needs.
#[derive(Clone, Debug)]
struct TlsClient {
    hellos: Hellos,
    name: ServerName<'static>,
    /// True if the certificates of `--ca` are trusted.
    has_own_ca: bool,
    /// Why a certificate was refused, over QUIC.
    refusals: Refusals,
}

impl TlsClient {
    fn new(relay: &RelayUrl, transport: Transport, ca: Option<&Path>) -> Result<Self, TrustError> {
        let name = ServerName::try_from(relay.address().host());
        let protocol = match transport.is_websocket() {
            true => HTTP_PROTOCOL,
            false => ALPN_AGENT,
        };
        let (trust, refusals) = (Trust::read(ca)?, Refusals::default());
        let trust = match transport {
            Transport::Quic => trust.noting(&refusals),
            _ => trust,
        };
        Ok(Self {
            hellos: Hellos::new(&trust, protocol)?,
            name: name.map_err(|error| TrustError::Tls(error.to_string()))?,
            has_own_ca: ca.is_some(),
            refusals,
        })
    }
}

/// A TCP connection to the relay, before TLS.
#[derive(Debug)]
pub struct Connected {
    socket: TcpStream,
    way: Way,
    /// When the dial has taken [`DIAL_TIMEOUT`].
    deadline: Instant,
}

impl Connected {
    /// Address at the other end: the relay's, or that of a proxy.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.peer_addr()
    }

    /// The way that the connection took.
    #[must_use]
    pub const fn way(&self) -> &Way {
        &self.way
    }
}

/// A connection to the relay before the WebSocket handshake, with TLS if the relay's URL asks for it.
pub struct Secured {
    wire: Wire,
    /// True if no proxy is on the way.
    is_straight: bool,
    deadline: Instant,
}

impl Secured {
    /// What the TLS handshake has agreed on; `None` without TLS.
    #[must_use]
    pub fn tls_details(&self) -> Option<TlsDetails> {
        TlsDetails::of(&self.wire)
    }
}

impl Dialler {
    /// A dialler for `relay`, by way of `proxies`; for a relay with TLS, reads the certificates to trust: the system's,
    /// and those in the file `ca`.
    ///
    /// # Errors
    /// [`ConfigError`] if the certificates cannot be read, `ca` is given for a relay without TLS, or the proxy is of a
    /// kind that is not supported, or cannot be used for QUIC.
    pub fn new(relay: RelayUrl, ca: Option<&Path>, proxies: &Proxies) -> Result<Self, ConfigError> {
        let mut dialler = Self {
            relay,
            proxies: proxies.clone(),
            logins: Logins::default(),
            tls: None,
            quic: None,
        };
        // A proxy of the wrong kind stops the start.
        dialler.way()?;
        let (relay, transport) = (&dialler.relay, dialler.relay.transport());
        let client = |transport| TlsClient::new(relay, transport, ca).map(Some);
        dialler.tls = match (transport.is_encrypted(), ca) {
            (false, None) => None,
            (false, Some(_)) => return Err(ConfigError::CaWithoutTls),
            (true, _) => client(transport)?,
        };
        dialler.quic = match transport {
            Transport::Quic => dialler.tls.clone(),
            _ if relay.chooses() => client(Transport::Quic)?,
            _ => None,
        };
        Ok(dialler)
    }

    /// Shows the relay the certificate in the file `cert`, whose key is in the file `key`, in each handshake.
    ///
    /// # Errors
    /// [`ConfigError`] if the files cannot be used, or the relay is without TLS.
    pub fn with_client_certificate(mut self, cert: &Path, key: &Path) -> Result<Self, ConfigError> {
        if self.tls.is_none() {
            return Err(ConfigError::ClientCertWithoutTls);
        }
        let certificate = client_certificate::read(cert, key)?;
        for client in self.tls.iter_mut().chain(&mut self.quic) {
            client.hellos.show(&certificate);
        }
        Ok(self)
    }

    /// The same dialler, for a command that ends after its dials.
    #[must_use]
    pub fn for_one_run(self) -> Self {
        Self {
            logins: Logins::of_one_run(),
            ..self
        }
    }

    /// The relay that is dialled.
    #[must_use]
    pub const fn relay(&self) -> &RelayUrl {
        &self.relay
    }

    /// The way that a connection to the relay takes now.
    ///
    /// # Errors
    /// [`ProxyError`] if the system's settings now name a proxy of a kind that is not supported, or any for QUIC.
    pub fn way(&self) -> Result<Way, ProxyError> {
        let way = self.proxies.way(self.relay.address())?;
        if self.relay.transport() == Transport::Quic
            && let Some(proxy) = way.proxy()
        {
            let proxy = proxy.to_string();
            return Err(ProxyError::Quic { proxy });
        }
        Ok(way.with_logins(&self.logins))
    }

    /// Ready once a proxy that has refused the login may be asked again, or the system names another proxy or none.
    pub(crate) async fn not_barred(&self) {
        while self.way().is_ok_and(|way| way.is_barred()) {
            sleep(WAY_INTERVAL).await;
        }
    }

    /// Connects to the relay over the transport that its URL names; for `https://`, over a WebSocket.
    ///
    /// # Errors
    /// As [`Dialler::connect`], [`Dialler::secure`] and [`Dialler::finish`]; over QUIC as the first two.
    pub async fn dial(&self) -> Result<Connection, Error> {
        match self.relay.transport() {
            Transport::Quic => self.dial_quic().await,
            _ => self.dial_stream().await.map(Connection::Bytes),
        }
    }

    /// Connects to a relay with a `quic://` or `https://` URL over QUIC.
    ///
    /// # Errors
    /// As [`Dialler::connect`] and [`Dialler::secure`]; [`Error::Dial`] for a URL that names another transport.
    pub async fn dial_quic(&self) -> Result<Connection, Error> {
        let Some(client) = &self.quic else {
            let relay = self.relay.to_string();
            let source = io::Error::other("the relay's URL names another transport than QUIC");
            return Err(Error::Dial { relay, source });
        };
        let quic = self.shake_quic(client).await?;
        Ok(Connection::Quic(Box::new(quic)))
    }

    /// As [`Dialler::dial_quic`], and waits until the path has carried packets behind the handshake as well: some
    /// firewalls let a handshake through, and no more.
    ///
    /// # Errors
    /// As [`Dialler::dial_quic`].
    pub(crate) async fn prove_quic(&self) -> Result<Connection, Error> {
        let mut connection = self.dial_quic().await?;
        if let Connection::Quic(quic) = &mut connection {
            quic.confirm(PROOF_TIMEOUT).await.map_err(|error| {
                let relay = self.relay.to_string();
                let source = quic::with_hint(error, &self.relay, true);
                Error::Dial { relay, source }
            })?;
        }
        Ok(connection)
    }

    /// Whether an `https://` relay may be dialled over QUIC from this machine now.
    ///
    /// # Errors
    /// Why QUIC is not tried.
    pub fn tries_quic(&self) -> Result<(), Untried> {
        if !self.relay.chooses() {
            return Err(Untried::Scheme(self.relay.transport().word()));
        }
        match self.way() {
            Err(error) => return Err(Untried::Proxy(error.to_string())),
            Ok(way) => {
                if let Some(proxy) = way.proxy() {
                    return Err(Untried::Proxy(format!("the proxy {proxy}")));
                }
            }
        }
        // A system that does not tell may have room.
        quic::receive_room().map_or(Ok(()), has_room_for_quic)
    }

    /// Tells in the log of buffers that are too small for QUIC, or smaller than it asks for, if links may be over QUIC.
    pub(crate) fn tell_of_small_buffers(&self) {
        match self.small_buffers() {
            None => {}
            Some((text, Err(_))) => tracing::warn!("{text}"),
            // The default of many systems, and of no effect at usual rates.
            Some((text, Ok(()))) => tracing::info!("{text}"),
        }
    }

    /// The warning of buffers that are too small for QUIC, as the agent's log has it at its start.
    #[must_use]
    pub fn buffer_warning(&self) -> Option<String> {
        let (text, has_room) = self.small_buffers()?;
        has_room.is_err().then_some(text)
    }

    /// What is to say of small buffers, if links may be over QUIC, and whether they have room for it all the same.
    fn small_buffers(&self) -> Option<(String, Result<(), Untried>)> {
        if self.quic.is_none() || !self.way().is_ok_and(|way| way.proxy().is_none()) {
            return None;
        }
        let bytes = quic::receive_room().ok()?;
        let text = small_buffers(bytes, self.relay.chooses())?;
        Some((text, has_room_for_quic(bytes)))
    }

    /// Connects over TCP, with the layers that the URL names.
    pub(super) async fn dial_stream(&self) -> Result<Stream, Error> {
        let connected = self.connect().await?;
        let secured = self.secure(connected).await?;
        self.finish(secured).await
    }

    /// Connects over QUIC. A hello of two packets that nothing answers is followed by a short one, as over TLS.
    async fn shake_quic(&self, client: &TlsClient) -> Result<Quic, Error> {
        let deadline = deadline_in(DIAL_TIMEOUT);
        let to = self.relay.address();
        let failed = |source| Error::Dial {
            relay: self.relay.to_string(),
            source,
        };
        self.way()
            .map_err(|error| failed(io::Error::other(error)))?;
        // All tries have it in common.
        let has_heard = OnceLock::new();
        let shake = |attempt: Try<()>| {
            has_heard.get_or_init(|| Arc::clone(&attempt.has_heard));
            quic::connect(to.clone(), attempt, client.refusals.clone(), deadline)
        };
        let again = ready(Ok(()));
        let shaken = client.hellos.shake((), again, deadline, shake).await;
        shaken.map_err(|error| {
            let is_of_tls = error.get_ref().is_some_and(|it| it.is::<rustls::Error>());
            if !is_of_tls {
                let has_heard = has_heard.get();
                let has_heard = has_heard.is_some_and(|it| it.load(Ordering::Relaxed));
                return failed(quic::with_hint(error, &self.relay, has_heard));
            }
            let (relay, has_own_ca) = (&self.relay, client.has_own_ca);
            Error::Tls {
                relay: relay.to_string(),
                problem: server_kind::of_handshake(&error, relay, has_own_ca, None),
            }
        })
    }

    /// The first step of a dial: the TCP connection, through the proxy that is named now, if there is one.
    ///
    /// # Errors
    /// [`Error::Dial`] with the system's error, or in the words of the proxy.
    pub async fn connect(&self) -> Result<Connected, Error> {
        let connected = self.connect_by(deadline_in(DIAL_TIMEOUT)).await;
        connected.map_err(|source| Error::Dial {
            relay: self.relay.to_string(),
            source,
        })
    }

    async fn connect_by(&self, deadline: Instant) -> io::Result<Connected> {
        let way = self.way().map_err(io::Error::other)?;
        let socket = connect(&way, deadline).await?;
        Ok(Connected {
            socket,
            way,
            deadline,
        })
    }

    /// The second step of a dial: the TLS handshake, if the relay's URL asks for TLS.
    ///
    /// # Errors
    /// [`Error::Tls`] says what is wrong with the server or its certificate.
    pub async fn secure(&self, connected: Connected) -> Result<Secured, Error> {
        let Connected {
            socket,
            way,
            deadline,
        } = connected;
        let wire = match &self.tls {
            None => Wire::Plain(TcpSocket::new(socket)),
            Some(client) => {
                let again = connect(&way, deadline);
                let shake = |attempt: Try| handshake(client.name.clone(), attempt);
                let shaken = client.hellos.shake(socket, again, deadline, shake).await;
                shaken.map_err(|error| {
                    let proxy = way.proxy().map(ToString::to_string);
                    let (relay, has_own_ca) = (&self.relay, client.has_own_ca);
                    Error::Tls {
                        relay: relay.to_string(),
                        problem: server_kind::of_handshake(
                            &error,
                            relay,
                            has_own_ca,
                            proxy.as_deref(),
                        ),
                    }
                })?
            }
        };
        Ok(Secured {
            wire,
            is_straight: way.proxy().is_none(),
            deadline,
        })
    }

    /// The last step of a dial: the WebSocket, if the relay's URL asks for one.
    ///
    /// # Errors
    /// [`Error::Upgrade`] names what answers in place of the relay, or has the relay's own message.
    pub async fn finish(&self, secured: Secured) -> Result<Stream, Error> {
        let Secured {
            wire,
            is_straight,
            deadline,
        } = secured;
        if self.relay.transport().is_websocket() {
            let upgraded = upgrade::upgrade(wire, &self.relay, deadline).await;
            return upgraded.map_err(|Refused { problem, is_busy }| Error::Upgrade {
                relay: self.relay.to_string(),
                problem,
                is_busy,
            });
        }
        Ok(match wire {
            Wire::Plain(socket) if is_straight && self.relay.transport() == Transport::Tcp => {
                Stream::plain(socket.into_inner())
            }
            wire => Stream::over(wire),
        })
    }
}

/// Makes one TCP connection, with the options of a link.
async fn connect(way: &Way, deadline: Instant) -> io::Result<TcpStream> {
    let socket = way.connect(deadline).await?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    prepare(&socket)?;
    Ok(socket)
}

/// Makes one TLS handshake with the server `name`.
async fn handshake(name: ServerName<'static>, attempt: Try) -> io::Result<Wire> {
    let socket = TcpSocket::new(attempt.socket);
    let watched = Watched {
        socket: &socket,
        has_heard: &attempt.has_heard,
    };
    let tls = Tls::connect(&watched, attempt.config, name).await?;
    Ok(Wire::secured(socket, tls))
}

/// A socket that tells whether the server has sent a byte.
struct Watched<'a> {
    socket: &'a TcpSocket,
    has_heard: &'a AtomicBool,
}

impl Socket for Watched<'_> {
    fn recv(&self, buffer: &mut BytesMut, max: usize) -> io::Result<Received> {
        let received = self.socket.recv(buffer, max)?;
        if let Received::Bytes(1..) = received {
            self.has_heard.store(true, Ordering::Relaxed);
        }
        Ok(received)
    }

    fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.send_vectored(slices)
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_readable(cx)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_writable(cx)
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn prepare(socket: &TcpStream) -> io::Result<()> {
    let socket = socket2::SockRef::from(socket);
    // The kernel ends a connection whose data stays unacknowledged for this long.
    socket.set_tcp_user_timeout(Some(STALE_TIMEOUT))?;
    socket.set_tcp_notsent_lowat(NOTSENT_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn quic_is_tried_where_the_url_leaves_it_open_and_no_proxy_leads_to_the_relay() {
        let authority = rcgen::generate_simple_self_signed(["relay".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        fs::write(&ca, authority.cert.pem()).unwrap();
        let tries = |url: &str, proxies: &Proxies| {
            let relay = RelayUrl::parse(url).unwrap();
            Dialler::new(relay, Some(&ca), proxies)
                .unwrap()
                .tries_quic()
        };
        assert_eq!(tries("https://relay.invalid", &Proxies::Never), Ok(()));
        assert_eq!(tries("relay.invalid", &Proxies::Never), Ok(()));
        for scheme in ["wss", "tls", "quic"] {
            let url = format!("{scheme}://relay.invalid");
            assert_eq!(tries(&url, &Proxies::Never), Err(Untried::Scheme(scheme)));
        }
        let proxies = Proxies::parse("http://ada:secret@proxy:3128").unwrap();
        let why = tries("https://relay.invalid", &proxies)
            .unwrap_err()
            .to_string();
        assert!(
            why.contains("the proxy http://proxy:3128") && !why.contains("secret"),
            "{why}"
        );
    }

    #[test]
    fn the_agents_own_certificate_is_shown_in_the_second_try_as_well() {
        let own = rcgen::generate_simple_self_signed(["agent".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (
            folder.path().join("cert.pem"),
            folder.path().join("key.pem"),
        );
        fs::write(&cert, own.cert.pem()).unwrap();
        fs::write(&key, own.signing_key.serialize_pem()).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let relay = RelayUrl::parse("tls://relay.invalid").unwrap();
        let dialler = Dialler::new(relay, Some(&cert), &Proxies::Never).unwrap();
        let dialler = dialler.with_client_certificate(&cert, &key).unwrap();
        let tls = dialler.tls.unwrap();
        for config in tls.hellos.configs() {
            assert!(config.client_auth_cert_resolver.has_certs());
        }
    }
}
