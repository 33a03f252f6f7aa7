//! TLS to the relay's HTTP port, and what a failure means in words.

use std::io;
use std::path::Path;

use rustls::pki_types::ServerName;
use tieline_agent::TrustError;
use tieline_agent::transport::{Hellos, Proxy, Trust, Try, certificate_problem, server_kind};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::OutboundError;
use super::origin::RelayOrigin;
use super::watched::Watched;

/// Protocol that the relay's HTTP port is asked for in the handshake (ALPN, RFC 7301).
const PROTOCOL: &[u8] = b"http/1.1";

/// Makes TLS connections to one relay.
#[derive(Clone)]
pub(crate) struct Tls {
    hellos: Hellos,
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
        let hellos = Hellos::new(&Trust::read(ca)?, PROTOCOL)?;
        let name = ServerName::try_from(relay.address.host());
        let name = name.map_err(|error| TrustError::Tls(error.to_string()))?;
        Ok(Some(Self {
            hellos,
            name,
            has_own_ca: ca.is_some(),
        }))
    }

    /// Makes the handshake over `socket`, before `deadline`; `again` connects for a second try.
    pub(super) async fn connect(
        &self,
        socket: TcpStream,
        again: impl Future<Output = io::Result<TcpStream>>,
        deadline: Instant,
    ) -> io::Result<TlsStream<Watched>> {
        let handshake = |attempt: Try| {
            let watched = Watched::new(attempt.socket, attempt.has_heard);
            TlsConnector::from(attempt.config).connect(self.name.clone(), watched)
        };
        let shaking = self.hellos.shake(socket, again, deadline, handshake);
        shaking.await
    }

    /// Explains a failed handshake by way of `proxy` and names a remedy; `None` if the connection failed below TLS.
    pub(crate) fn explain(&self, error: &io::Error, proxy: Option<&Proxy>) -> Option<String> {
        let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        let text = match (error, proxy) {
            (rustls::Error::InvalidCertificate(error), _) => {
                certificate_problem(error, self.has_own_ca)
            }
            (rustls::Error::InvalidMessage(_), Some(proxy)) => format!(
                "this port does not speak TLS; {}",
                server_kind::in_place_of_relay(&proxy.to_string())
            ),
            (rustls::Error::InvalidMessage(_), None) => {
                "the server there does not speak TLS; should the relay's URL be http://?".to_owned()
            }
            (other, _) => format!("the TLS handshake failed: {other}"),
        };
        Some(text)
    }
}
