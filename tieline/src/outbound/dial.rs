//! Connections to a relay's HTTP port: the way there, straight or through a proxy, and TLS.

use std::path::Path;

use tieline_agent::Proxies;
use tieline_agent::transport::Way;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::client::TlsStream;

use super::error::OutboundError;
use super::failure::Failure;
use super::origin::RelayOrigin;
use super::tls::Tls;

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

impl Stream for TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Connects to one relay's HTTP port.
#[derive(Clone)]
pub(crate) struct Dial {
    way: Way,
    tls: Option<Tls>,
}

impl Dial {
    /// Connections to `relay` by way of `proxies`. Over `https://` the system's certificates are trusted, and those in the
    /// file `ca`.
    pub(crate) fn of(
        relay: &RelayOrigin,
        ca: Option<&Path>,
        proxies: &Proxies,
    ) -> Result<Self, OutboundError> {
        Ok(Self {
            way: proxies.way(&relay.address)?,
            tls: Tls::of(relay, ca)?,
        })
    }

    /// Connects, with the TLS handshake, before `deadline`.
    pub(crate) async fn connect(&self, deadline: Instant) -> Result<Box<dyn Stream>, Failure> {
        let connected = self.way.connect(deadline).await;
        let stream = connected.map_err(|error| Failure::Away(error.to_string()))?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        match timeout_at(deadline, tls.connect(stream)).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(match tls.explain(&error) {
                Some(why) => Failure::Untrusted(why),
                None => Failure::Closed(error.to_string()),
            }),
            Err(_) => Err(Failure::Silent(
                "the TLS handshake did not end in time".to_owned(),
            )),
        }
    }
}
