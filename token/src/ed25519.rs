//! EdDSA on Ed25519 (RFC 8037, 3.1); Ed448 is not accepted.

use jsonwebtoken::crypto::JwtVerifier;
use jsonwebtoken::{Algorithm, DecodingKey};
use ring::signature::{ED25519, ED25519_PUBLIC_KEY_LEN, UnparsedPublicKey};
use tieline_wire::AgentKey;

use super::error::ClaimsError;

/// An Ed25519 public key.
pub(super) struct Ed25519(Vec<u8>);

impl Ed25519 {
    pub(super) fn new(key: &[u8]) -> Self {
        Self(key.to_vec())
    }
}

/// Reads a key from its bytes.
pub(super) fn key(bytes: &[u8]) -> Result<DecodingKey, ClaimsError> {
    let Ok(key) = <[u8; ED25519_PUBLIC_KEY_LEN]>::try_from(bytes) else {
        let text = format!("an Ed25519 key has {ED25519_PUBLIC_KEY_LEN} bytes");
        return Err(ClaimsError::Key(text));
    };
    if AgentKey::new(key).is_weak() {
        let text = "a key of small order, with which tokens can be forged".to_owned();
        return Err(ClaimsError::Key(text));
    }
    Ok(DecodingKey::from_ed_der(bytes))
}

impl signature::Verifier<Vec<u8>> for Ed25519 {
    fn verify(&self, message: &[u8], tag: &Vec<u8>) -> Result<(), signature::Error> {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(message, tag)
            .map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Ed25519 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}
