//! The authorities that sign agents' own certificates: the file of `agent_ca`.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::certificate::parse_chain;
use super::provider;
use crate::config::read_authorities;
use crate::error::ConfigError;

/// Authorities of agents' certificates. Two are equal if they have the same certificates in the same order.
#[derive(Clone)]
pub(super) struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Authorities {
    /// Reads the certificates of authorities in the file at `path`, which other users must not be able to change.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, and what is wrong with it.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let wrong = |problem: String| ConfigError::content(path, problem);
        let certificates = parse_chain(&read_authorities(path)?);
        let certificates = certificates.map_err(|problem| wrong(problem.to_owned()))?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            let added = roots.add(certificate.clone());
            added.map_err(|error| wrong(format!("a certificate in it cannot be used: {error}")))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let verifier = verifier.build();
        Ok(Self {
            verifier: verifier.map_err(|error| wrong(format!("cannot be used: {error}")))?,
            certificates,
        })
    }

    /// Number of authorities.
    pub(super) const fn len(&self) -> usize {
        self.certificates.len()
    }

    /// Checks the certificate that an agent shows; without one, the handshake fails.
    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.verifier)
    }
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        self.certificates == other.certificates
    }
}
