//! ES256 (RFC 7518, 3.4): ECDSA on P-256 with SHA-256, its signature as two numbers.

use jsonwebtoken::DecodingKey;

use super::error::ClaimsError;

/// Length of a coordinate, in bytes.
const COORDINATE_BYTES: usize = 32;

/// Reads a key from an uncompressed point (SEC 1, 2.3.3); whether it is on the curve is checked with a signature.
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
