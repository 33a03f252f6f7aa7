//! Answers to a CA that checks whether a name leads to this relay: texts for HTTP-01 (RFC 8555, section 8.3), and
//! certificates for TLS-ALPN-01 (RFC 8737).
//!
//! The control thread opens challenges during an order, and every shard answers them. The lock around the answers is
//! taken only for the path and the protocol of such a check, never for another request or handshake.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::table::CertificateTable;
use super::{ACME_TLS, provider};

/// The answers to the challenges of orders in progress.
#[derive(Default)]
pub(crate) struct Challenges(RwLock<Answers>);

#[derive(Default)]
struct Answers {
    /// Texts by token.
    texts: HashMap<String, String>,
    /// Certificates by name, in lower case.
    certificates: HashMap<String, Arc<CertifiedKey>>,
}

impl Challenges {
    /// Answers requests for `token` with `text`.
    pub(crate) fn open_text(self: &Arc<Self>, token: &str, text: &str) -> OpenChallenge {
        self.change(|answers| answers.texts.insert(token.to_owned(), text.to_owned()));
        self.opened(Key::Token(token.to_owned()))
    }

    /// Answers handshakes of a CA for `name` with a certificate that contains `digest`, a SHA-256.
    ///
    /// # Errors
    /// The certificate cannot be made, since the name is not a DNS name or the digest has another length.
    pub(crate) fn open_certificate(
        self: &Arc<Self>,
        name: &str,
        digest: &[u8],
    ) -> Result<OpenChallenge, String> {
        let name = name.to_ascii_lowercase();
        let certificate = Arc::new(certificate(&name, digest)?);
        self.change(|answers| answers.certificates.insert(name.clone(), certificate));
        Ok(self.opened(Key::Name(name)))
    }

    /// The answer to a request for `token`, if its challenge is open.
    pub(crate) fn text(&self, token: &str) -> Option<String> {
        let answers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        answers.texts.get(token).cloned()
    }

    /// The certificate for a CA that asks for `name`, if a challenge for it is open.
    fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let answers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        answers
            .certificates
            .get(&name.to_ascii_lowercase())
            .cloned()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Answers) -> T) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn opened(self: &Arc<Self>, key: Key) -> OpenChallenge {
        OpenChallenge {
            all: Arc::clone(self),
            key,
        }
    }
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenges").finish_non_exhaustive()
    }
}

enum Key {
    Token(String),
    Name(String),
}

/// A challenge that is answered until this value is dropped.
pub(crate) struct OpenChallenge {
    all: Arc<Challenges>,
    key: Key,
}

impl Drop for OpenChallenge {
    fn drop(&mut self) {
        self.all.change(|answers| match &self.key {
            Key::Token(token) => {
                answers.texts.remove(token);
            }
            Key::Name(name) => {
                answers.certificates.remove(name);
            }
        });
    }
}

/// A certificate for `name` with the extension acmeIdentifier (RFC 8737, section 3).
fn certificate(name: &str, digest: &[u8]) -> Result<CertifiedKey, String> {
    if digest.len() != 32 {
        return Err(format!("a digest of {} bytes", digest.len()));
    }
    let made = || -> Result<_, rcgen::Error> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let key = KeyPair::generate()?;
        Ok((params.self_signed(&key)?, key.serialize_der()))
    };
    let (certificate, key) = made().map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
    let key = provider().key_provider.load_private_key(key);
    let key = key.map_err(|error| error.to_string())?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

/// Chooses a certificate: the answer to an open challenge for a CA that checks a name, else one of the table.
#[derive(Debug)]
pub(super) struct Resolver {
    table: Arc<CertificateTable>,
    challenges: Arc<Challenges>,
}

impl Resolver {
    pub(super) const fn new(table: Arc<CertificateTable>, challenges: Arc<Challenges>) -> Self {
        Self { table, challenges }
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if is_check(&hello) {
            return self.challenges.certificate(hello.server_name()?);
        }
        self.table.resolve(hello)
    }
}

/// Whether the client is a CA that checks a name: it offers [`ACME_TLS`] and no other protocol (RFC 8737, section 3).
fn is_check(hello: &ClientHello<'_>) -> bool {
    let mut offered = hello.alpn().into_iter().flatten();
    offered.next() == Some(ACME_TLS) && offered.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_given_while_its_challenge_is_open() {
        let all = Arc::<Challenges>::default();
        assert_eq!(all.text("token"), None);
        let text = all.open_text("token", "answer");
        assert_eq!(all.text("token").as_deref(), Some("answer"));
        assert_eq!(all.text("other"), None);
        let certificate = all.open_certificate("Relay.example", &[7; 32]).unwrap();
        assert!(all.certificate("relay.EXAMPLE").is_some());
        assert!(all.certificate("other.example").is_none());
        drop((text, certificate));
        assert_eq!(all.text("token"), None);
        assert!(all.certificate("relay.example").is_none());
        assert!(all.open_certificate("relay.example", &[7; 31]).is_err());
    }
}
