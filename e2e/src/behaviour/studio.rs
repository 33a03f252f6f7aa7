//! Tokens of a fictional studio that signs its own tokens, for relays that require tokens.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use tieline_relay::cli::TokenOrder;
use tieline_relay::{Auth, JwtAuth, issue_token};
use tieline_token::Key;

/// Signing key of the studio's tokens.
pub const SECRET: [u8; 32] = [7; 32];

/// Order for a token of the subject `ada`, which agents and callers share.
#[must_use]
pub fn order() -> TokenOrder {
    TokenOrder {
        subject: "ada".to_owned(),
        issuer: Some("studio".to_owned()),
        ..TokenOrder::default()
    }
}

/// Signs a token that was issued `age_seconds` ago and is valid for an hour.
///
/// # Errors
/// The order is not valid.
pub fn token(order: TokenOrder, secret: &[u8], age_seconds: u64) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let key = Key::hs256(secret)?;
    let issued_at = now - age_seconds;
    Ok(issue_token(order, &key, "1".to_owned(), issued_at, 3600)?)
}

/// A token of subject `sub` with the given groups and reach.
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

/// Authentication settings that accept the studio's tokens.
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

/// Writes a token to a file that only its owner can read.
///
/// # Errors
/// The file cannot be written.
pub fn write_token(path: &Path, token: &str) -> Result<()> {
    std::fs::write(path, token)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(())
}
