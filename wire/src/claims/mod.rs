//! Tokens: signed text to [`Claims`] and back.
//!
//! The caller brings the key and the time; nothing here reads a file or a clock. Only HS256
//! (RFC 7518, 3.2) is accepted: a token that names another algorithm, `none` included, is refused
//! before its signature is looked at.

mod hs256;

use std::fmt;

use jsonwebtoken::errors::{Error as TokenError, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::hs256::install_provider;
use crate::limits::TOKEN_BYTES_MAX;

/// Clock difference between issuer and relay that is forgiven, in seconds.
pub const LEEWAY_SECONDS: u64 = 60;

/// Shortest HS256 secret, in bytes: the length of the hash (RFC 7518, 3.2).
pub const SECRET_BYTES_MIN: usize = 32;

/// Longest text of a foreign error that goes into a [`ClaimsError`], in characters.
const DETAIL_CHARS_MAX: usize = 120;

/// Facts from a verified token: who, which tunnels, until when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who the token was issued to.
    pub sub: String,
    /// End of validity, in seconds since 1970.
    #[serde(deserialize_with = "numeric_date")]
    pub exp: u64,
    /// Who issued it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// Start of validity, in seconds since 1970.
    #[serde(
        default,
        deserialize_with = "some_date",
        skip_serializing_if = "Option::is_none"
    )]
    pub nbf: Option<u64>,
    /// When it was issued, in seconds since 1970.
    #[serde(
        default,
        deserialize_with = "some_date",
        skip_serializing_if = "Option::is_none"
    )]
    pub iat: Option<u64>,
    /// Its own number, for whoever keeps a list of tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// The applications (`maya`, `blender`) it is good for; absent means any, empty means none.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub allowed_dcc: Option<Vec<String>>,
    /// Patterns of the tunnel names it may ask for; absent means any, empty means none.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub tunnels: Option<Vec<String>>,
    /// What it may be used for, as words; see [`Claims::allows_scope`].
    #[serde(default, with = "scope_text", skip_serializing_if = "Option::is_none")]
    pub scope: Option<Vec<String>>,
}

impl Claims {
    /// True if an agent for the application `dcc` may use this token.
    #[must_use]
    pub fn allows_dcc(&self, dcc: &str) -> bool {
        self.allowed_dcc
            .as_ref()
            .is_none_or(|allowed| allowed.iter().any(|one| one == dcc))
    }

    /// True if the holder may ask for the tunnel name `name`.
    ///
    /// In a pattern `*` stands for any run of characters, an empty one included; letters compare
    /// without case, as tunnel names do.
    #[must_use]
    pub fn allows_tunnel(&self, name: &str) -> bool {
        self.tunnels.as_ref().is_none_or(|patterns| {
            patterns
                .iter()
                .any(|pattern| matches_pattern(pattern, name))
        })
    }

    /// True if the token may be used as `scope`.
    ///
    /// A token without the claim is good for agents and callers, never for administration.
    #[must_use]
    pub fn allows_scope(&self, scope: Scope) -> bool {
        match &self.scope {
            Some(words) => words.iter().any(|word| word == scope.word()),
            None => scope != Scope::Admin,
        }
    }

    /// The first second at which the token is no longer accepted, leeway included.
    #[must_use]
    pub fn expires_at_seconds(&self) -> u64 {
        self.exp.saturating_add(LEEWAY_SECONDS)
    }
}

/// What a token may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Register tunnels.
    Agent,
    /// Reach tunnels.
    Caller,
    /// Administer the relay.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Caller, Self::Admin];

    /// Its word in the claim.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Caller => "caller",
            Self::Admin => "admin",
        }
    }
}

/// A secret that signs and verifies tokens; its `Debug` is masked.
#[derive(Clone)]
pub struct Key(DecodingKey);

impl Key {
    /// A shared secret for HS256.
    ///
    /// # Errors
    /// [`ClaimsError::ShortSecret`] below [`SECRET_BYTES_MIN`].
    pub fn hs256(secret: &[u8]) -> Result<Self, ClaimsError> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(ClaimsError::ShortSecret(secret.len()));
        }
        Ok(Self(DecodingKey::from_secret(secret)))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(masked)")
    }
}

/// Why a token, or a key, is no good. No variant carries the token or the secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// Not the text of a token, or claims of the wrong form.
    #[error("the token cannot be read: {0}")]
    Malformed(String),
    /// Signed with something else than HS256, or not at all.
    #[error("the token is not signed with HS256")]
    Algorithm,
    /// Signed with another secret, or changed since.
    #[error("the token's signature is wrong")]
    Signature,
    /// Too old.
    #[error("the token expired {ago_seconds} s ago")]
    Expired {
        /// Since when.
        ago_seconds: u64,
    },
    /// Not valid yet.
    #[error("the token is valid only in {ahead_seconds} s (are the clocks right?)")]
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
    #[error("the token has an audience, and this relay is none")]
    Audience,
    /// A secret that is too easy to guess.
    #[error("a secret of {0} bytes is too short, HS256 wants {SECRET_BYTES_MIN} or more")]
    ShortSecret(usize),
}

/// Checks a token's signature and validity at `now_seconds` since 1970, and reads it.
///
/// With `issuer`, the token must come from it.
///
/// # Errors
/// [`ClaimsError::Expired`] is the only one that the same holder can mend with a fresh token.
pub fn verify(
    token: &str,
    key: &Key,
    now_seconds: u64,
    issuer: Option<&str>,
) -> Result<Claims, ClaimsError> {
    install_provider();
    if token.len() > TOKEN_BYTES_MAX {
        return Err(ClaimsError::Malformed(format!(
            "longer than {TOKEN_BYTES_MAX} bytes"
        )));
    }
    let header = jsonwebtoken::decode_header(token).map_err(header_error)?;
    // The library knows no extension, and RFC 7515, 4.1.11 wants such a token refused.
    if header.crit.is_some() {
        return Err(ClaimsError::Malformed(
            "its header has critical extensions".to_owned(),
        ));
    }

    let mut validation = Validation::new(Algorithm::HS256);
    // These two would read the system's clock.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.required_spec_claims.clear();
    let claims = jsonwebtoken::decode::<Claims>(token, &key.0, &validation)
        .map_err(claims_error)?
        .claims;

    if claims.sub.is_empty() {
        return Err(ClaimsError::Malformed("`sub` is empty".to_owned()));
    }
    if let Some(expected) = issuer
        && claims.iss.as_deref() != Some(expected)
    {
        return Err(ClaimsError::Issuer {
            expected: expected.to_owned(),
        });
    }
    if now_seconds >= claims.expires_at_seconds() {
        return Err(ClaimsError::Expired {
            ago_seconds: now_seconds.saturating_sub(claims.exp),
        });
    }
    if let Some(nbf) = claims.nbf
        && nbf > now_seconds.saturating_add(LEEWAY_SECONDS)
    {
        return Err(ClaimsError::NotYet {
            ahead_seconds: nbf - now_seconds,
        });
    }
    Ok(claims)
}

/// Signs `claims` with `key`.
///
/// # Errors
/// [`ClaimsError::Malformed`] if the token would be longer than a relay accepts.
pub fn issue(claims: &Claims, key: &Key) -> Result<String, ClaimsError> {
    install_provider();
    let secret = key.0.try_get_as_bytes().map_err(claims_error)?;
    let token = jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        claims,
        &EncodingKey::from_secret(secret),
    )
    .map_err(claims_error)?;
    if token.len() > TOKEN_BYTES_MAX {
        return Err(ClaimsError::Malformed(format!(
            "longer than {TOKEN_BYTES_MAX} bytes"
        )));
    }
    Ok(token)
}

fn header_error(error: TokenError) -> ClaimsError {
    match error.kind() {
        // Readable JSON that is no header we know: `none`, or an algorithm with another name.
        ErrorKind::Json(json) if json.is_data() => ClaimsError::Algorithm,
        // What an unverified header says is not repeated.
        _ => ClaimsError::Malformed("it is not a JSON Web Token".to_owned()),
    }
}

fn claims_error(error: TokenError) -> ClaimsError {
    match error.kind() {
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => ClaimsError::Algorithm,
        ErrorKind::InvalidSignature => ClaimsError::Signature,
        ErrorKind::InvalidAudience => ClaimsError::Audience,
        _ => ClaimsError::Malformed(error.to_string().chars().take(DETAIL_CHARS_MAX).collect()),
    }
}

/// Glob match; remembers the last `*` only, so it never takes more than `pattern` times `name`
/// steps.
fn matches_pattern(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, n));
                p += 1;
            }
            Some(byte) if byte.eq_ignore_ascii_case(&name[n]) => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((star, start)) = retry else {
                    return false;
                };
                retry = Some((star, start + 1));
                p = star + 1;
                n = start + 1;
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// A permission that is there must have its type: `null` must not read as "any".
fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

fn some_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    numeric_date(deserializer).map(Some)
}

/// Seconds since 1970, whole or not (RFC 7519, 2), held within `u64`.
fn numeric_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Seconds;

    impl serde::de::Visitor<'_> for Seconds {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("seconds since 1970")
        }

        fn visit_u64<E>(self, value: u64) -> Result<u64, E> {
            Ok(value)
        }

        fn visit_i64<E>(self, value: i64) -> Result<u64, E> {
            Ok(u64::try_from(value).unwrap_or(0))
        }

        #[allow(clippy::cast_possible_truncation)] // A float cast saturates, which is wanted.
        fn visit_f64<E>(self, value: f64) -> Result<u64, E> {
            Ok(value as u64)
        }
    }

    deserializer.deserialize_any(Seconds)
}

/// The `scope` claim: words with spaces between (RFC 8693, 4.2); a list is read as well.
mod scope_text {
    use super::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Words(Vec<String>),
    }

    pub(super) fn serialize<S: Serializer>(
        words: &Option<Vec<String>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&words.as_deref().unwrap_or_default().join(" "))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<String>>, D::Error> {
        Ok(Some(match Either::deserialize(deserializer)? {
            Either::Text(text) => text.split_whitespace().map(str::to_owned).collect(),
            Either::Words(words) => words,
        }))
    }
}
