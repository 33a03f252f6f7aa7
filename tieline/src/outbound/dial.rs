//! Connections to a relay's HTTP port: the way there, straight or through a proxy, and TLS.

use std::io;
use std::path::Path;
use std::time::Duration;

use tieline_agent::address::HostPort;
use tieline_agent::transport::Logins;
use tieline_agent::{Proxies, RefusedLogin, UnansweredLogin};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::error::OutboundError;
use super::failure::Failure;
use super::origin::RelayOrigin;
use super::tls::Tls;
use super::watched::Watched;

/// A connection to a relay's HTTP port: plain TCP or TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    /// The TCP connection itself, below TLS if there is TLS.
    fn socket(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Stream for TlsStream<Watched> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0.socket()
    }
}

/// Connects to one relay's HTTP port. Clones share what is known about the login at a proxy.
#[derive(Clone)]
pub(crate) struct Dial {
    relay: HostPort,
    proxies: Proxies,
    logins: Logins,
    tls: Option<Tls>,
}

impl Dial {
    /// Connections to `relay` by way of `proxies`. Over `https://` the system's certificates are trusted, and those in
    /// the file `ca`.
    pub(crate) fn of(
        relay: &RelayOrigin,
        ca: Option<&Path>,
        proxies: &Proxies,
    ) -> Result<Self, OutboundError> {
        // A proxy of the wrong kind stops the start.
        proxies.way(&relay.address)?;
        Ok(Self {
            relay: relay.address.clone(),
            proxies: proxies.clone(),
            logins: Logins::default(),
            tls: Tls::of(relay, ca)?,
        })
    }

    /// The same connections, for a command that ends after them.
    pub(crate) fn for_one_run(self) -> Self {
        Self {
            logins: Logins::of_one_run(),
            ..self
        }
    }

    /// True if a proxy leads to the relay now.
    pub(super) fn has_proxy(&self) -> bool {
        let way = self.proxies.way(&self.relay);
        way.is_ok_and(|way| way.proxy().is_some())
    }

    /// Connects, through the proxy that is named now if there is one, with the TLS handshake, before `deadline`.
    pub(crate) async fn connect(&self, deadline: Instant) -> Result<Box<dyn Stream>, Failure> {
        let way = self.proxies.way(&self.relay);
        let way = way.map_err(|error| Failure::Away(error.to_string()))?;
        let way = way.with_logins(&self.logins);
        let connected = way.connect(deadline).await;
        let stream = connected.map_err(|error| not_connected(&error))?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let again = way.connect(deadline);
        match tls.connect(stream, again, deadline).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(match tls.explain(&error, way.proxy()) {
                Some(why) => Failure::Untrusted(why),
                None if error.kind() == io::ErrorKind::TimedOut => {
                    Failure::Silent("the TLS handshake did not end in time".to_owned())
                }
                None => Failure::Closed(error.to_string()),
            }),
        }
    }
}

/// Why no connection could be made: the login at a proxy, or anything else.
fn not_connected(error: &io::Error) -> Failure {
    let why = error.to_string();
    match RefusedLogin::of(error) {
        Some(refused) => Failure::Login {
            why,
            again: refused.again(),
        },
        None if UnansweredLogin::of(error).is_some() => Failure::Login {
            why,
            again: Duration::ZERO,
        },
        None => Failure::Away(why),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{NamedGroup, ServerConfig};
    use tieline_agent::address::deadline_in;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    #[tokio::test]
    async fn a_proxy_that_does_not_answer_the_login_in_time_is_a_failed_login() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = format!("http://ada:secret@{}", listener.local_addr().unwrap());
        let relay = RelayOrigin::parse("http://relay.test:9080").unwrap();
        let proxies = Proxies::parse(&proxy).unwrap();
        let dial = Dial::of(&relay, None, &proxies).unwrap();
        let dialling = dial.connect(deadline_in(Duration::from_secs(1)));
        let (dialled, _silent) = tokio::join!(dialling, listener.accept());
        let Err(Failure::Login { why, again }) = dialled else {
            panic!("a connection, or another failure");
        };
        assert!(
            why.contains("no answer in time when it was sent the user name"),
            "{why}"
        );
        assert_eq!(again, Duration::ZERO, "the answer may still come");
    }

    /// A middlebox that drops long hellos: it cuts the first connection, and lets the second pass.
    #[tokio::test]
    async fn a_handshake_that_is_cut_is_tried_once_more_with_a_shorter_hello() {
        let provider = Arc::new(default_provider());
        let mut groups = provider.kx_groups.iter().map(|group| group.name());
        if !groups.any(|group| group == NamedGroup::X25519MLKEM768) {
            return; // This library for cryptography has no ML-KEM.
        }
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        fs::write(&ca, own.cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let relay = RelayOrigin::parse(&format!("https://localhost:{port}")).unwrap();
        let dial = Dial::of(&relay, Some(&ca), &Proxies::Never).unwrap();
        let accepting = async {
            let (mut first, _) = listener.accept().await.unwrap();
            let mut hello = vec![0; 4096];
            let long = first.read(&mut hello).await.unwrap();
            drop(first);
            let (second, _) = listener.accept().await.unwrap();
            let short = second.peek(&mut hello).await.unwrap();
            assert!(short < long, "{short} bytes after {long}");
            acceptor.accept(second).await.unwrap()
        };
        let dialling = dial.connect(deadline_in(Duration::from_secs(10)));
        let (dialled, _server) = tokio::join!(dialling, accepting);
        assert!(dialled.is_ok());
    }
}
