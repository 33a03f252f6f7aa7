//! Tokens of a studio that signs them itself, for relays that want to be shown one.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use tieline_relay::cli::TokenOrder;
use tieline_relay::{Auth, JwtAuth, issue_token};
use tieline_wire::claims::Key;

/// What the studio signs with.
pub const SECRET: [u8; 32] = [7; 32];

/// An order for a token of Ada's, who is the same to agents and callers.
#[must_use]
pub fn order() -> TokenOrder {
    TokenOrder {
        subject: "ada".to_owned(),
        issuer: Some("studio".to_owned()),
        ..TokenOrder::default()
    }
}

/// A token that was issued `age_seconds` ago, for an hour.
///
/// # Errors
/// The order is none that can be signed.
pub fn token(order: TokenOrder, secret: &[u8], age_seconds: u64) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let key = Key::hs256(secret)?;
    let issued_at = now - age_seconds;
    Ok(issue_token(order, &key, "1".to_owned(), issued_at, 3600)?)
}

/// A token of `sub`, who is in `groups` and may reach `reach`.
///
/// # Errors
/// Never: the order can be signed.
pub fn token_of(sub: &str, groups: &[&str], reach: &[&str]) -> Result<String> {
    let texts = |list: &[&str]| list.iter().map(|&it| it.to_owned()).collect();
    let order = TokenOrder {
        subject: sub.to_owned(),
        groups: texts(groups),
        reach: texts(reach),
        ..order()
    };
    token(order, &SECRET, 0)
}

/// Has a relay take tokens of the studio.
///
/// # Errors
/// Never: the secret is long enough.
pub fn studio() -> Result<Auth> {
    Ok(Auth::Jwt(JwtAuth {
        keys: Key::hs256(&SECRET)?.into(),
        issuer: Some("studio".to_owned()),
        ..JwtAuth::default()
    }))
}

/// Puts a token into a file that only its owner may read.
///
/// # Errors
/// The file cannot be written.
pub fn write_token(path: &Path, token: &str) -> Result<()> {
    std::fs::write(path, token)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(())
}
