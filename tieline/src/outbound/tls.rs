//! TLS to the relay's HTTP port, and what a failure means in words.

use std::io;
use std::path::Path;

use rustls::pki_types::ServerName;
use tieline_agent::TrustError;
use tieline_agent::transport::{Trust, certificate_problem};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::OutboundError;
use super::origin::RelayOrigin;

/// Protocol that the relay's HTTP port is asked for in the handshake (ALPN, RFC 7301).
const PROTOCOL: &[u8] = b"http/1.1";

/// Makes TLS connections to one relay.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
    /// True if the certificates of --ca are trusted.
    has_own_ca: bool,
}

impl Tls {
    /// TLS for a relay whose URL is `https://`, `None` for another one. Trusts the system's certificates, and those in
    /// the file `ca`.
    pub(crate) fn of(
        relay: &RelayOrigin,
        ca: Option<&Path>,
    ) -> Result<Option<Self>, OutboundError> {
        if !relay.https {
            return match ca {
                Some(_) => Err(OutboundError::CaWithoutTls),
                None => Ok(None),
            };
        }
        let config = Trust::read(ca)?.client_config(PROTOCOL)?;
        let name = ServerName::try_from(relay.address.host());
        let name = name.map_err(|error| TrustError::Tls(error.to_string()))?;
        Ok(Some(Self {
            connector: TlsConnector::from(config),
            name,
            has_own_ca: ca.is_some(),
        }))
    }

    pub(crate) async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await
    }

    /// Explains a failed handshake and names a remedy; `None` if the connection failed below TLS.
    pub(crate) fn explain(&self, error: &io::Error) -> Option<String> {
        let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        let text = match error {
            rustls::Error::InvalidCertificate(error) => certificate_problem(error, self.has_own_ca),
            rustls::Error::InvalidMessage(_) => {
                "the server there does not speak TLS; should the relay's URL be http://?".to_owned()
            }
            other => format!("the TLS handshake failed: {other}"),
        };
        Some(text)
    }
}
