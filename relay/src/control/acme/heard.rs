//! What the CA says and the ACME client does not read: how long a busy CA wants to be left alone, and what it looks for
//! in TXT records that stay (dns-persist-01, draft-ietf-acme-dns-persist).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{Response, StatusCode};
use jiff::fmt::rfc2822::DateTimeParser;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::time::Instant;

use crate::state::now_seconds;

/// The kind of check that looks for a record that stays, by its name in ACME.
pub(super) const PERSIST: &str = "dns-persist-01";

/// Longest pause that a busy CA gets.
const PAUSE_SECONDS_MAX: u64 = 24 * 60 * 60;

/// Domain names that a CA may offer for one record (draft-ietf-acme-dns-persist-02, section 3.1).
const ISSUERS_MAX: usize = 10;

/// Longest URI of an account in a record, in bytes.
const URI_BYTES_MAX: usize = 1000;

/// What the CA has said so far; clones share it.
#[derive(Clone, Default)]
pub(super) struct Heard(Arc<Mutex<Facts>>);

#[derive(Default)]
struct Facts {
    /// Whether an answer said that the CA is busy, with or without a pause.
    is_busy: bool,
    /// End of the pause that the CA wants.
    busy_until: Option<Instant>,
    /// Beginning of the URIs that name accounts in records, from the directory (draft 02).
    hash_prefix: Option<String>,
    /// Name of the account in records, from a challenge (draft 01).
    account_uri: Option<String>,
    /// Domain names of the CA in records, from the last challenge.
    issuers: Vec<String>,
}

/// A directory or an authorization, as far as it matters here.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    /// Shows that the page is a directory: no other page has this key.
    new_order: Option<IgnoredAny>,
    meta: Option<Meta>,
    /// Shows that the page is an authorization: no other page has this key.
    #[serde(default)]
    challenges: Vec<Challenge>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    account_hash_prefix: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Challenge {
    r#type: String,
    /// The CA's names, as draft 02 spells the key.
    issuer_domain_names: Option<Vec<String>>,
    /// The CA's names, as drafts 00 and 01 spell the key.
    #[serde(rename = "issuer-domain-names")]
    issuer_domain_names_before: Option<Vec<String>>,
    accounturi: Option<String>,
}

impl Heard {
    /// Takes what matters out of an answer of the CA.
    pub(super) fn hear(&self, answer: &Response<Bytes>) {
        // Certificates and pages of proxies are no JSON, and tell nothing here.
        let page = serde_json::from_slice::<Page>(answer.body()).unwrap_or_default();
        let mut facts = self.facts();
        facts.is_busy |= is_busy(answer);
        // The longest wish counts: an answer after the one that ended the order may ask for less.
        let wished = pause(answer).map(|pause| Instant::now() + pause);
        facts.busy_until = facts.busy_until.max(wished);
        if page.new_order.is_some() {
            let prefix = page.meta.and_then(|meta| meta.account_hash_prefix);
            facts.hash_prefix = prefix.filter(|it| is_uri(it));
        }
        if page.challenges.is_empty() {
            return;
        }
        facts.issuers.clear();
        let mut challenges = page.challenges.into_iter();
        let Some(challenge) = challenges.find(|it| it.r#type == PERSIST) else {
            return;
        };
        let issuers = challenge.issuer_domain_names;
        let issuers = issuers.or(challenge.issuer_domain_names_before);
        facts.issuers = issuers.unwrap_or_default();
        if let Some(uri) = challenge.accounturi.filter(|it| is_uri(it)) {
            facts.account_uri = Some(uri);
        }
    }

    /// Forgets that the CA was busy, and its wish for a pause.
    pub(super) fn begin(&self) {
        let mut facts = self.facts();
        facts.is_busy = false;
        facts.busy_until = None;
    }

    /// Whether the CA has said since [`begin`](Self::begin) that it is busy.
    pub(super) fn is_busy(&self) -> bool {
        self.facts().is_busy
    }

    /// Forgets how the CA calls an account that it does not know any more.
    pub(super) fn forget_account(&self) {
        self.facts().account_uri = None;
    }

    /// What is left of the pause that the CA wants.
    pub(super) fn pause(&self) -> Duration {
        let until = self.facts().busy_until;
        until.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        })
    }

    /// Beginning of the URIs that name accounts in records, if the CA wants such ones.
    pub(super) fn hash_prefix(&self) -> Option<String> {
        self.facts().hash_prefix.clone()
    }

    /// Name of the account in records, if the CA has told one.
    pub(super) fn account_uri(&self) -> Option<String> {
        self.facts().account_uri.clone()
    }

    /// Checks that the CA looks for a record of `issuer` in the challenge that came last.
    ///
    /// # Errors
    /// It looks for others, or says nothing about it.
    pub(super) fn check_issuer(&self, issuer: &str) -> Result<(), String> {
        let facts = self.facts();
        let count = facts.issuers.len();
        if !(1..=ISSUERS_MAX).contains(&count) {
            return Err(format!(
                "the CA's check names {count} domain names of its own, and must name 1 to {ISSUERS_MAX}"
            ));
        }
        match facts
            .issuers
            .iter()
            .any(|it| it.eq_ignore_ascii_case(issuer))
        {
            true => Ok(()),
            false => Err(format!(
                "the CA looks for a record of {}, and acme_dns_persist_issuer is {issuer}",
                facts.issuers.join(" or ")
            )),
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `answer` says that the CA is busy.
fn is_busy(answer: &Response<Bytes>) -> bool {
    matches!(
        answer.status(),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    )
}

/// The pause that the CA wants, if `answer` says that the CA is busy, and for how long.
fn pause(answer: &Response<Bytes>) -> Option<Duration> {
    let text = answer.headers().get(RETRY_AFTER);
    let text = text.filter(|_| is_busy(answer))?;
    let text = text.to_str().ok()?.trim();
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let at = DateTimeParser::new().parse_timestamp(text).ok()?;
            let at = u64::try_from(at.as_second()).ok()?;
            at.saturating_sub(now_seconds())
        }
    };
    Some(Duration::from_secs(seconds.min(PAUSE_SECONDS_MAX)))
}

/// Whether a text is a URI that a TXT record may have as it is (RFC 8659, section 4.2).
pub(super) fn is_uri(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b';' | b'"' | b'\\');
    text.contains(':') && text.len() <= URI_BYTES_MAX && text.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, retry_after: &str, body: &str) -> Response<Bytes> {
        Response::builder()
            .status(status)
            .header(RETRY_AFTER, retry_after)
            .body(Bytes::copy_from_slice(body.as_bytes()))
            .unwrap()
    }

    fn told(bodies: &[&str]) -> Heard {
        let heard = Heard::default();
        for body in bodies {
            heard.hear(&answer(200, "1", body));
        }
        heard
    }

    #[test]
    fn a_busy_ca_gets_its_pause_but_no_more_than_a_day() {
        let seconds = |status, text| pause(&answer(status, text, "")).map(|it| it.as_secs());
        assert_eq!(seconds(429, "7200"), Some(7200));
        assert_eq!(seconds(503, " 30 "), Some(30));
        assert_eq!(seconds(429, "18446744073709551615"), Some(86_400));
        assert_eq!(seconds(429, "Tue, 31 Dec 2999 23:59:59 GMT"), Some(86_400));
        assert_eq!(seconds(429, "Fri, 31 Dec 1999 23:59:59 GMT"), Some(0));
        assert_eq!(seconds(429, "Fri, 31 Dec 1965 23:59:59 GMT"), None);
        assert_eq!([seconds(429, "soon"), seconds(429, "-1")], [None, None]);
        // In other answers `Retry-After` is the time for the next look at the order.
        assert_eq!([seconds(200, "7200"), seconds(403, "7200")], [None, None]);
        let heard = Heard::default();
        assert_eq!(heard.pause(), Duration::ZERO);
        heard.hear(&answer(429, "7200", "no JSON"));
        assert!(heard.pause() > Duration::from_secs(7000));
        heard.hear(&answer(503, "1", ""));
        heard.hear(&answer(200, "1", ""));
        assert!(heard.pause() > Duration::from_secs(7000));
        heard.begin();
        assert_eq!(heard.pause(), Duration::ZERO);
    }

    #[test]
    fn a_ca_that_names_no_pause_is_busy_all_the_same() {
        let heard = Heard::default();
        for (status, retry_after) in [(503, "soon"), (429, "0")] {
            heard.hear(&answer(403, "7200", ""));
            assert!(!heard.is_busy());
            heard.hear(&answer(status, retry_after, ""));
            heard.hear(&answer(200, "1", ""));
            assert!(heard.is_busy() && heard.pause().is_zero());
            heard.begin();
            assert!(!heard.is_busy());
        }
    }

    #[test]
    fn a_challenge_names_the_ca_and_the_account() {
        let before = r#"{"challenges":[{"type":"dns-01","token":"x"},
            {"type":"dns-persist-01","issuer-domain-names":["ca.example","other.example"],
             "accounturi":"https://ca.example/acct/1"}]}"#;
        let heard = told(&[before]);
        assert!(heard.check_issuer("other.example").is_ok());
        let error = heard.check_issuer("wrong.example").unwrap_err();
        assert!(error.contains("ca.example or other.example"), "{error}");
        assert_eq!(
            heard.account_uri().as_deref(),
            Some("https://ca.example/acct/1")
        );
        heard.forget_account();
        assert_eq!(heard.account_uri(), None);
        let now =
            r#"{"challenges":[{"type":"dns-persist-01","issuerDomainNames":["ca.example"]}]}"#;
        assert!(told(&[now]).check_issuer("ca.example").is_ok());
        // The last challenge counts, and one without names or with many is damaged.
        let none = r#"{"challenges":[{"type":"dns-persist-01","issuerDomainNames":[]}]}"#;
        let other = r#"{"challenges":[{"type":"http-01"}]}"#;
        let many = [r#""ca.example""#; 11].join(",");
        let many = format!(
            r#"{{"challenges":[{{"type":"dns-persist-01","issuerDomainNames":[{many}]}}]}}"#
        );
        for last in [none, other, &many] {
            assert!(told(&[now, last]).check_issuer("ca.example").is_err());
        }
    }

    #[test]
    fn what_does_not_fit_into_a_record_is_not_heard() {
        let directory = |prefix: &str| {
            format!(r#"{{"newOrder":"x","meta":{{"accountHashPrefix":"{prefix}"}}}}"#)
        };
        let good = directory("https://ca.example/hash/");
        let prefix = |last: &str| told(&[&good, last]).hash_prefix();
        let wanted = Some("https://ca.example/hash/".to_owned());
        assert_eq!(prefix(&good), wanted);
        // An order is no directory.
        assert_eq!(
            prefix(r#"{"status":"pending","authorizations":[]}"#),
            wanted
        );
        assert_eq!(prefix(r#"{"newOrder":"x"}"#), None);
        let long = format!("https:{}", "x".repeat(URI_BYTES_MAX));
        for bad in [
            "",
            "hash",
            "https://a;policy=wildcard",
            "https://a b",
            &long,
        ] {
            assert_eq!(prefix(&directory(bad)), None, "{bad}");
        }
        let uri = r#"{"challenges":[{"type":"dns-persist-01","accounturi":"https://a;b"}]}"#;
        assert_eq!(told(&[uri]).account_uri(), None);
    }
}
