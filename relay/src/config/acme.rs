//! Settings of ACME: the certificate that the relay orders from a CA and renews by itself.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use data_encoding::BASE64URL_NOPAD;

use super::raw::Layer;
use super::secret::{Secret, read_text_secret};
use super::url::HttpUrl;
use super::values::{expected, name};
use super::{conflict, names, place};
use crate::error::ConfigError;

/// Let's Encrypt's directory (letsencrypt.org/docs/acme-protocol-updates).
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Names in one certificate that Let's Encrypt grants (letsencrypt.org/docs/rate-limits).
const DOMAINS_MAX: usize = 100;

/// Folder in `state_dir` that is used without `acme_cache_dir`.
const FOLDER: &str = "acme";

/// Longest part of the CA's URL in the name of a file.
const STEM_CHARS_MAX: usize = 100;

/// Settings of ACME.
#[derive(Debug, Default, Args)]
pub(super) struct AcmeSettings {
    /// DNS name, as in relay.example or *.relay.example, for which the relay orders a certificate from a CA by ACME
    /// and renews it; may be repeated. You agree to the CA's terms of service [default: none]
    #[arg(long, value_name = "NAME", value_parser = domain)]
    acme_domains: Option<Vec<String>>,
    /// Mail address that the CA may write to
    #[arg(long, value_name = "MAIL", value_parser = email)]
    acme_email: Option<String>,
    /// URL of the CA's ACME directory [default: https://acme-v02.api.letsencrypt.org/directory, Let's Encrypt]
    #[arg(long, value_name = "URL", value_parser = expected("an http or https URL", HttpUrl::parse))]
    acme_directory_url: Option<HttpUrl>,
    /// Folder that keeps the account at the CA, the certificate and its key [default: the folder acme in state_dir]
    #[arg(long, value_name = "DIR")]
    acme_cache_dir: Option<PathBuf>,
    /// Profile of the certificate, by the CA's name for it [default: the CA's choice]
    #[arg(long, value_name = "NAME", value_parser = name)]
    acme_profile: Option<String>,
    /// Id of the key by which the CA knows you already (external account binding)
    #[arg(long, value_name = "ID", value_parser = name)]
    acme_eab_kid: Option<String>,
    /// File with the key of acme_eab_kid, in base64url as the CA shows it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    acme_eab_key_file: Option<PathBuf>,
    /// Program that puts a TXT record into DNS, where the CA then looks (DNS-01); names with * need it, or
    /// acme_dns_persist_issuer
    #[arg(long, value_name = "PROGRAM")]
    acme_dns_hook: Option<PathBuf>,
    /// Domain name by which the CA is known in DNS, as in letsencrypt.org: it then looks for TXT records that stay
    /// (dns-persist-01), which the relay prints and you put into DNS once
    #[arg(long, value_name = "NAME", value_parser = issuer)]
    acme_dns_persist_issuer: Option<String>,
}

impl AcmeSettings {
    /// The configuration of ACME; `None` without domains.
    pub(super) fn config(
        self,
        given: &Layer,
        state_dir: Option<&Path>,
    ) -> Result<Option<AcmeConfig>, ConfigError> {
        let domains = self.acme_domains.unwrap_or_default();
        if domains.is_empty() {
            let mut given = given.0.iter();
            let idle = given.find(|(key, _)| key.starts_with("acme_") && *key != "acme_domains");
            return match idle {
                Some((key, raw)) => conflict(format!(
                    "{} does nothing alone: set acme_domains, the names of the certificate, too",
                    raw.describe(key)
                )),
                None => Ok(None),
            };
        }
        let cache_dir = self
            .acme_cache_dir
            .or_else(|| state_dir.map(|dir| dir.join(FOLDER)));
        let Some(cache_dir) = cache_dir else {
            return conflict(
                "acme_domains needs acme_cache_dir or state_dir, a folder that keeps the certificate: without one \
                 each start would order another, which CAs refuse after some",
            );
        };
        let mut acme = AcmeConfig::new(domains, cache_dir);
        acme.email = self.acme_email;
        if let Some(url) = self.acme_directory_url {
            acme.directory_url = url;
        }
        acme.profile = self.acme_profile;
        acme.eab = match (self.acme_eab_kid, self.acme_eab_key_file) {
            (Some(key_id), Some(file)) => Some(ExternalAccount {
                key_id,
                key: read_key(&file)?,
            }),
            (None, None) => None,
            (Some(_), None) => {
                return conflict("acme_eab_kid does nothing alone: set acme_eab_key_file, too");
            }
            (None, Some(_)) => {
                return conflict("acme_eab_key_file does nothing alone: set acme_eab_kid, too");
            }
        };
        if let Some(hook) = &self.acme_dns_hook {
            check_program(hook)?;
        }
        acme.dns_hook = self.acme_dns_hook;
        acme.dns_persist_issuer = self.acme_dns_persist_issuer;
        Ok(Some(acme))
    }
}

/// How the relay gets its certificate by ACME (RFC 8555).
#[derive(Clone, Debug)]
pub struct AcmeConfig {
    /// Names of the certificate; those with `*.` in front need `dns_hook` or `dns_persist_issuer`.
    pub domains: Vec<String>,
    /// Mail address that the CA may write to.
    pub email: Option<String>,
    /// The CA's directory.
    pub directory_url: HttpUrl,
    /// Folder of the account, the certificate and its key.
    pub cache_dir: PathBuf,
    /// Profile of the certificate, by the CA's name for it.
    pub profile: Option<String>,
    /// Key by which the CA knows the operator already.
    pub eab: Option<ExternalAccount>,
    /// Program that puts TXT records into DNS and takes them out again.
    pub dns_hook: Option<PathBuf>,
    /// The CA's domain name in TXT records that the operator puts into DNS once (dns-persist-01).
    pub dns_persist_issuer: Option<String>,
}

/// Key that binds an account to one that the operator has at the CA (RFC 8555, section 7.3.4).
#[derive(Clone, Debug)]
pub struct ExternalAccount {
    /// Id of the key.
    pub key_id: String,
    /// The key in base64url, without padding.
    pub key: Secret,
}

impl ExternalAccount {
    /// The key's bytes; empty if the key is not base64url, which a relay refuses at its start.
    pub(crate) fn key_bytes(&self) -> Vec<u8> {
        let text = self.key.reveal().as_bytes();
        BASE64URL_NOPAD.decode(text).unwrap_or_default()
    }
}

impl AcmeConfig {
    /// A certificate from Let's Encrypt.
    #[must_use]
    pub fn new(domains: Vec<String>, cache_dir: PathBuf) -> Self {
        Self {
            domains,
            email: None,
            directory_url: HttpUrl::parse(LETS_ENCRYPT).expect("the constant is a URL"),
            cache_dir,
            profile: None,
            eab: None,
            dns_hook: None,
            dns_persist_issuer: None,
        }
    }

    /// Whether the certificate has, or will have, the name `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.domains.iter().any(|it| it.eq_ignore_ascii_case(name))
    }

    /// Whether the CA looks into DNS alone, and never comes to the relay.
    pub(super) const fn is_checked_by_dns(&self) -> bool {
        self.dns_hook.is_some() || self.dns_persist_issuer.is_some()
    }

    /// Name of the file in `cache_dir` with the certificate and its key. Each CA has one of its own, so that a
    /// certificate of a CA for tests is not used in the place of another.
    pub(crate) fn certificate_file(&self) -> String {
        format!("{}.pem", self.stem())
    }

    /// Name of the file in `cache_dir` with the account.
    pub(crate) fn account_file(&self) -> String {
        format!("{}.account.json", self.stem())
    }

    /// Name of the file in `cache_dir` that counts failed orders of each relay.
    pub(crate) fn tries_file(&self) -> String {
        format!("{}.tries", self.stem())
    }

    /// The CA's URL as the beginning of a file's name.
    fn stem(&self) -> String {
        let url = self.directory_url.to_string().to_ascii_lowercase();
        let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        let chars = rest.trim_end_matches('/').chars().take(STEM_CHARS_MAX);
        chars.map(|c| if is_plain(c) { c } else { '_' }).collect()
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !(1..=DOMAINS_MAX).contains(&self.domains.len()) {
            return conflict(format!(
                "acme_domains has {} names, and must have 1 to {DOMAINS_MAX}",
                self.domains.len()
            ));
        }
        for (index, it) in self.domains.iter().enumerate() {
            if let Err(problem) = domain(it) {
                return conflict(format!("acme_domains: {it:?} {problem}"));
            }
            if self.domains[..index].contains(it) {
                return conflict(format!("acme_domains names {it} twice"));
            }
            if it.starts_with("*.") && !self.is_checked_by_dns() {
                return conflict(format!(
                    "acme_domains has {it}, and CAs grant names with * by DNS alone: set acme_dns_hook, a program that \
                     changes your DNS, or acme_dns_persist_issuer, for a TXT record that stays in your DNS, or leave the \
                     name out"
                ));
            }
        }
        self.check_issuer()?;
        if self.directory_url.is_exposed() {
            return conflict(format!(
                "acme_directory_url {} is not encrypted, so others on the way could get a certificate: write https://",
                self.directory_url
            ));
        }
        if self
            .eab
            .as_ref()
            .is_some_and(|it| it.key_bytes().is_empty())
        {
            return conflict("the key of acme_eab_kid is not base64url, as CAs show it");
        }
        Ok(())
    }

    fn check_issuer(&self) -> Result<(), ConfigError> {
        let Some(name) = &self.dns_persist_issuer else {
            return Ok(());
        };
        if self.dns_hook.is_some() {
            return conflict(
                "acme_dns_hook and acme_dns_persist_issuer exclude each other: the CA checks all names in one of the \
                 two ways, so set one of them",
            );
        }
        match issuer(name) {
            Ok(_) => Ok(()),
            Err(problem) => conflict(format!("acme_dns_persist_issuer: {name:?} {problem}")),
        }
    }
}

/// Reads a key in base64url.
fn read_key(path: &Path) -> Result<Secret, ConfigError> {
    let text = read_text_secret(path)?;
    let text = text.reveal().trim_end_matches('=');
    match BASE64URL_NOPAD.decode(text.as_bytes()) {
        Ok(key) if !key.is_empty() => Ok(Secret::new(text.to_owned())),
        _ => Err(ConfigError::content(
            path,
            "is not base64url: letters, digits, - and _ belong here, as the CA shows the HMAC key",
        )),
    }
}

/// Checks that `path` is a program that no other user can change.
fn check_program(path: &Path) -> Result<(), ConfigError> {
    let it = fs::metadata(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mode = it.mode() & 0o777;
    let problem = if !it.is_file() || mode & 0o111 == 0 {
        "is not a program that can be run: name a file, and run `chmod +x` on it".to_owned()
    } else if mode & 0o022 != 0 {
        format!("others can change this program (mode {mode:03o}); run `chmod go-w` on it")
    } else {
        return place::check(path, &it);
    };
    Err(ConfigError::content(path, problem))
}

/// Checks a name of the certificate; returns it in lower case.
fn domain(text: &str) -> Result<String, &'static str> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let is_address = name.starts_with('[') || name.parse::<IpAddr>().is_ok();
    match !is_address && names::is_host(name) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(
            "is not a name that a CA grants: a DNS name belongs here, such as relay.example or *.relay.example",
        ),
    }
}

/// Checks the domain name of a CA; returns it in lower case.
fn issuer(text: &str) -> Result<String, &'static str> {
    let is_address = text.starts_with('[') || text.parse::<IpAddr>().is_ok();
    match !is_address && names::is_host(text) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(
            "is not the domain name of a CA: the name in its CAA records belongs here, such as letsencrypt.org",
        ),
    }
}

fn email(text: &str) -> Result<String, &'static str> {
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic());
    match text.split_once('@') {
        Some((user, host)) if is_part(user) && is_part(host) && !text.contains([':', ',']) => {
            Ok(text.to_owned())
        }
        _ => Err("is not a mail address such as ada@studio.example"),
    }
}
