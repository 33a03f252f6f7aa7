//! What the next order must know about the certificate that the relay has ordered by itself.

use std::path::Path;

use rustls::pki_types::CertificateDer;

use super::certificate::Certificate;
use super::provider;
use crate::config::read_secret_file;
use crate::error::ConfigError;

/// A certificate that the relay has ordered, without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OrderedCertificate {
    /// Names in it, in lower case.
    pub(crate) names: Vec<String>,
    /// First second of its validity, since 1970.
    pub(crate) start_seconds: i64,
    /// Last second of its validity, since 1970.
    pub(crate) end_seconds: i64,
    /// The certificate itself.
    pub(crate) leaf: CertificateDer<'static>,
}

impl OrderedCertificate {
    /// Reads the certificate and its key from one file; `None` if there is no file.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, and what is wrong with it.
    pub(crate) fn read(file: &Path) -> Result<Option<Self>, ConfigError> {
        match is_there(file)? {
            true => Certificate::read_ordered(file, &provider()).map(|it| Some(Self::of(&it))),
            false => Ok(None),
        }
    }

    /// Checks a certificate and its key in one text.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn of_pem(pem: &str) -> Result<Self, String> {
        Certificate::of_pem(pem, &provider()).map(|it| Self::of(&it))
    }

    fn of(certificate: &Certificate) -> Self {
        Self {
            names: certificate.names().to_vec(),
            start_seconds: *certificate.validity().start(),
            end_seconds: *certificate.validity().end(),
            // A `Certificate` has a chain of at least one certificate.
            leaf: certificate.key().cert[0].clone(),
        }
    }
}

/// Whether the file of a certificate and its key is there.
///
/// # Errors
/// [`ConfigError`] if it cannot be read, or if other users can read it.
pub(super) fn is_there(file: &Path) -> Result<bool, ConfigError> {
    match read_secret_file(file) {
        Ok(_) => Ok(true),
        Err(ConfigError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
