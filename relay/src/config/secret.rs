//! Secrets: read from files that other users cannot read, never shown, compared in constant time.

use std::fmt;
use std::path::Path;

use aws_lc_rs::{digest, hmac};
use tieline_token::Key;

use super::file::read_secret_once;
use super::place;
use crate::error::ConfigError;

/// Shortest secret sent in a header field, in bytes.
const TEXT_BYTES_MIN: usize = 16;

/// A secret text that authenticates its holder; its `Debug` is masked.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// A secret from its text.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret text, for sending it to its receiver.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether `text` is the secret. The time taken does not depend on the secret.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        // `ring` compares tags in constant time; both tags have the same length.
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes());
        let tag = hmac::sign(
            &key,
            digest::digest(&digest::SHA256, text.as_bytes()).as_ref(),
        );
        let own = digest::digest(&digest::SHA256, self.0.as_bytes());
        hmac::verify(&key, own.as_ref(), tag.as_ref()).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(masked)")
    }
}

/// Reads the secret that signs tokens, without a line break at the file's end.
///
/// # Errors
/// [`ConfigError::Content`] if other users can read the file, or the secret is too short.
pub fn read_secret(path: &Path) -> Result<Key, ConfigError> {
    let secret = read_bytes(path)?;
    Key::hs256(&secret).map_err(|error| {
        let problem = format!("{error}; `openssl rand -base64 48` prints a good one");
        ConfigError::content(path, problem)
    })
}

/// Reads the secret from the file that a command's flag `origin` names.
///
/// # Errors
/// [`ConfigError::Pasted`] if `path` may be the secret itself; otherwise as [`read_secret`].
pub fn read_named_secret(origin: &str, path: &Path) -> Result<Key, ConfigError> {
    place::check_name(origin.to_owned(), &path.to_string_lossy(), path)?;
    read_secret(path)
}

/// Reads a secret that is text, such as a bearer token.
///
/// # Errors
/// [`ConfigError::Content`] if other users can read the file, or the secret is not fit for a header field.
pub(super) fn read_text_secret(path: &Path) -> Result<Secret, ConfigError> {
    let secret = read_bytes(path)?;
    if secret.len() < TEXT_BYTES_MIN || !secret.iter().all(u8::is_ascii_graphic) {
        let problem = format!(
            "a secret for a header has {TEXT_BYTES_MIN} or more characters, ASCII without \
             blanks; `openssl rand -hex 32` prints a good one"
        );
        return Err(ConfigError::content(path, problem));
    }
    String::from_utf8(secret)
        .map(Secret)
        .map_err(|_| ConfigError::content(path, "not ASCII"))
}

/// Reads a secret file, without a line break at its end.
fn read_bytes(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let mut secret = read_secret_once(path)?;
    if secret.last() == Some(&b'\n') {
        secret.pop();
        secret.pop_if(|byte| *byte == b'\r');
    }
    Ok(secret)
}
