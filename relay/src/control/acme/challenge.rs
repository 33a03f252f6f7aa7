//! How a CA checks that a name leads to this relay, and the answer to one such check.

use std::path::Path;
use std::sync::Arc;

use instant_acme::{ChallengeType, KeyAuthorization};

use super::heard::{Heard, PERSIST};
use super::hook::{self, Deed};
use crate::certificates::{Challenges, OpenChallenge};
use crate::config::Config;

/// Label in front of a name at which a CA looks for a TXT record (RFC 8555, section 8.4).
const DNS_LABEL: &str = "_acme-challenge";

/// Port of each check that a CA makes itself (RFC 8555, section 8.3, and RFC 8737, section 3).
const HTTP_PORT: u16 = 80;
const TLS_PORT: u16 = 443;

/// Kind of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// A handshake of TLS with a protocol of its own (TLS-ALPN-01).
    TlsAlpn,
    /// A request over HTTP (HTTP-01).
    Http,
    /// A TXT record in DNS, by the operator's program (DNS-01).
    Dns,
    /// A TXT record that the operator has put into DNS, and that stays there (dns-persist-01).
    Persist,
}

impl Check {
    /// The checks that this relay can answer, the best first. With `acme_dns_hook` or `acme_dns_persist_issuer` the CA
    /// checks all names in DNS; without them the relay has a `tls://` address, as the settings require.
    pub(super) fn all(config: &Config) -> Vec<Self> {
        if let Some(acme) = &config.acme {
            if acme.dns_hook.is_some() {
                return vec![Self::Dns];
            }
            if acme.dns_persist_issuer.is_some() {
                return vec![Self::Persist];
            }
        }
        let has_plain = config.http_listen.iter().any(|it| !it.is_tls);
        let is_plain_better = config.listens(HTTP_PORT, false) && !config.listens(TLS_PORT, true);
        match (has_plain, is_plain_better) {
            (true, true) => vec![Self::Http, Self::TlsAlpn],
            (true, false) => vec![Self::TlsAlpn, Self::Http],
            (false, _) => vec![Self::TlsAlpn],
        }
    }

    /// The check as the ACME client calls it.
    pub(super) fn challenge_type(self) -> ChallengeType {
        match self {
            Self::TlsAlpn => ChallengeType::TlsAlpn01,
            Self::Http => ChallengeType::Http01,
            Self::Dns => ChallengeType::Dns01,
            Self::Persist => ChallengeType::Unknown(PERSIST.to_owned()),
        }
    }
}

/// An answer that is there for the CA until it is closed.
pub(super) enum Answer<'a> {
    /// Given by this relay, on all shards.
    Here {
        /// Ends the answer when it is dropped.
        _open: OpenChallenge,
    },
    /// A TXT record.
    Record {
        hook: &'a Path,
        name: String,
        value: String,
    },
    /// A TXT record that the operator has put into DNS: the relay has nothing to do, before or after the check.
    Stays,
}

/// Ways to answer a CA.
#[derive(Clone, Copy)]
pub(super) struct Means<'a> {
    pub(super) challenges: &'a Arc<Challenges>,
    pub(super) hook: Option<&'a Path>,
    /// The CA's name in records that stay.
    pub(super) issuer: Option<&'a str>,
    pub(super) heard: &'a Heard,
}

impl<'a> Means<'a> {
    /// The answer to a check of `domain`, to be presented yet.
    ///
    /// # Errors
    /// The certificate cannot be made, there is no program, or the challenge is not fit for an answer.
    pub(super) fn open(
        self,
        check: Check,
        domain: &str,
        token: &str,
        key: &KeyAuthorization,
    ) -> Result<Answer<'a>, String> {
        if check != Check::Persist && !is_token(token) {
            return Err("the CA's token has other characters than those of base64url".to_owned());
        }
        match (check, self.hook) {
            (Check::Http, _) => Ok(Answer::Here {
                _open: self.challenges.open_text(token, key.as_str()),
            }),
            (Check::Dns, Some(hook)) => {
                let domain = domain.strip_prefix("*.").unwrap_or(domain);
                Ok(Answer::Record {
                    hook,
                    name: format!("{DNS_LABEL}.{domain}"),
                    value: key.dns_value(),
                })
            }
            (Check::Dns, None) => Err("acme_dns_hook is not set".to_owned()),
            (Check::TlsAlpn, _) => {
                let digest = key.digest();
                let open = self.challenges.open_certificate(domain, digest.as_ref())?;
                Ok(Answer::Here { _open: open })
            }
            (Check::Persist, _) => {
                let issuer = self.issuer.ok_or("acme_dns_persist_issuer is not set")?;
                self.heard.check_issuer(issuer)?;
                Ok(Answer::Stays)
            }
        }
    }
}

/// Whether `text` has the characters of a challenge's token (RFC 8555, section 8.1). The relay answers a request for
/// the token whatever host the request names.
fn is_token(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    !text.is_empty() && text.bytes().all(is_plain)
}

impl Answer<'_> {
    /// Puts the answer where the CA looks. It is closed even if that fails: the program may have made the record.
    ///
    /// # Errors
    /// The operator's program fails.
    pub(super) async fn present(&self) -> Result<(), String> {
        match self {
            Self::Here { .. } | Self::Stays => Ok(()),
            Self::Record { hook, name, value } => hook::run(hook, Deed::Present, name, value).await,
        }
    }

    /// Takes the answer back.
    pub(super) async fn close(self) {
        if let Self::Record { hook, name, value } = self {
            hook::clean_up(hook, &name, &value).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AcmeConfig;

    #[test]
    fn a_check_is_chosen_by_what_the_relay_listens_on() {
        let all = |http: &[&str], hook: Option<&str>, issuer: Option<&str>| {
            let mut acme = AcmeConfig::new(vec!["relay.example".to_owned()], "acme".into());
            acme.dns_hook = hook.map(Into::into);
            acme.dns_persist_issuer = issuer.map(Into::into);
            let config = Config {
                http_listen: http.iter().map(|it| it.parse().unwrap()).collect(),
                acme: Some(acme),
                ..Config::default()
            };
            Check::all(&config)
        };
        let (tls, plain) = (Check::TlsAlpn, Check::Http);
        let by_listen = |http: &[&str]| all(http, None, None);
        assert_eq!(by_listen(&["tls://0.0.0.0:443"]), [tls]);
        assert_eq!(
            by_listen(&["tls://0.0.0.0:443", "0.0.0.0:80"]),
            [tls, plain]
        );
        assert_eq!(
            by_listen(&["tls://0.0.0.0:8443", "0.0.0.0:80"]),
            [plain, tls]
        );
        assert_eq!(
            by_listen(&["tls://0.0.0.0:8443", "0.0.0.0:8080"]),
            [tls, plain]
        );
        let listen = ["tls://0.0.0.0:443"];
        assert_eq!(all(&listen, Some("hook"), None), [Check::Dns]);
        assert_eq!(all(&listen, None, Some("ca.example")), [Check::Persist]);
    }

    #[test]
    fn a_token_that_could_be_another_path_is_none() {
        assert!(is_token("LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"));
        for text in ["", "../x", "a/b", "a b", "<b>", "a%2e", "\u{e9}"] {
            assert!(!is_token(text), "{text}");
        }
    }
}
