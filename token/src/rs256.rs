//! RS256 (RFC 7518, 3.3): RSA signatures with PKCS #1 v1.5 padding.

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use jsonwebtoken::crypto::JwtVerifier;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};

use super::error::ClaimsError;

/// Lengths of a modulus that `ring` accepts, in bits.
const MODULUS_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Longest exponent that `ring` accepts, in bytes.
const EXPONENT_BYTES_MAX: usize = 4;

/// A public key: two big-endian numbers without leading zeros.
pub(super) struct Rs256(RsaPublicKeyComponents<Vec<u8>>);

impl Rs256 {
    pub(super) fn new(key: &DecodingKey) -> Result<Self, Error> {
        match key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => Ok(Self(RsaPublicKeyComponents {
                n: n.clone(),
                e: e.clone(),
            })),
            DecodingKeyKind::SecretOrDer(_) => Err(ErrorKind::InvalidRsaKey(String::new()).into()),
        }
    }
}

/// Reads a key from its numbers; refuses keys that `ring` cannot verify with.
pub(super) fn key(modulus: &[u8], exponent: &[u8]) -> Result<DecodingKey, ClaimsError> {
    // Some issuers put a sign byte in front, which RFC 7518, 6.3.1.1 forbids.
    let (modulus, exponent) = (without_zeros(modulus), without_zeros(exponent));
    let bits = modulus.first().map_or(0, |first| {
        modulus.len() * 8 - first.leading_zeros() as usize
    });
    if !MODULUS_BITS.contains(&bits) {
        let text = format!(
            "an RSA key of {bits} bits, but only {} to {} are accepted",
            MODULUS_BITS.start(),
            MODULUS_BITS.end()
        );
        return Err(ClaimsError::Key(text));
    }
    let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
    if !is_odd(modulus) || !is_odd(exponent) || matches!(exponent, [1]) {
        return Err(ClaimsError::Key("its RSA numbers are invalid".to_owned()));
    }
    if exponent.len() > EXPONENT_BYTES_MAX {
        return Err(ClaimsError::Key("its RSA exponent is too long".to_owned()));
    }
    Ok(DecodingKey::from_rsa_raw_components(modulus, exponent))
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

impl signature::Verifier<Vec<u8>> for Rs256 {
    fn verify(&self, message: &[u8], tag: &Vec<u8>) -> Result<(), signature::Error> {
        let outcome = self.0.verify(&RSA_PKCS1_2048_8192_SHA256, message, tag);
        outcome.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Rs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::RS256
    }
}
