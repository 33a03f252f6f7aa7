//! EdDSA on Ed25519 (RFC 8037, 3.1); Ed448 is not accepted.

use aws_lc_rs::signature::ED25519_PUBLIC_KEY_LEN;
use jsonwebtoken::DecodingKey;
use tieline_wire::AgentKey;

use super::error::ClaimsError;

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
