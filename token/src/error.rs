//! Errors of tokens and keys.

use jsonwebtoken::errors::{Error as TokenError, ErrorKind};

use super::hs256::SECRET_BYTES_MIN;

/// Longest quoted text of another library's error in a [`ClaimsError`], in characters.
const DETAIL_CHARS_MAX: usize = 120;

/// Why a token or a key is unusable. No variant contains the token or a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// The text is not a token, or its claims have the wrong form.
    #[error("the token cannot be read: {0}")]
    Malformed(String),
    /// The token is unsigned, or signed with an algorithm that no key is for.
    #[error("the token is not signed with an algorithm that this relay has a key for")]
    Algorithm,
    /// The token names a key that is not in the set.
    #[error("the token is signed with a key that this relay does not know")]
    UnknownKey,
    /// The signature does not fit: another key signed the token, or the token was changed.
    #[error("the token's signature is wrong")]
    Signature,
    /// The token has expired.
    #[error("the token expired {ago_seconds} s ago")]
    Expired {
        /// Seconds since the expiry.
        ago_seconds: u64,
    },
    /// The token is not valid yet.
    #[error("the token is not valid before {ahead_seconds} s from now (is a clock wrong?)")]
    NotYet {
        /// Seconds until the token is valid.
        ahead_seconds: u64,
    },
    /// The token comes from another issuer.
    #[error("the token's issuer is not {expected:?}")]
    Issuer {
        /// The only issuer that is accepted.
        expected: String,
    },
    /// The token is meant for another audience (RFC 7519, 4.1.3).
    #[error("the token is not meant for this relay: its audience is missing or another one")]
    Audience,
    /// The secret is too short, and so too easy to guess.
    #[error("a secret of {0} bytes is too short, HS256 needs {SECRET_BYTES_MIN} or more")]
    ShortSecret(usize),
    /// The key, or the set of keys, is unusable.
    #[error("no usable key: {0}")]
    Key(String),
}

impl ClaimsError {
    pub(super) fn malformed(text: impl Into<String>) -> Self {
        Self::Malformed(text.into())
    }

    pub(super) fn of_header(error: &TokenError) -> Self {
        match error.kind() {
            // Valid JSON, but not a known header: `none`, or an unknown algorithm.
            ErrorKind::Json(json) if json.is_data() => Self::Algorithm,
            // Text of an unverified header is not repeated.
            _ => Self::malformed("it is not a JSON Web Token"),
        }
    }

    pub(super) fn of_claims(error: &TokenError) -> Self {
        match error.kind() {
            ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => Self::Algorithm,
            ErrorKind::InvalidSignature => Self::Signature,
            _ => Self::Malformed(error.to_string().chars().take(DETAIL_CHARS_MAX).collect()),
        }
    }
}
