//! Settings of TLS: the files of the relay's certificates. `tls_cert` and `tls_key` name those of one certificate, and
//! each `[[tls]]` in the settings file those of another.

use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use toml::{Table, Value};

use super::raw::{Layer, Origin, Raw, unfit};
use super::{Config, conflict, place, words};
use crate::error::{ConfigError, ListenKind};

/// Key of the list of certificates in the settings file.
const LIST: &str = "tls";

/// Keys of each certificate in the list.
const KEYS: [&str; 2] = ["cert", "key"];

/// Settings of one certificate.
#[derive(Debug, Default, Args)]
pub(super) struct TlsSettings {
    /// File with the certificate (PEM) for tls:// addresses, and behind it those that lead to its authority
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    tls_cert: Option<PathBuf>,
    /// File with the private key (PEM) of tls_cert
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    tls_key: Option<PathBuf>,
}

impl TlsSettings {
    /// The certificate of the two settings, and behind it those that the settings file lists.
    pub(super) fn config(
        self,
        given: &Layer,
        listed: Vec<CertificateFiles>,
    ) -> Result<TlsConfig, ConfigError> {
        let first = match (self.tls_cert, self.tls_key) {
            (Some(cert), Some(key)) => Some(CertificateFiles { cert, key }),
            (Some(_), None) => return alone(given, "tls_cert", "tls_key, the file of its key"),
            (None, Some(_)) => return alone(given, "tls_key", "tls_cert, the key's certificate"),
            (None, None) => None,
        };
        Ok(TlsConfig {
            certificates: first.into_iter().chain(listed).collect(),
        })
    }
}

fn alone<T>(given: &Layer, key: &str, wanted: &str) -> Result<T, ConfigError> {
    let raw = given.0.get(key);
    let origin = raw.map_or_else(|| key.to_owned(), |raw| raw.describe(key));
    conflict(format!("{origin} does nothing alone: set {wanted}, too"))
}

/// Certificates of `tls://` addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Files of each certificate. Clients that name no server, or one that no certificate names, get the first.
    pub certificates: Vec<CertificateFiles>,
}

/// Files of one certificate, read again when one of them changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate in PEM, and behind it those that lead to its authority.
    pub cert: PathBuf,
    /// The certificate's private key in PEM, which other users must not be able to read.
    pub key: PathBuf,
}

impl Config {
    /// Refuses an address with TLS without a certificate, and the other way round.
    pub(super) fn check_tls(&self) -> Result<(), ConfigError> {
        let mut all = ListenKind::ALL.into_iter().flat_map(|kind| {
            let addresses = self.listen(kind).into_iter();
            addresses.map(move |address| (kind, address))
        });
        let first = all.find(|(_, address)| address.is_tls);
        match (first, self.tls.certificates.first()) {
            (Some((kind, address)), None) => conflict(format!(
                "{kind}_listen {address} needs a certificate: name its files in tls_cert and tls_key"
            )),
            (None, Some(files)) => conflict(format!(
                "the certificate {} does nothing here: no address of agent_listen, tcp_listen and http_listen \
                 begins with tls://, as in tls://0.0.0.0:443",
                files.cert.display()
            )),
            _ => Ok(()),
        }
    }
}

/// Takes the list of certificates out of the settings in the file at `path`.
///
/// # Errors
/// [`ConfigError`] names the certificate by its number, and the key.
pub(super) fn take_listed(
    settings: &mut Table,
    path: &Path,
) -> Result<Vec<CertificateFiles>, ConfigError> {
    // A table `tls` is the prefix of the two settings, like other tables.
    let Some(Value::Array(list)) = settings.get(LIST) else {
        return Ok(Vec::new());
    };
    let listed = list.iter().enumerate().map(|(index, value)| {
        let number = index + 1;
        Listed { number, path }.read(value)
    });
    let listed = listed.collect::<Result<Vec<_>, _>>()?;
    settings.remove(LIST);
    Ok(listed)
}

/// Place of a certificate in the list.
struct Listed<'a> {
    /// Number in the list, counted from 1.
    number: usize,
    /// The settings file.
    path: &'a Path,
}

impl Listed<'_> {
    fn read(&self, value: &Value) -> Result<CertificateFiles, ConfigError> {
        let Value::Table(table) = value else {
            return Err(ConfigError::Unfit {
                origin: format!("[[tls]] {} in {}", self.number, self.path.display()),
                value: words::value(value),
                problem: "stands where a table with cert and key belongs".to_owned(),
            });
        };
        if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(ConfigError::Unknown {
                origin: self.origin(key),
                hint: format!("the keys are {}", KEYS.join(" and ")),
            });
        }
        let [cert, key] = KEYS;
        Ok(CertificateFiles {
            cert: self.file(table, cert)?,
            key: self.file(table, key)?,
        })
    }

    fn file(&self, table: &Table, key: &str) -> Result<PathBuf, ConfigError> {
        let origin = self.origin(key);
        let text = match table.get(key) {
            Some(Value::String(text)) => text,
            None => return conflict(format!("{origin} is missing")),
            Some(other) => {
                return Err(ConfigError::Unfit {
                    origin,
                    value: words::value(other),
                    problem: "stands where the name of a file belongs".to_owned(),
                });
            }
        };
        if text.is_empty() {
            return Err(unfit(origin, text, "is not a file or folder"));
        }
        let raw = Raw {
            values: Vec::new(),
            origin: Origin::File(self.path.to_owned()),
        };
        let path = raw.path(text);
        place::check_name(origin, text, &path)?;
        Ok(path)
    }

    fn origin(&self, key: &str) -> String {
        let (number, path) = (self.number, self.path.display());
        format!("`{key}` of [[tls]] {number} in {path}")
    }
}
