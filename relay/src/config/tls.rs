//! Settings of TLS: the files of the relay's certificates. `tls_cert` and `tls_key` name those of one certificate, and
//! each `[[tls]]` in the settings file those of another.

use std::path::{Path, PathBuf};

use clap::{ArgAction, Args, ValueHint};
use toml::{Table, Value};

use super::raw::{Layer, Origin, Raw, unfit};
use super::values::switch;
use super::{AcmeConfig, Config, ListenAddress, conflict, place, words};
use crate::error::{ConfigError, ListenKind};

/// Key of the list of certificates in the settings file.
const LIST: &str = "tls";

/// Keys of each certificate in the list.
const KEYS: [&str; 2] = ["cert", "key"];

/// Settings of one certificate, and of what agents must do over TLS.
#[derive(Debug, Default, Args)]
pub(super) struct TlsSettings {
    /// File with the certificate (PEM) for tls:// addresses, and behind it those that lead to its authority
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    tls_cert: Option<PathBuf>,
    /// File with the private key (PEM) of tls_cert
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    tls_key: Option<PathBuf>,
    /// Accept only agents whose proof is bound to a TLS 1.3 connection that ends at the relay itself, so none behind a
    /// proxy that ends TLS
    #[arg(long, action = ArgAction::SetTrue, value_parser = switch)]
    require_binding: Option<bool>,
    /// File with the authorities (PEM) of agents' own certificates; each agent must show one that they signed
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    agent_ca: Option<PathBuf>,
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
            require_binding: self.require_binding.unwrap_or(false),
            agent_ca: self.agent_ca,
        })
    }
}

fn alone<T>(given: &Layer, key: &str, wanted: &str) -> Result<T, ConfigError> {
    let raw = given.0.get(key);
    let origin = raw.map_or_else(|| key.to_owned(), |raw| raw.describe(key));
    conflict(format!("{origin} does nothing alone: set {wanted}, too"))
}

/// Certificates of `tls://` addresses, and what agents must do over TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Files of each certificate. Clients that name no server, or one that no certificate names, get the first.
    pub certificates: Vec<CertificateFiles>,
    /// Whether agents are refused whose proof is not bound to a TLS connection that ends at the relay.
    pub require_binding: bool,
    /// File of the authorities that must have signed agents' own certificates, read again when it changes; `None` if
    /// agents need no certificate.
    pub agent_ca: Option<PathBuf>,
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
    /// Refuses an address with TLS or QUIC without a certificate, and a certificate without such an address; then checks
    /// the settings of agents, of redirects and of orders.
    pub(super) fn check_tls(&self) -> Result<(), ConfigError> {
        let mut all = ListenKind::ALL.into_iter().flat_map(|kind| {
            let addresses = self.listen(kind).into_iter();
            addresses.map(move |address| (kind, address))
        });
        let needs_one = |(kind, address): &(ListenKind, ListenAddress)| {
            address.is_tls || *kind == ListenKind::Quic
        };
        let first = all.find(needs_one);
        match (first, self.tls.certificates.first()) {
            (Some((kind, address)), None) if self.acme.is_none() => conflict(format!(
                "{kind}_listen {address} needs a certificate: name its files in tls_cert and tls_key, or let the relay \
                 order one for the names in acme_domains"
            )),
            (None, None) if self.acme.is_some() => conflict(
                "acme_domains does nothing here: no address of agent_listen, tcp_listen and http_listen begins with \
                 tls://, as in tls://0.0.0.0:443, and quic_listen is off",
            ),
            (None, Some(files)) => conflict(format!(
                "the certificate {} does nothing here: no address of agent_listen, tcp_listen and http_listen \
                 begins with tls://, as in tls://0.0.0.0:443, and quic_listen is off",
                files.cert.display()
            )),
            _ => {
                self.check_agents_over_tls()?;
                self.check_redirect()?;
                self.acme.as_ref().map_or(Ok(()), AcmeConfig::check)
            }
        }
    }

    /// Refuses `redirect_http` if no request needs it, or if there is no `https` URL to redirect to.
    fn check_redirect(&self) -> Result<(), ConfigError> {
        if !self.callers.redirect_http {
            return Ok(());
        }
        let is_tls = |it: &ListenAddress| it.is_tls;
        if !self.http_listen.iter().any(is_tls) {
            return conflict(
                "redirect_http: no address of http_listen has TLS, so there is nothing to redirect to: add one, as in \
                 tls://0.0.0.0:443",
            );
        }
        if self.http_listen.iter().all(is_tls) {
            return conflict(
                "redirect_http does nothing here: every address of http_listen has TLS; add one without, as in \
                 0.0.0.0:80",
            );
        }
        match &self.public_url {
            Some(url) if !url.is_https() => conflict(format!(
                "redirect_http: public_url is {url}, to which a redirect would lead back: write it with https://"
            )),
            None if self.domain.is_none() => conflict(
                "redirect_http: a redirect needs the relay's name: set domain, or public_url as in \
                 https://relay.example",
            ),
            _ => Ok(()),
        }
    }

    /// Refuses an address of `agent_listen` without TLS if each agent must come over TLS.
    fn check_agents_over_tls(&self) -> Result<(), ConfigError> {
        let Some(plain) = self.agent_listen.iter().find(|it| !it.is_tls) else {
            return Ok(());
        };
        let harm = match &self.tls {
            it if it.require_binding => "with require_binding every agent there would be refused",
            it if it.agent_ca.is_some() => "agents there would need no certificate of agent_ca",
            _ => return Ok(()),
        };
        conflict(format!(
            "agent_listen {plain} has no TLS, so {harm}: make it tls://{plain}, or set agent_listen to off if agents \
             dial another tls:// address"
        ))
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
