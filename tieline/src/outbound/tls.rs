//! TLS to the relay: which certificates to trust, and what a failure means in words.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::OutboundError;
use super::origin::RelayOrigin;

/// Expected content of a certificate file, for error messages.
const PEM_FORM: &str =
    "expected certificates in PEM form, which begin with -----BEGIN CERTIFICATE-----";

/// Makes TLS connections to one relay.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
    /// True if the certificates of --ca are trusted instead of the system's.
    has_own_ca: bool,
}

impl Tls {
    /// TLS for a relay whose URL is `https://`, `None` for another one. Trusts the certificates in the file `ca`, or
    /// the system's without such a file.
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
        let roots = match ca {
            Some(path) => roots_of(path)?,
            None => system_roots()?,
        };
        let failed = |error: &dyn std::fmt::Display| OutboundError::Tls(error.to_string());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from(relay.address.host()).map_err(|error| failed(&error))?;
        Ok(Some(Self {
            connector: TlsConnector::from(Arc::new(config)),
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
            rustls::Error::InvalidCertificate(error) => certificate(error, self.has_own_ca),
            rustls::Error::InvalidMessage(_) => {
                "the server there does not speak TLS; should the relay's URL be http://?".to_owned()
            }
            other => format!("the TLS handshake failed: {other}"),
        };
        Some(text)
    }
}

fn roots_of(path: &Path) -> Result<RootCertStore, OutboundError> {
    let wrong = |problem: String| OutboundError::Ca {
        path: path.to_owned(),
        problem,
    };
    if path.is_dir() {
        return Err(wrong(
            "it is a folder: give the path of a file in it".to_owned(),
        ));
    }
    let text = fs::read(path).map_err(|error| wrong(format!("cannot read it: {error}")))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate
            .map_err(|error| wrong(format!("its content is damaged ({error}): {PEM_FORM}")))?;
        roots.add(certificate).map_err(|error| {
            wrong(format!(
                "a certificate in it cannot be used ({error}): {PEM_FORM}"
            ))
        })?;
    }
    if roots.is_empty() {
        return Err(wrong(format!("it holds no certificate: {PEM_FORM}")));
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, OutboundError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let cause = found.errors.first();
        let cause = cause.map_or_else(String::new, |error| format!(" ({error})"));
        return Err(OutboundError::NoRoots(cause));
    }
    Ok(roots)
}

fn certificate(error: &CertificateError, has_own_ca: bool) -> String {
    match error {
        // `BadSignature`: an issuer of the same name with another key signed the certificate.
        CertificateError::UnknownIssuer | CertificateError::BadSignature if has_own_ca => {
            "its certificate is not signed by a certificate in the file of --ca; \
             give the file of the authority that signed it, or leave --ca out to trust the system's"
                .to_owned()
        }
        CertificateError::UnknownIssuer => {
            "its certificate is not signed by an authority that this machine trusts; \
             if the studio has a certificate authority of its own, name its file with --ca"
                .to_owned()
        }
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate is an authority's own (self-signed with CA:TRUE), which a server must not \
             show; have the operator make one for the server (CA:FALSE) and give that file with --ca"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name; give the relay's URL with the name in the certificate"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired, or this machine's clock is wrong".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet, or this machine's clock is wrong".to_owned()
        }
        other => {
            format!("its certificate is not accepted ({other}); name a private certificate with --ca")
        }
    }
}
