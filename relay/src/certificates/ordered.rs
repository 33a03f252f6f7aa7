//! What the next order must know about the certificate that the relay has ordered by itself.

use std::path::Path;

use rustls::pki_types::CertificateDer;

use super::certificate::{Certificate, early, expired};
use super::provider;
use crate::config::read_secret_file;
use crate::error::ConfigError;

/// How far in the future a certificate from a CA may begin: this machine's clock may be hours behind, and clients with a
/// right one accept the certificate.
const AHEAD_SECONDS_MAX: i64 = 24 * 60 * 60;

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

    /// Checks that the certificate may take the place of another one that is in use: it has all of `names`, has not
    /// expired at `now_seconds` since 1970, and begins no later than [`AHEAD_SECONDS_MAX`] from then on.
    ///
    /// # Errors
    /// What is wrong with it, as words that follow the name of its file.
    pub(crate) fn check(&self, names: &[String], now_seconds: i64) -> Result<(), String> {
        if let Some(name) = self.lacks(names) {
            return Err(format!("lacks the name {name}"));
        }
        if self.end_seconds < now_seconds {
            return Err(expired(self.end_seconds));
        }
        if self.start_seconds.saturating_sub(now_seconds) > AHEAD_SECONDS_MAX {
            return Err(early(self.start_seconds));
        }
        Ok(())
    }

    /// The first of `names` that the certificate lacks.
    pub(crate) fn lacks<'a>(&self, names: &'a [String]) -> Option<&'a str> {
        let has = |name: &str| self.names.iter().any(|it| it.eq_ignore_ascii_case(name));
        names.iter().map(String::as_str).find(|name| !has(name))
    }

    pub(super) fn of(certificate: &Certificate) -> Self {
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
