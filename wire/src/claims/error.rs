//! Why a token, or a key, is no good.

use jsonwebtoken::errors::{Error as TokenError, ErrorKind};

use super::key::SECRET_BYTES_MIN;

/// Longest text of a foreign error that goes into a [`ClaimsError`], in characters.
const DETAIL_CHARS_MAX: usize = 120;

/// Why a token, or a key, is no good. No variant carries the token or a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// Not the text of a token, or claims of the wrong form.
    #[error("the token cannot be read: {0}")]
    Malformed(String),
    /// Signed with an algorithm that no key is for, or not at all.
    #[error("the token is not signed with an algorithm that this relay has a key for")]
    Algorithm,
    /// Signed with a key that none of ours is called.
    #[error("the token is signed with a key that this relay does not know")]
    UnknownKey,
    /// Signed with another key, or changed since.
    #[error("the token's signature is wrong")]
    Signature,
    /// Too old.
    #[error("the token expired {ago_seconds} s ago")]
    Expired {
        /// Since when.
        ago_seconds: u64,
    },
    /// Not valid yet.
    #[error("the token is not valid before {ahead_seconds} s from now (is a clock wrong?)")]
    NotYet {
        /// How long to wait.
        ahead_seconds: u64,
    },
    /// From somebody else.
    #[error("the token's issuer is not {expected:?}")]
    Issuer {
        /// The only issuer that is accepted.
        expected: String,
    },
    /// Meant for somebody else (RFC 7519, 4.1.3).
    #[error("the token is not meant for this relay: its audience is another, or missing")]
    Audience,
    /// A secret that is too easy to guess.
    #[error("a secret of {0} bytes is too short, HS256 wants {SECRET_BYTES_MIN} or more")]
    ShortSecret(usize),
    /// A key, or a set of keys, that cannot be used.
    #[error("no usable key: {0}")]
    Key(String),
}

impl ClaimsError {
    pub(super) fn malformed(text: impl Into<String>) -> Self {
        Self::Malformed(text.into())
    }

    pub(super) fn of_header(error: &TokenError) -> Self {
        match error.kind() {
            // Readable JSON that is no header we know: `none`, or an algorithm with another name.
            ErrorKind::Json(json) if json.is_data() => Self::Algorithm,
            // What an unverified header says is not repeated.
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
