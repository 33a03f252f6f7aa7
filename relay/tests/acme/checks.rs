//! The checks that the test's CA makes, each as its RFC says.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64URL_NOPAD;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use crate::client;

/// HTTP-01 (RFC 8555, section 8.3).
pub(crate) fn by_http(at: SocketAddr, name: &str, token: &str, key: &str) -> Result<(), String> {
    let path = format!("/.well-known/acme-challenge/{token}");
    let other = client::page(at, name, &format!("{path}x"))?;
    if other.0 == 200 {
        return Err("a token that is not open has an answer".to_owned());
    }
    match client::page(at, name, &path)? {
        (200, body) if body == key => Ok(()),
        (status, body) => Err(format!("{status}: {body}")),
    }
}

/// TLS-ALPN-01 (RFC 8737, section 3).
pub(crate) fn by_tls(at: SocketAddr, name: &str, key: &str) -> Result<(), String> {
    let stream = client::shake(at, name, "acme-tls/1", None)?;
    if stream.conn.alpn_protocol() != Some(&b"acme-tls/1"[..]) {
        return Err("another protocol was chosen".to_owned());
    }
    let certificate = client::certificate(&stream);
    let (_, certificate) = parse_x509_certificate(&certificate).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    if names.value.general_names != [GeneralName::DNSName(name)] {
        return Err("the certificate is for another name".to_owned());
    }
    // An octet string of 32 bytes.
    let digest = digest(&SHA256, key.as_bytes());
    let wanted = [&[4, 32], digest.as_ref()].concat();
    let mut extensions = certificate.extensions().iter();
    let proof = extensions.find(|it| it.oid.to_id_string() == "1.3.6.1.5.5.7.1.31");
    match proof {
        Some(proof) if proof.critical && proof.value == wanted => Ok(()),
        _ => Err("the certificate has no proof, or a wrong one".to_owned()),
    }
}

/// DNS-01 (RFC 8555, section 8.4): the hook's records stand in a file.
pub(crate) fn by_dns(records: &Path, name: &str, key: &str) -> Result<(), String> {
    let value = BASE64URL_NOPAD.encode(digest(&SHA256, key.as_bytes()).as_ref());
    let name = name.strip_prefix("*.").unwrap_or(name);
    let wanted = format!("present _acme-challenge.{name} {value}");
    let text = fs::read_to_string(records).unwrap_or_default();
    match text.lines().any(|line| line == wanted) {
        true => Ok(()),
        false => Err(format!("no record {wanted}")),
    }
}

/// The name of an account in a record for `name`, if the CA hashes it (draft-ietf-acme-dns-persist-02, section 4.1).
pub(crate) fn hashed(prefix: &str, name: &str, thumbprint: &str, account: &str) -> String {
    let name = name.strip_prefix("*.").unwrap_or(name);
    let length = u8::try_from(name.len()).unwrap();
    let text = [name, thumbprint, account].concat();
    let content = [&[length][..], text.as_bytes()].concat();
    let hash = BASE64URL_NOPAD.encode(digest(&SHA256, &content).as_ref());
    format!("{prefix}sha-256/{hash}")
}

/// dns-persist-01 (draft-ietf-acme-dns-persist): `zone` has the lines of a zone file.
pub(crate) fn by_persist(
    zone: &[String],
    name: &str,
    issuers: &[&str],
    account: &str,
) -> Result<(), String> {
    let (base, is_wildcard) = match name.strip_prefix("*.") {
        Some(base) => (base, true),
        None => (name, false),
    };
    let owner = format!("_validation-persist.{base}. IN TXT \"");
    let account = format!("accounturi={account}");
    let is_right = |line: &String| {
        let value = line
            .strip_prefix(&owner)
            .and_then(|it| it.strip_suffix('"'));
        let mut parts = value.into_iter().flat_map(|it| it.split("; "));
        let issuer = parts.next().unwrap_or_default();
        let parts: Vec<_> = parts.collect();
        issuers.contains(&issuer)
            && parts.contains(&account.as_str())
            && (!is_wildcard || parts.contains(&"policy=wildcard"))
    };
    match zone.iter().any(is_right) {
        true => Ok(()),
        false => Err(format!("no record of {name} with {account}")),
    }
}
