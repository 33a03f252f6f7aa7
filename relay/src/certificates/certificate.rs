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
pub(super) struct Certificate {
    /// Names that clients may reach the relay by, in lower case: DNS names, wildcards and addresses.
    names: Vec<String>,
    /// When clients accept it, in seconds since 1970.
    validity: RangeInclusive<i64>,
    /// Whether it is an authority's, which agents and other strict clients refuse as a server's.
    is_authority: bool,
    key: Arc<CertifiedKey>,
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
        let wrong = |problem: String| ConfigError::content(&files.cert, problem);
        let chain = read_chain(&files.cert)?;
        // `read_chain` returns one certificate at least.
        let Content {
            names,
            validity,
            is_authority,
        } = Content::of(&chain[0]).map_err(wrong)?;
        if names.is_empty() {
            let problem = "has no name that clients look for (subjectAltName): a certificate for the DNS names of the \
                           relay belongs here";
            return Err(wrong(problem.to_owned()));
        }
        let key = CertifiedKey::new(chain, read_key(&files.key, provider)?);
        match key.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(Self {
                names,
                validity,
                is_authority,
                key: Arc::new(key),
            }),
            Err(Error::InconsistentKeys(_)) => {
                let problem = format!("is not the key of {}", files.cert.display());
                Err(ConfigError::content(&files.key, problem))
            }
            Err(error) => Err(wrong(format!("cannot be used: {error}"))),
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
        let now = i64::try_from(now_seconds).unwrap_or(i64::MAX);
        if now > *self.validity.end() {
            return Err(format!("expired at {}", time(*self.validity.end())));
        }
        if now < *self.validity.start() {
            let from = time(*self.validity.start());
            return Err(format!(
                "is not valid before {from} (is this machine's clock right?)"
            ));
        }
        Ok(())
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

fn time(seconds: i64) -> String {
    rfc3339(u64::try_from(seconds).unwrap_or(0))
}

/// The content without a byte order mark.
fn unmarked(content: &[u8]) -> &[u8] {
    content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(content)
}

/// Reads a certificate, and those behind it that lead to its authority.
fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    chain(path, &read_certificates(path)?)
}

/// The certificates in `content`, that of the file at `path`; one at least.
pub(super) fn chain(
    path: &Path,
    content: &[u8],
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let wrong = |problem: &str| ConfigError::content(path, problem);
    let chain = CertificateDer::pem_slice_iter(unmarked(content)).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| {
        wrong("a block in it is damaged: each begins with `-----BEGIN` and ends with `-----END`")
    })?;
    if chain.is_empty() {
        return Err(wrong(
            "no certificate in it: a block of `-----BEGIN CERTIFICATE-----` belongs here",
        ));
    }
    Ok(chain)
}

/// Reads a private key.
fn read_key(path: &Path, provider: &CryptoProvider) -> Result<Arc<dyn SigningKey>, ConfigError> {
    let wrong = |problem: &str| ConfigError::content(path, problem);
    let content = read_secret_file(path)?;
    let key = PrivateKeyDer::from_pem_slice(unmarked(&content)).map_err(|_| {
        wrong(
            "no whole private key in it: a block of `-----BEGIN PRIVATE KEY-----` belongs here, without a passphrase",
        )
    })?;
    provider.key_provider.load_private_key(key).map_err(|_| {
        wrong("its key cannot be used: RSA, ECDSA (P-256, P-384) or Ed25519 belongs here")
    })
}
