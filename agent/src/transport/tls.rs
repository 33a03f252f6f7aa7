//! TLS as a client: the certificates to trust, the configuration, and what is wrong with a server's certificate.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, ClientConfig, NamedGroup, RootCertStore};

use super::verifier::Refusals;
use crate::error::TrustError;

/// Expected content of a certificate file, for error messages.
const PEM_FORM: &str =
    "expected certificates in PEM form, which begin with -----BEGIN CERTIFICATE-----";

/// UTF-8's byte order mark, which some editors write in front of a text; behind it no PEM block is recognised.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Variables that name a list of authorities in place of the system's, on every system.
const VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Limit on the names of a certificate that a message lists.
const NAMES_SHOWN_MAX: usize = 4;

/// The content of a file without a byte order mark.
pub(super) fn unmarked(content: &[u8]) -> &[u8] {
    content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(content)
}

/// The implementation of TLS's cryptography.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The certificates that a client trusts: the system's, and those of a file.
///
/// On Windows and macOS the system itself judges a certificate while neither a file nor `SSL_CERT_FILE` or
/// `SSL_CERT_DIR` is given, with all that it knows besides its list: authorities that it fetches on demand, distrusted
/// ones, and rules of the machine's administrator.
#[derive(Clone, Debug)]
pub struct Trust {
    roots: Arc<RootCertStore>,
    /// True if the system itself judges certificates, on systems that do so.
    is_systems: bool,
    /// Where refusals are noted, for QUIC.
    refusals: Option<Refusals>,
}

impl Trust {
    /// Reads the system's certificates, and those in the file `ca`.
    ///
    /// # Errors
    /// [`TrustError`] if the file cannot be used, or without a file if the system has no certificates.
    pub fn read(ca: Option<&Path>) -> Result<Self, TrustError> {
        let found = rustls_native_certs::load_native_certs();
        let is_systems = ca.is_none() && !names_list(|name| env::var_os(name));
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        match ca {
            Some(path) => add_file(&mut roots, path)?,
            None if roots.is_empty() && !(SYSTEM_JUDGES && is_systems) => {
                let cause = found.errors.first();
                let cause = cause.map_or_else(String::new, |error| format!(" ({error})"));
                return Err(TrustError::NoRoots(cause));
            }
            None => {}
        }
        Ok(Self {
            roots: Arc::new(roots),
            is_systems,
            refusals: None,
        })
    }

    /// The same trust; configurations made from it note in `refusals` why a certificate is refused.
    pub(super) fn noting(self, refusals: &Refusals) -> Self {
        Self {
            refusals: Some(refusals.clone()),
            ..self
        }
    }

    /// Configuration of a client that speaks `protocol` (ALPN, RFC 7301).
    ///
    /// # Errors
    /// [`TrustError::Tls`] if the TLS library cannot be set up.
    pub fn client_config(&self, protocol: &[u8]) -> Result<Arc<ClientConfig>, TrustError> {
        self.config_with(provider(), protocol)
    }

    /// Like [`Trust::client_config`], but without ML-KEM, so that the hello fits into one packet: some middleboxes drop
    /// a longer one. `None` if the groups of [`Trust::client_config`] are without ML-KEM anyway.
    ///
    /// # Errors
    /// [`TrustError::Tls`] if the TLS library cannot be set up.
    pub(super) fn short_client_config(
        &self,
        protocol: &[u8],
    ) -> Result<Option<Arc<ClientConfig>>, TrustError> {
        let whole = provider();
        let mut groups = whole.kx_groups.clone();
        groups.retain(|group| !is_long(group.name()));
        if groups.len() == whole.kx_groups.len() {
            return Ok(None);
        }
        let short = CryptoProvider {
            kx_groups: groups,
            ..(*whole).clone()
        };
        self.config_with(Arc::new(short), protocol).map(Some)
    }

    fn config_with(
        &self,
        provider: Arc<CryptoProvider>,
        protocol: &[u8],
    ) -> Result<Arc<ClientConfig>, TrustError> {
        let failed = |error: rustls::Error| TrustError::Tls(error.to_string());
        let verifier = match self.is_systems {
            true => system_verifier(&provider).map_err(failed)?,
            false => None,
        };
        let verifier = match &self.refusals {
            Some(refusals) => Some(refusals.of(match verifier {
                Some(verifier) => verifier,
                None => self.list_verifier(&provider)?,
            })),
            None => verifier,
        };
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder
            .with_safe_default_protocol_versions()
            .map_err(failed)?;
        let builder = match verifier {
            Some(verifier) => builder
                .dangerous()
                .with_custom_certificate_verifier(verifier),
            None => builder.with_root_certificates(Arc::clone(&self.roots)),
        };
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Arc::new(config))
    }

    /// The check by the list of authorities, as rustls makes it itself.
    fn list_verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ServerCertVerifier>, TrustError> {
        let roots = Arc::clone(&self.roots);
        let built =
            WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider)).build();
        match built {
            Ok(verifier) => Ok(verifier),
            Err(error) => Err(TrustError::Tls(error.to_string())),
        }
    }
}

/// True if a variable names a list of authorities in place of the system's.
fn names_list(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let is_set = |name| variable(name).is_some_and(|value| !value.is_empty());
    VARIABLES.into_iter().any(is_set)
}

/// True if [`system_verifier`] returns a verifier.
const SYSTEM_JUDGES: bool = cfg!(any(windows, target_vendor = "apple"));

/// The system's own check of certificates, where it is more than its list of authorities.
#[cfg(any(windows, target_vendor = "apple"))]
fn system_verifier(
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ServerCertVerifier>>, rustls::Error> {
    let verifier = rustls_platform_verifier::Verifier::new(Arc::clone(provider))?;
    Ok(Some(Arc::new(verifier)))
}

/// Returns no verifier: on other systems there is only the list of authorities.
#[cfg(not(any(windows, target_vendor = "apple")))]
fn system_verifier(
    _: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ServerCertVerifier>>, rustls::Error> {
    Ok(None)
}

/// True for a group whose key share fills a packet: those with ML-KEM, alone or beside another kind of key.
fn is_long(group: NamedGroup) -> bool {
    format!("{group:?}").to_ascii_uppercase().contains("MLKEM")
}

/// Adds the certificates in the file at `path` to `roots`.
fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), TrustError> {
    let wrong = |problem: String| TrustError::File {
        path: path.to_owned(),
        problem,
    };
    if path.is_dir() {
        return Err(wrong(
            "it is a folder: give the path of a file in it".to_owned(),
        ));
    }
    let text = fs::read(path).map_err(|error| wrong(format!("cannot read it: {error}")))?;
    let mut is_empty = true;
    for certificate in CertificateDer::pem_slice_iter(unmarked(&text)) {
        let certificate = certificate
            .map_err(|error| wrong(format!("its content is damaged ({error}): {PEM_FORM}")))?;
        roots.add(certificate).map_err(|error| {
            wrong(format!(
                "a certificate in it cannot be used ({error}): {PEM_FORM}"
            ))
        })?;
        is_empty = false;
    }
    if is_empty {
        return Err(wrong(format!("it holds no certificate: {PEM_FORM}")));
    }
    Ok(())
}

/// What is wrong with a server's certificate, as a clause, with a remedy; `has_own_ca` is true if the certificates of
/// `--ca` are trusted.
#[must_use]
pub fn certificate_problem(error: &CertificateError, has_own_ca: bool) -> String {
    let text = match error {
        // The last two: an issuer of the same name signed the certificate, with another key or another kind of key.
        CertificateError::UnknownIssuer
        | CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
            if has_own_ca =>
        {
            "its certificate is signed neither by a certificate in the file of --ca nor by an authority that \
             this machine trusts, or the relay does not send the certificates between (fullchain); give the \
             file of the authority that signed it"
        }
        CertificateError::UnknownIssuer
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "its certificate is not signed by an authority that this machine trusts; \
             if the studio has a certificate authority of its own, name its file with --ca"
        }
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate is an authority's own (self-signed with CA:TRUE), which a server must not \
             show; have the operator make one for the server (CA:FALSE) and give that file with --ca"
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            return format!(
                "its certificate is for another name{}; give the relay's URL with the name in the certificate",
                names(presented)
            );
        }
        CertificateError::NotValidForName => {
            "its certificate is for another name; give the relay's URL with the name in the certificate"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired, or this machine's clock is wrong"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet, or this machine's clock is wrong"
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. } => {
            "its certificate, or an authority's behind it, has a kind of signature that is not supported; have \
             the operator make one with RSA, ECDSA (P-256, P-384) or Ed25519, and SHA-256 or SHA-384"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not for servers (extended key usage); have the operator make one with \
             serverAuth"
        }
        other => {
            return format!(
                "its certificate is not accepted ({other}); name a private certificate with --ca"
            );
        }
    };
    text.to_owned()
}

/// The names in a certificate, in brackets; `presented` is rustls's list, such as `DnsName("relay.example")`.
fn names(presented: &[String]) -> String {
    fn name(presented: &str) -> &str {
        let inner = presented.split_once('(');
        let inner = inner.and_then(|(_, rest)| rest.strip_suffix(')'));
        inner.unwrap_or(presented).trim_matches('"')
    }
    if presented.is_empty() {
        return " (it has no names)".to_owned();
    }
    let shown = presented.iter().take(NAMES_SHOWN_MAX);
    let shown: Vec<_> = shown.map(|presented| name(presented)).collect();
    let more = match presented.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(" ({}{more})", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use rustls::ExtendedKeyPurpose;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    #[test]
    fn a_byte_order_mark_in_front_of_certificates_is_skipped() {
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        fs::write(&path, format!("\u{feff}{}", key.cert.pem())).unwrap();
        let mut roots = RootCertStore::empty();
        add_file(&mut roots, &path).unwrap();
        assert_eq!(roots.len(), 1);
    }

    #[test]
    fn a_list_of_authorities_is_named_by_a_variable_that_is_not_empty() {
        for (name, value, expected) in [
            ("SSL_CERT_FILE", "/ca.pem", true),
            ("SSL_CERT_DIR", "/certs", true),
            ("SSL_CERT_FILE", "", false),
            ("SSL_CERT", "/ca.pem", false),
        ] {
            let found = names_list(|asked| (asked == name).then(|| value.into()));
            assert_eq!(found, expected, "{name}={value}");
        }
    }

    #[test]
    fn the_short_hello_has_every_group_but_those_with_ml_kem() {
        let names = |config: &ClientConfig| -> Vec<_> {
            let groups = config.crypto_provider().kx_groups.iter();
            groups.map(|group| group.name()).collect()
        };
        let trust = Trust {
            roots: Arc::new(RootCertStore::empty()),
            is_systems: false,
            refusals: None,
        };
        let mut whole = names(&trust.client_config(b"x").unwrap());
        let all = whole.len();
        whole.retain(|group| *group != NamedGroup::X25519MLKEM768);
        let short = trust.short_client_config(b"x").unwrap();
        assert_eq!(short.is_some(), whole.len() < all);
        if let Some(short) = short {
            let short = names(&short);
            assert!(short.contains(&NamedGroup::X25519));
            assert!(short.iter().all(|group| whole.contains(group)));
        }
        assert!(is_long(NamedGroup::X25519MLKEM768) && !is_long(NamedGroup::X25519));
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_named_with_a_remedy() {
        let other_name = |presented: &[&str]| CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("relay.example").unwrap(),
            presented: presented.iter().map(|name| (*name).to_owned()).collect(),
        };
        let (time, not_after) = (UnixTime::now(), UnixTime::now());
        let other_kind_of_key =
            || CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id: Vec::new(),
                public_key_algorithm_id: Vec::new(),
            };
        let unsupported = CertificateError::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: Vec::new(),
            supported_algorithms: Vec::new(),
        };
        let for_clients = CertificateError::InvalidPurposeContext {
            required: ExtendedKeyPurpose::ServerAuth,
            presented: vec![ExtendedKeyPurpose::ClientAuth],
        };
        for (error, has_own_ca, words) in [
            (
                CertificateError::UnknownIssuer,
                false,
                "name its file with --ca",
            ),
            (
                CertificateError::UnknownIssuer,
                true,
                "in the file of --ca nor",
            ),
            (
                CertificateError::ExpiredContext { time, not_after },
                false,
                "has expired",
            ),
            (
                other_name(&["DnsName(\"studio.example\")", "IpAddress(10.0.0.1)"]),
                false,
                "another name (studio.example, 10.0.0.1);",
            ),
            (
                other_name(&["DnsName(\"a\")"; 6]),
                true,
                "a, a, a, a and 2 more)",
            ),
            (other_name(&[]), true, "another name (it has no names);"),
            (other_kind_of_key(), true, "in the file of --ca nor"),
            (other_kind_of_key(), false, "name its file with --ca"),
            (unsupported, true, "kind of signature"),
            (CertificateError::InvalidPurpose, true, "serverAuth"),
            (for_clients, false, "serverAuth"),
            (CertificateError::Revoked, true, "(Revoked)"),
        ] {
            let text = certificate_problem(&error, has_own_ca);
            assert!(text.contains(words), "{error:?}: {text}");
        }
    }
}
