//! The TXT records that an operator puts into DNS once, where the CA looks for them at each order (dns-persist-01,
//! draft-ietf-acme-dns-persist).

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64URL_NOPAD;

use super::heard::{Heard, is_uri};

/// Label in front of a name under which the CA looks for the record.
const LABEL: &str = "_validation-persist";

/// Longest string of a TXT record, in bytes (RFC 1035, section 3.3): a longer value has several, which the CA joins.
const STRING_BYTES_MAX: usize = 255;

/// The CA and the account that a record names.
#[derive(Clone, Copy)]
pub(super) struct Orderer<'a> {
    /// Domain name of the CA.
    pub(super) issuer: &'a str,
    /// URL of the account.
    pub(super) account: &'a str,
    /// Thumbprint of the account's key (RFC 7638).
    pub(super) thumbprint: &'a str,
}

/// The records for a certificate with the names `domains`, as lines of a zone file. A name with `*.` in front and the name
/// without have one in common.
///
/// # Errors
/// The CA's name of the account does not fit into a record.
pub(super) fn records(
    domains: &[String],
    orderer: Orderer<'_>,
    heard: &Heard,
) -> Result<Vec<String>, String> {
    let domains: Vec<_> = domains.iter().map(|it| it.to_ascii_lowercase()).collect();
    let mut bases: Vec<&str> = Vec::new();
    for domain in &domains {
        let base = domain.strip_prefix("*.").unwrap_or(domain);
        if !bases.contains(&base) {
            bases.push(base);
        }
    }
    let lines = bases.into_iter().map(|base| {
        let mut all = domains.iter();
        let is_wildcard = all.any(|it| it.strip_prefix("*.") == Some(base));
        line(base, is_wildcard, orderer, heard)
    });
    lines.collect()
}

fn line(
    base: &str,
    is_wildcard: bool,
    orderer: Orderer<'_>,
    heard: &Heard,
) -> Result<String, String> {
    let uri = match heard.hash_prefix() {
        Some(prefix) => hashed(&prefix, base, orderer)?,
        None => heard
            .account_uri()
            .unwrap_or_else(|| orderer.account.to_owned()),
    };
    if !is_uri(&uri) {
        return Err(format!(
            "the CA's name of the account does not fit into a TXT record: {uri}"
        ));
    }
    let policy = match is_wildcard {
        true => "; policy=wildcard",
        false => "",
    };
    let value = format!("{}; accounturi={uri}{policy}", orderer.issuer);
    let strings = value.as_bytes().chunks(STRING_BYTES_MAX);
    let strings: Vec<_> = strings
        .map(|it| format!("\"{}\"", String::from_utf8_lossy(it)))
        .collect();
    Ok(format!("{LABEL}.{base}. IN TXT {}", strings.join(" ")))
}

/// The URI that names the account for `domain` alone (draft-ietf-acme-dns-persist-02, section 4.1): the key is part of it,
/// so that no CA can tell an operator the account of another.
fn hashed(prefix: &str, domain: &str, orderer: Orderer<'_>) -> Result<String, String> {
    let Ok(length) = u8::try_from(domain.len()) else {
        return Err(format!("the name {domain} is too long for a TXT record"));
    };
    let parts = [domain, orderer.thumbprint, orderer.account].concat();
    let content = [&[length][..], parts.as_bytes()].concat();
    let hash = BASE64URL_NOPAD.encode(digest(&SHA256, &content).as_ref());
    Ok(format!("{prefix}sha-256/{hash}"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Response;

    use super::*;

    /// The account in the draft's examples.
    const ORDERER: Orderer<'_> = Orderer {
        issuer: "authority.example",
        account: "https://ca.example/acct/123",
        thumbprint: "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
    };

    fn of(domains: &[&str], bodies: &[&str]) -> Vec<String> {
        let heard = Heard::default();
        for body in bodies {
            let body = Bytes::copy_from_slice(body.as_bytes());
            heard.hear(&Response::new(body));
        }
        let domains: Vec<_> = domains.iter().map(|&it| it.to_owned()).collect();
        records(&domains, ORDERER, &heard).unwrap()
    }

    #[test]
    fn a_name_has_one_record_with_its_wildcard() {
        let domains = ["Relay.example", "*.relay.example", "b.relay.example"];
        let account = "accounturi=https://ca.example/acct/123";
        assert_eq!(
            of(&domains, &[]),
            [
                format!(
                    "_validation-persist.relay.example. IN TXT \"authority.example; {account}; policy=wildcard\""
                ),
                format!(
                    "_validation-persist.b.relay.example. IN TXT \"authority.example; {account}\""
                ),
            ]
        );
        let other =
            r#"{"challenges":[{"type":"dns-persist-01","accounturi":"https://ca.example/a"}]}"#;
        let told = of(&["*.relay.example"], &[other]);
        assert!(told[0].contains("accounturi=https://ca.example/a; policy"));
    }

    #[test]
    fn the_hash_of_the_account_is_that_of_the_draft() {
        let directory =
            r#"{"newOrder":"x","meta":{"accountHashPrefix":"https://ca.example/account-hash/"}}"#;
        let hash = "5SQm7n6tPh2-PlLbCKGnViTXX5z19SCN4cPGQHSk-kw";
        let wanted = format!(
            "_validation-persist.example.com. IN TXT \"authority.example; \
             accounturi=https://ca.example/account-hash/sha-256/{hash}\""
        );
        assert_eq!(of(&["example.com"], &[directory]), [wanted]);
    }

    #[test]
    fn long_values_have_several_strings() {
        let uri = format!("https://ca.example/{}", "x".repeat(300));
        let challenge =
            format!(r#"{{"challenges":[{{"type":"dns-persist-01","accounturi":"{uri}"}}]}}"#);
        let told = of(&["relay.example"], &[&challenge]);
        let strings = told[0].split('"').skip(1).step_by(2);
        let strings: Vec<_> = strings.collect();
        assert_eq!(strings[0].len(), STRING_BYTES_MAX);
        assert_eq!(
            strings.concat(),
            format!("authority.example; accounturi={uri}")
        );
    }

    #[test]
    fn an_account_that_would_change_the_record_is_refused() {
        let orderer = Orderer {
            account: "https://ca.example/acct/1;policy=wildcard",
            ..ORDERER
        };
        let domains = ["relay.example".to_owned()];
        assert!(records(&domains, orderer, &Heard::default()).is_err());
    }
}
