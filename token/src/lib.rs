//! Tokens: reads signed text into [`Claims`], and signs claims.
//!
//! The caller provides keys and time; this module reads no file and no clock. HS256, RS256, ES256 and
//! EdDSA with Ed25519 are accepted, each only with keys made for it: the algorithm that a token names
//! only selects among them. `none` is refused before any other check.

mod ed25519;
mod error;
mod es256;
mod form;
mod hs256;
mod jwks;
mod key;
mod pattern;
mod pem;
mod provider;
mod rs256;
mod unverified;

use jsonwebtoken::{Algorithm, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use tieline_wire::limits::TOKEN_BYTES_MAX;

pub use self::error::ClaimsError;
use self::form::{audience, numeric_date, present, scope_text, some_date};
pub use self::hs256::SECRET_BYTES_MIN;
pub use self::jwks::{JWKS_BYTES_MAX, JWKS_KEYS_MAX, Jwks, SkippedKey};
pub use self::key::{Key, KeySet};
pub use self::pattern::matches_pattern;
use self::provider::install_provider;
pub use self::unverified::{Unverified, date_claim_seconds};

/// Tolerated clock difference between issuer and relay, in seconds.
pub const LEEWAY_SECONDS: u64 = 60;

/// Most entries of one list in a token: the largest directories put 200 groups into their tokens.
pub const CLAIM_ENTRIES_MAX: usize = 256;

/// Longest text in a token, in bytes, for names and list entries alike.
pub const CLAIM_BYTES_MAX: usize = 256;

/// Facts from a verified token: subject, permissions, validity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Subject that the token was issued to.
    pub sub: String,
    /// End of validity, in seconds since 1970.
    #[serde(deserialize_with = "numeric_date")]
    pub exp: u64,
    /// Issuer of the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// Audience that the token is meant for; absent means no particular one.
    #[serde(default, with = "audience", skip_serializing_if = "Option::is_none")]
    pub aud: Option<Vec<String>>,
    /// Start of validity, in seconds since 1970.
    #[serde(
        default,
        deserialize_with = "some_date",
        skip_serializing_if = "Option::is_none"
    )]
    pub nbf: Option<u64>,
    /// Time of issue, in seconds since 1970.
    #[serde(
        default,
        deserialize_with = "some_date",
        skip_serializing_if = "Option::is_none"
    )]
    pub iat: Option<u64>,
    /// Id of the token, for issuers that keep a list of tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Applications (`maya`, `blender`) that the token is valid for; absent means any, empty means none.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub allowed_dcc: Option<Vec<String>>,
    /// Patterns of tunnel names that the holder may ask for; absent means any, empty means none.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub tunnels: Option<Vec<String>>,
    /// Permitted uses, as words; see [`Claims::allows_scope`].
    #[serde(default, with = "scope_text", skip_serializing_if = "Option::is_none")]
    pub scope: Option<Vec<String>>,
    /// Groups of the holder: members of one group reach each other's tunnels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Patterns of tunnel names that the holder may reach beside the holder's own tunnels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reach: Vec<String>,
    /// Whether agents with this token may share a name with agents of the same `sub` or groups.
    #[serde(default, skip_serializing_if = "is_false")]
    pub shared: bool,
}

impl Claims {
    /// True if an agent for the application `dcc` may use this token.
    #[must_use]
    pub fn allows_dcc(&self, dcc: &str) -> bool {
        self.allowed_dcc
            .as_ref()
            .is_none_or(|allowed| allowed.iter().any(|one| one == dcc))
    }

    /// True if the holder may ask for the tunnel name `name`; see [`matches_pattern`].
    #[must_use]
    pub fn allows_tunnel(&self, name: &str) -> bool {
        self.tunnels.as_ref().is_none_or(|patterns| {
            patterns
                .iter()
                .any(|pattern| matches_pattern(pattern, name))
        })
    }

    /// True if the token may be used for `scope`.
    ///
    /// A token without the claim is valid for agents and callers, never for administration.
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

    /// Checks that every text and list is small enough to be kept beside every tunnel.
    ///
    /// # Errors
    /// [`ClaimsError::Malformed`] names the claim.
    pub fn check_form(&self) -> Result<(), ClaimsError> {
        if self.sub.is_empty() {
            return Err(ClaimsError::malformed("`sub` is empty"));
        }
        for (name, text) in [
            ("sub", Some(&self.sub)),
            ("iss", self.iss.as_ref()),
            ("jti", self.jti.as_ref()),
        ] {
            if text.is_some_and(|text| text.len() > CLAIM_BYTES_MAX) {
                let text = format!("`{name}` is longer than {CLAIM_BYTES_MAX} bytes");
                return Err(ClaimsError::Malformed(text));
            }
        }
        let empty = Vec::new();
        for (name, list) in [
            ("aud", self.aud.as_ref().unwrap_or(&empty)),
            ("allowed_dcc", self.allowed_dcc.as_ref().unwrap_or(&empty)),
            ("tunnels", self.tunnels.as_ref().unwrap_or(&empty)),
            ("scope", self.scope.as_ref().unwrap_or(&empty)),
            ("groups", &self.groups),
            ("reach", &self.reach),
        ] {
            if list.len() > CLAIM_ENTRIES_MAX {
                let text = format!("`{name}` has more than {CLAIM_ENTRIES_MAX} entries");
                return Err(ClaimsError::Malformed(text));
            }
            if list.iter().any(|text| text.len() > CLAIM_BYTES_MAX) {
                let text = format!("an entry of `{name}` is longer than {CLAIM_BYTES_MAX} bytes");
                return Err(ClaimsError::Malformed(text));
            }
        }
        // An empty name would put unrelated tokens into one group.
        if self.groups.iter().any(String::is_empty) {
            return Err(ClaimsError::malformed("a name in `groups` is empty"));
        }
        Ok(())
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde requires this signature.
fn is_false(value: &bool) -> bool {
    !*value
}

/// A permitted use of a token.
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
    /// All scopes.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Caller, Self::Admin];

    /// The scope's word in the `scope` claim.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Caller => "caller",
            Self::Admin => "admin",
        }
    }
}

/// Claims that a token must have beside a valid signature.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected<'a> {
    /// The only accepted issuer, if one is configured.
    pub issuer: Option<&'a str>,
    /// The relay's names as an audience. With names, a token must be meant for one of them; without
    /// names, a token that is meant for a particular audience is refused.
    pub audience: &'a [String],
}

impl Expected<'_> {
    fn check(&self, claims: &Claims) -> Result<(), ClaimsError> {
        if let Some(issuer) = self.issuer
            && claims.iss.as_deref() != Some(issuer)
        {
            return Err(ClaimsError::Issuer {
                expected: issuer.to_owned(),
            });
        }
        let is_for_us = match &claims.aud {
            Some(names) => names.iter().any(|name| self.audience.contains(name)),
            None => self.audience.is_empty(),
        };
        if is_for_us {
            Ok(())
        } else {
            Err(ClaimsError::Audience)
        }
    }

    /// True if the claims of an unverified token are as expected. Costs no signature check, for texts
    /// that are unlikely to be tokens for this relay.
    #[must_use]
    pub fn is_claimed_by(&self, token: &str) -> bool {
        if token.len() > TOKEN_BYTES_MAX {
            return false;
        }
        let claims = unverified::claims_text(token)
            .and_then(|text| serde_json::from_slice::<Claims>(&text).ok());
        claims.is_some_and(|claims| self.check(&claims).is_ok())
    }
}

/// Checks a token's signature and validity at `now_seconds` since 1970, and reads it.
///
/// # Errors
/// [`ClaimsError::Expired`]: the same holder needs a fresh token. [`ClaimsError::UnknownKey`]: newer
/// keys may help.
pub fn verify(
    token: &str,
    keys: &KeySet,
    now_seconds: u64,
    expected: &Expected<'_>,
) -> Result<Claims, ClaimsError> {
    let claims = read_signed(token, keys)?;
    claims.check_form()?;
    expected.check(&claims)?;
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

/// The claims of a token that one of `keys` has signed.
fn read_signed(token: &str, keys: &KeySet) -> Result<Claims, ClaimsError> {
    install_provider();
    if token.len() > TOKEN_BYTES_MAX {
        let text = format!("longer than {TOKEN_BYTES_MAX} bytes");
        return Err(ClaimsError::Malformed(text));
    }
    let header =
        jsonwebtoken::decode_header(token).map_err(|error| ClaimsError::of_header(&error))?;
    // The library supports no extensions, and RFC 7515, 4.1.11 requires such a token to be refused.
    if header.crit.is_some() {
        return Err(ClaimsError::malformed("its header has critical extensions"));
    }
    let is_known = |algorithm| {
        matches!(
            algorithm,
            Algorithm::HS256 | Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA
        )
    };
    let id = header.kid.as_deref();
    let is_unknown_key = id.is_some_and(|id| keys.has_names() && !keys.knows(id));
    if !is_known(header.alg) || (!keys.has(header.alg) && !is_unknown_key) {
        return Err(ClaimsError::Algorithm);
    }
    let mut validation = Validation::new(header.alg);
    // The first two checks would read the system's clock.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let mut outcome = Err(if is_unknown_key {
        ClaimsError::UnknownKey
    } else {
        ClaimsError::Signature
    });
    for key in keys.fitting(header.alg, id) {
        match jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation) {
            Ok(read) => return Ok(read.claims),
            Err(error) => match ClaimsError::of_claims(&error) {
                ClaimsError::Signature => {}
                other => outcome = Err(other),
            },
        }
    }
    outcome
}

/// Signs `claims` with `key`.
///
/// # Errors
/// [`ClaimsError::Algorithm`] unless `key` is a secret, [`ClaimsError::Malformed`] if no relay would
/// accept the token.
pub fn issue(claims: &Claims, key: &Key) -> Result<String, ClaimsError> {
    install_provider();
    claims.check_form()?;
    if key.algorithm != Algorithm::HS256 {
        return Err(ClaimsError::Algorithm);
    }
    let failed = |error| ClaimsError::of_claims(&error);
    let secret = key.decoding.try_get_as_bytes().map_err(failed)?;
    let token = jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        claims,
        &EncodingKey::from_secret(secret),
    )
    .map_err(failed)?;
    if token.len() > TOKEN_BYTES_MAX {
        let text = format!("longer than {TOKEN_BYTES_MAX} bytes");
        return Err(ClaimsError::Malformed(text));
    }
    Ok(token)
}
