//! What a token says of itself, read without checking its signature.

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

use super::form::numeric_date;

/// Header and claims of a JSON Web Token whose signature was not checked.
///
/// For display, and for deciding whether a token is worth a signature check; never for permission.
#[derive(Clone, Debug, PartialEq)]
pub struct Unverified {
    /// Fields of the header, such as `alg` and `kid`.
    pub header: Map<String, Value>,
    /// The claims.
    pub claims: Map<String, Value>,
}

impl Unverified {
    /// Reads a token in the compact form of RFC 7519, section 3; `None` for any other text.
    #[must_use]
    pub fn read(token: &str) -> Option<Self> {
        let [header, claims] = parts(token)?;
        Some(Self {
            header: serde_json::from_slice(&decode(header)?).ok()?,
            claims: serde_json::from_slice(&decode(claims)?).ok()?,
        })
    }
}

/// A claim that is a time, in seconds since 1970, held within `u64`; `None` for what is not a number.
#[must_use]
pub fn date_claim_seconds(claim: &Value) -> Option<u64> {
    numeric_date(claim).ok()
}

/// The claims of a token as JSON text; `None` unless the token has three parts.
pub(super) fn claims_text(token: &str) -> Option<Vec<u8>> {
    let [_, claims] = parts(token)?;
    decode(claims)
}

/// Header and claims, still encoded.
fn parts(token: &str) -> Option<[&str; 2]> {
    let mut parts = token.split('.');
    let (header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some([header, claims])
}

fn decode(part: &str) -> Option<Vec<u8>> {
    BASE64URL_NOPAD.decode(part.as_bytes()).ok()
}
