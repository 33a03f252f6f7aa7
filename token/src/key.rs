//! Keys that verify tokens, and sets of keys.

use std::collections::BTreeSet;
use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};

use super::error::ClaimsError;
use super::hs256::SECRET_BYTES_MIN;
use super::pem;

/// Most keys that one token is tried with. Checking a signature takes up to 0.1 ms.
const TRIED_KEYS_MAX: usize = 16;

/// A key that verifies tokens, or a secret that also signs them; `Debug` masks it.
///
/// It is valid for one algorithm, whatever algorithm a token names.
#[derive(Clone)]
pub struct Key {
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
}

impl Key {
    /// A shared secret for HS256.
    ///
    /// # Errors
    /// [`ClaimsError::ShortSecret`] below [`SECRET_BYTES_MIN`]; [`ClaimsError::Key`] for a PEM file,
    /// which is likely to be known to others.
    pub fn hs256(secret: &[u8]) -> Result<Self, ClaimsError> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(ClaimsError::ShortSecret(secret.len()));
        }
        if secret.starts_with(b"-----BEGIN ") {
            let text = "a PEM file instead of a secret".to_owned();
            return Err(ClaimsError::Key(text));
        }
        Ok(Self {
            algorithm: Algorithm::HS256,
            decoding: DecodingKey::from_secret(secret),
        })
    }

    /// A public key in PEM: RSA for RS256, P-256 for ES256, Ed25519 for EdDSA.
    ///
    /// # Errors
    /// [`ClaimsError::Key`] says what the text is instead.
    pub fn from_pem(text: &[u8]) -> Result<Self, ClaimsError> {
        let (algorithm, decoding) = pem::read(text)?;
        Ok(Self::public(algorithm, decoding))
    }

    pub(super) const fn public(algorithm: Algorithm, decoding: DecodingKey) -> Self {
        Self {
            algorithm,
            decoding,
        }
    }

    /// Name of the key's algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> &'static str {
        match self.algorithm {
            Algorithm::HS256 => "HS256",
            Algorithm::RS256 => "RS256",
            Algorithm::ES256 => "ES256",
            _ => "EdDSA",
        }
    }

    /// Length of the signatures that the key verifies, in bytes.
    fn signature_bytes(&self) -> usize {
        match (self.algorithm, self.decoding.kind()) {
            (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, .. }) => n.len(),
            (Algorithm::HS256, _) => 32,
            _ => 64,
        }
    }

    fn is(&self, other: &Self) -> bool {
        use DecodingKeyKind::{RsaModulusExponent, SecretOrDer};
        self.algorithm == other.algorithm
            && match (self.decoding.kind(), other.decoding.kind()) {
                (SecretOrDer(one), SecretOrDer(other)) => one == other,
                (
                    RsaModulusExponent { n, e },
                    RsaModulusExponent {
                        n: other_n,
                        e: other_e,
                    },
                ) => n == other_n && e == other_e,
                _ => false,
            }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(masked)")
    }
}

impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        let mut pairs = self.keys.iter().zip(&other.keys);
        self.len() == other.len()
            && pairs.all(|(one, other)| one.0 == other.0 && one.1.is(&other.1))
    }
}

/// Keys, each with an optional name.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<(Option<String>, Key)>,
}

impl From<Key> for KeySet {
    fn from(key: Key) -> Self {
        Self {
            keys: vec![(None, key)],
        }
    }
}

impl KeySet {
    /// Adds a key; tokens name it by `id` in their `kid`.
    pub fn add(&mut self, id: Option<String>, key: Key) {
        self.keys.push((id, key));
    }

    /// Adds all keys of `other`.
    pub fn extend(&mut self, other: Self) {
        self.keys.extend(other.keys);
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True if there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys that `newer` neither contains nor replaces by a key of the same name.
    #[must_use]
    pub fn without(&self, newer: &Self) -> Self {
        let is_gone = |(id, key): &&(Option<String>, Key)| {
            !newer
                .keys
                .iter()
                .any(|(other_id, other)| (id.is_some() && other_id == id) || other.is(key))
        };
        Self {
            keys: self.keys.iter().filter(is_gone).cloned().collect(),
        }
    }

    /// Possible lengths of a signature of `algorithm` by one of the keys, in bytes.
    #[must_use]
    pub fn signature_bytes(&self, algorithm: &str) -> BTreeSet<usize> {
        let keys = self.keys.iter().map(|(_, key)| key);
        keys.filter(|key| key.algorithm() == algorithm)
            .map(Key::signature_bytes)
            .collect()
    }

    /// True if a key is named `id`.
    pub(super) fn knows(&self, id: &str) -> bool {
        self.keys.iter().any(|(it, _)| it.as_deref() == Some(id))
    }

    /// True if any key has a name.
    pub(super) fn has_names(&self) -> bool {
        self.keys.iter().any(|(id, _)| id.is_some())
    }

    /// True if any key is for `algorithm`.
    pub(super) fn has(&self, algorithm: Algorithm) -> bool {
        self.keys.iter().any(|(_, key)| key.algorithm == algorithm)
    }

    /// Keys that may have signed a token: first the keys named `id`, then the keys without a name; all
    /// keys if the token has no `id`.
    pub(super) fn fitting<'a>(
        &'a self,
        algorithm: Algorithm,
        id: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Key> {
        let with = move |wanted: fn(Option<&str>, Option<&str>) -> bool| {
            self.keys
                .iter()
                .filter(move |(own, key)| key.algorithm == algorithm && wanted(own.as_deref(), id))
                .map(|(_, key)| key)
        };
        let named = with(|own, id| id.is_some() && own == id);
        let others = with(|own, id| id.is_none() || own.is_none());
        named.chain(others).take(TRIED_KEYS_MAX)
    }
}
