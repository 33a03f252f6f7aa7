//! ES256 (RFC 7518, 3.4): ECDSA on P-256 with SHA-256, its signature as two numbers.

use jsonwebtoken::crypto::JwtVerifier;
use jsonwebtoken::{Algorithm, DecodingKey};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

use super::error::ClaimsError;

/// Length of a coordinate, in bytes.
const COORDINATE_BYTES: usize = 32;

/// A public key, as an uncompressed point (SEC 1, 2.3.3).
pub(super) struct Es256(Vec<u8>);

impl Es256 {
    pub(super) fn new(point: &[u8]) -> Self {
        Self(point.to_vec())
    }
}

/// Reads a key from an uncompressed point.
pub(super) fn key(point: &[u8]) -> Result<DecodingKey, ClaimsError> {
    match point {
        [4, rest @ ..] if rest.len() == 2 * COORDINATE_BYTES => Ok(DecodingKey::from_ec_der(point)),
        _ => Err(ClaimsError::Key(
            "not an uncompressed point on P-256".to_owned(),
        )),
    }
}

/// Reads a key from its coordinates.
pub(super) fn key_from_coordinates(x: &[u8], y: &[u8]) -> Result<DecodingKey, ClaimsError> {
    if x.len() != COORDINATE_BYTES || y.len() != COORDINATE_BYTES {
        let text = format!("a coordinate on P-256 has {COORDINATE_BYTES} bytes");
        return Err(ClaimsError::Key(text));
    }
    key(&[&[4], x, y].concat())
}

impl signature::Verifier<Vec<u8>> for Es256 {
    fn verify(&self, message: &[u8], tag: &Vec<u8>) -> Result<(), signature::Error> {
        // This also checks that the point is on the curve.
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.0)
            .verify(message, tag)
            .map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Es256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::ES256
    }
}
