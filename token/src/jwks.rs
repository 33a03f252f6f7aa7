//! JSON Web Key Sets (RFC 7517): reads the keys that can verify tokens.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

use super::error::ClaimsError;
use super::key::{Key, KeySet};
use super::{ed25519, es256, rs256};

/// Longest document that is read, in bytes.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;

/// Most keys of one document that are read.
pub const JWKS_KEYS_MAX: usize = 64;

/// Longest name of a key, in bytes.
const KEY_ID_BYTES_MAX: usize = 256;

/// Longest quoted text of an unusable key, in characters.
const QUOTED_CHARS_MAX: usize = 32;

/// The keys of a document.
#[derive(Debug)]
pub struct Jwks {
    /// Usable keys.
    pub keys: KeySet,
    /// Unusable keys: at most [`JWKS_KEYS_MAX`], and one entry for all further keys.
    pub skipped: Vec<SkippedKey>,
    /// The document holds a secret (`oct`), usable or not: its readers can sign tokens.
    pub has_secret: bool,
}

/// An unusable key and the reason; not an error, as a set may serve other programs too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedKey {
    /// Position of the key in the document, counted from 1.
    pub number: usize,
    /// Why the key is unusable.
    pub why: String,
}

impl fmt::Display for SkippedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}: {}", self.number, self.why)
    }
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

/// The members that matter here; others are ignored (RFC 7517, 4).
#[derive(Deserialize)]
struct Member {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
    /// Present only in a private key.
    d: Option<serde::de::IgnoredAny>,
}

impl Jwks {
    /// Reads a document.
    ///
    /// # Errors
    /// [`ClaimsError::Key`] if it is too long or not a key set. A set without a usable key reads as empty.
    pub fn read(document: &[u8]) -> Result<Self, ClaimsError> {
        if document.len() > JWKS_BYTES_MAX {
            let text = format!("a key set longer than {JWKS_BYTES_MAX} bytes");
            return Err(ClaimsError::Key(text));
        }
        let Document { keys } = serde_json::from_slice(document).map_err(|error| {
            let text = format!("not a JSON Web Key Set (line {})", error.line());
            ClaimsError::Key(text)
        })?;
        let mut read = Self {
            keys: KeySet::default(),
            skipped: Vec::new(),
            has_secret: keys.iter().any(|key| key["kty"] == "oct"),
        };
        let total = keys.len();
        for (index, value) in keys.into_iter().take(JWKS_KEYS_MAX).enumerate() {
            match member(value) {
                Ok((id, key)) => read.keys.add(id, key),
                Err(why) => read.skipped.push(SkippedKey {
                    number: index + 1,
                    why,
                }),
            }
        }
        if total > JWKS_KEYS_MAX {
            read.skipped.push(SkippedKey {
                number: JWKS_KEYS_MAX + 1,
                why: format!("skipped with all behind it: only {JWKS_KEYS_MAX} keys are read"),
            });
        }
        Ok(read)
    }
}

fn member(value: serde_json::Value) -> Result<(Option<String>, Key), String> {
    let member: Member =
        serde_json::from_value(value).map_err(|_| "not of the form of a key".to_owned())?;
    if let Some(usage) = member.usage.as_deref().filter(|usage| *usage != "sig") {
        return Err(format!("its use is {}, not `sig`", quoted(usage)));
    }
    let may_verify = |operations: &Vec<String>| operations.iter().any(|it| it == "verify");
    if !member.key_ops.as_ref().is_none_or(may_verify) {
        return Err("its key_ops do not include `verify`".to_owned());
    }
    if member
        .kid
        .as_ref()
        .is_some_and(|id| id.len() > KEY_ID_BYTES_MAX)
    {
        return Err(format!("its kid is longer than {KEY_ID_BYTES_MAX} bytes"));
    }
    // A secret (`oct`) has no public half.
    if member.d.is_some() && member.kty != "oct" {
        return Err("a private key; only its public half belongs in a set".to_owned());
    }
    let (algorithm, key) = match member.kty.as_str() {
        "RSA" => {
            let (n, e) = (bytes(&member.n, "n")?, bytes(&member.e, "e")?);
            (Algorithm::RS256, rs256::key(&n, &e))
        }
        "EC" => {
            only(&member.crv, "crv", &["P-256"])?;
            let (x, y) = (bytes(&member.x, "x")?, bytes(&member.y, "y")?);
            (Algorithm::ES256, es256::key_from_coordinates(&x, &y))
        }
        "OKP" => {
            only(&member.crv, "crv", &["Ed25519"])?;
            (Algorithm::EdDSA, ed25519::key(&bytes(&member.x, "x")?))
        }
        "oct" => {
            let key = Key::hs256(&bytes(&member.k, "k")?).map_err(|error| error.to_string())?;
            named_as(&member.alg, Algorithm::HS256)?;
            return Ok((member.kid, key));
        }
        other => return Err(format!("its kty is {}", quoted(other))),
    };
    named_as(&member.alg, algorithm)?;
    let key: DecodingKey = key.map_err(|error| error.to_string())?;
    Ok((member.kid, Key::public(algorithm, key)))
}

/// Checks that the key's `alg`, if it has one, is the algorithm that its type is used for here.
fn named_as(alg: &Option<String>, algorithm: Algorithm) -> Result<(), String> {
    let names: &[&str] = match algorithm {
        Algorithm::HS256 => &["HS256"],
        Algorithm::RS256 => &["RS256"],
        Algorithm::ES256 => &["ES256"],
        // RFC 9864 calls it `Ed25519`.
        _ => &["EdDSA", "Ed25519"],
    };
    match alg {
        Some(_) => only(alg, "alg", names),
        None => Ok(()),
    }
}

fn only(value: &Option<String>, what: &str, allowed: &[&str]) -> Result<(), String> {
    match value.as_deref() {
        Some(value) if allowed.contains(&value) => Ok(()),
        Some(value) => Err(format!("its {what} is {}", quoted(value))),
        None => Err(format!("it has no {what}")),
    }
}

fn bytes(value: &Option<String>, what: &str) -> Result<Vec<u8>, String> {
    let text = value
        .as_deref()
        .ok_or_else(|| format!("it has no {what}"))?;
    // Padding is not allowed (RFC 7515, 2), but occurs.
    BASE64URL_NOPAD
        .decode(text.trim_end_matches('=').as_bytes())
        .map_err(|_| format!("its {what} is not base 64 for URLs"))
}

fn quoted(text: &str) -> String {
    let short: String = text.chars().take(QUOTED_CHARS_MAX).collect();
    format!("{short:?}")
}
