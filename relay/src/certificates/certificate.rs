//! One certificate with its key: read from two files, and checked.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{Error, InconsistentKeys};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use crate::config::{CertificateFiles, read_certificates, read_secret_file, rfc3339};
use crate::error::ConfigError;

/// UTF-8's byte order mark, which some editors write in front of a text; behind it no PEM block is recognised.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// A certificate with its key.
#[derive(Clone)]
pub(super) struct Certificate {
    /// Names that clients may reach the relay by, in lower case: DNS names, wildcards and addresses.
    names: Vec<String>,
    /// When clients accept it, in seconds since 1970.
    validity: RangeInclusive<i64>,
    /// Whether it is an authority's, which agents and other strict clients refuse as a server's.
    is_authority: bool,
    /// Whether the relay has ordered it by itself (ACME), and renews it.
    is_ordered: bool,
    key: Arc<CertifiedKey>,
}

/// What is wrong with a certificate and its key.
enum Wrong {
    Certificate(String),
    /// The key belongs to another certificate.
    Key,
}

impl Certificate {
    /// Reads a certificate and its key. Its time is not checked: see [`Certificate::check_time`].
    ///
    /// # Errors
    /// [`ConfigError`] names the file, and what is wrong with it.
    pub(super) fn read(
        files: &CertificateFiles,
        provider: &CryptoProvider,
    ) -> Result<Self, ConfigError> {
        let in_cert = |problem: String| ConfigError::content(&files.cert, problem);
        let in_key = |problem: String| ConfigError::content(&files.key, problem);
        let chain = parse_chain(&read_certificates(&files.cert)?);
        let chain = chain.map_err(|problem| in_cert(problem.to_owned()))?;
        let key = parse_key(&read_secret_file(&files.key)?, provider);
        let key = key.map_err(|problem| in_key(problem.to_owned()))?;
        Self::of(chain, key).map_err(|wrong| match wrong {
            Wrong::Certificate(problem) => in_cert(problem),
            Wrong::Key if files.key == files.cert => {
                in_key("the key in it is not that of its certificate".to_owned())
            }
            Wrong::Key => in_key(format!("is not the key of {}", files.cert.display())),
        })
    }

    /// Reads a certificate that the relay has ordered by itself, and its key, from one file.
    ///
    /// # Errors
    /// As [`Certificate::read`].
    pub(super) fn read_ordered(
        file: &Path,
        provider: &CryptoProvider,
    ) -> Result<Self, ConfigError> {
        let files = CertificateFiles {
            cert: file.to_owned(),
            key: file.to_owned(),
        };
        let it = Self::read(&files, provider)?;
        Ok(Self {
            is_ordered: true,
            ..it
        })
    }

    /// Checks a certificate and its key in one text, in the form that [`Certificate::read_ordered`] reads from a file.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn of_pem(pem: &str, provider: &CryptoProvider) -> Result<Self, String> {
        let chain = parse_chain(pem.as_bytes())?;
        let key = parse_key(pem.as_bytes(), provider)?;
        Self::of(chain, key).map_err(|wrong| match wrong {
            Wrong::Certificate(problem) => problem,
            Wrong::Key => "is for another key".to_owned(),
        })
    }

    /// A certificate, with those behind it that lead to its authority, and its key.
    fn of(chain: Vec<CertificateDer<'static>>, key: Arc<dyn SigningKey>) -> Result<Self, Wrong> {
        // `parse_chain` returns one certificate at least.
        let Content {
            names,
            validity,
            is_authority,
        } = Content::of(&chain[0]).map_err(Wrong::Certificate)?;
        if names.is_empty() {
            let problem = "has no name that clients look for (subjectAltName): a certificate for the DNS names of the \
                           relay belongs here";
            return Err(Wrong::Certificate(problem.to_owned()));
        }
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(Self {
                names,
                validity,
                is_authority,
                is_ordered: false,
                key: Arc::new(key),
            }),
            Err(Error::InconsistentKeys(_)) => Err(Wrong::Key),
            Err(error) => Err(Wrong::Certificate(format!("cannot be used: {error}"))),
        }
    }

    /// Names that clients may reach the relay by, in lower case.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Checks that clients accept the certificate at `now_seconds` since 1970.
    ///
    /// # Errors
    /// What is wrong with it then.
    pub(super) fn check_time(&self, now_seconds: u64) -> Result<(), String> {
        if self.is_over(now_seconds) {
            return Err(expired(*self.validity.end()));
        }
        if i64::try_from(now_seconds).is_ok_and(|now| now < *self.validity.start()) {
            return Err(early(*self.validity.start()));
        }
        Ok(())
    }

    /// Whether the certificate has expired at `now_seconds` since 1970.
    pub(super) fn is_over(&self, now_seconds: u64) -> bool {
        i64::try_from(now_seconds).unwrap_or(i64::MAX) > *self.validity.end()
    }

    /// When clients accept it, in seconds since 1970.
    pub(super) const fn validity(&self) -> &RangeInclusive<i64> {
        &self.validity
    }

    /// Whether the relay has ordered it by itself (ACME), and renews it.
    pub(super) const fn is_ordered(&self) -> bool {
        self.is_ordered
    }

    /// Whether it is an authority's, which agents and other strict clients refuse as a server's.
    pub(super) const fn is_authority(&self) -> bool {
        self.is_authority
    }

    /// Certificates and key, as rustls takes them.
    pub(super) const fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

impl PartialEq for Certificate {
    /// Compares the certificates; equal ones have the same key.
    fn eq(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = time(*self.validity.end());
        write!(f, "{} until {until}", self.names.join(", "))
    }
}

/// What a certificate says.
struct Content {
    names: Vec<String>,
    /// Seconds since 1970.
    validity: RangeInclusive<i64>,
    is_authority: bool,
}

impl Content {
    /// Reads a certificate; the error tells what is wrong with it.
    fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let damaged = "its first certificate is damaged";
        let (_, certificate) =
            parse_x509_certificate(certificate).map_err(|_| damaged.to_owned())?;
        let names = certificate.subject_alternative_name();
        let names = names.map_err(|_| damaged.to_owned())?;
        let names = names.iter().flat_map(|it| &it.value.general_names);
        let validity = certificate.validity();
        Ok(Self {
            names: names.filter_map(name).collect(),
            validity: validity.not_before.timestamp()..=validity.not_after.timestamp(),
            is_authority: certificate.is_ca(),
        })
    }
}

/// The name in a form that a client's can be compared with; `None` for a kind that means nothing here.
fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        _ => None,
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// Says that a certificate has expired at `end`, in seconds since 1970.
pub(super) fn expired(end: i64) -> String {
    format!("expired at {}", time(end))
}

/// Says that a certificate is not valid before `start`, in seconds since 1970.
pub(super) fn early(start: i64) -> String {
    let from = time(start);
    format!("is not valid before {from} (is this machine's clock right?)")
}

fn time(seconds: i64) -> String {
    rfc3339(u64::try_from(seconds).unwrap_or(0))
}

/// The content without a byte order mark.
fn unmarked(content: &[u8]) -> &[u8] {
    content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(content)
}

/// Parses a certificate, and those behind it that lead to its authority; one certificate at least.
pub(super) fn parse_chain(content: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let chain = CertificateDer::pem_slice_iter(unmarked(content)).collect::<Result<Vec<_>, _>>();
    let damaged =
        "a block in it is damaged: each begins with `-----BEGIN` and ends with `-----END`";
    match chain.map_err(|_| damaged)? {
        chain if chain.is_empty() => {
            Err("no certificate in it: a block of `-----BEGIN CERTIFICATE-----` belongs here")
        }
        chain => Ok(chain),
    }
}

/// Parses a private key.
fn parse_key(
    content: &[u8],
    provider: &CryptoProvider,
) -> Result<Arc<dyn SigningKey>, &'static str> {
    let absent = "no whole private key in it: a block of `-----BEGIN PRIVATE KEY-----` belongs here, without a \
                  passphrase";
    let unfit = "its key cannot be used: RSA, ECDSA (P-256, P-384) or Ed25519 belongs here";
    let key = PrivateKeyDer::from_pem_slice(unmarked(content)).map_err(|_| absent)?;
    provider
        .key_provider
        .load_private_key(key)
        .map_err(|_| unfit)
}
