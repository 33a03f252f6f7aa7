//! HTTP requests that commands make themselves: one request over a connection of its own, and the list of tunnels
//! that a relay gives a caller.

pub(crate) mod dial;
mod error;
pub(crate) mod failure;
mod origin;
pub(crate) mod request;
mod tls;
pub(crate) mod tunnels;
mod watched;

use std::path::Path;

use http::HeaderValue;
use tieline_agent::{TokenError, token};

pub use self::error::OutboundError;
pub use self::origin::RelayOrigin;

/// Value of `Authorization` for the token in the file at `path`.
pub(crate) fn authorization(path: &Path) -> Result<HeaderValue, TokenError> {
    value_of(path, &token::read(path)?)
}

/// Value of `Authorization` as [`authorization`], for a program that serves meanwhile: only a regular file is read.
///
/// # Errors
/// As [`authorization`].
pub(crate) fn authorization_again(path: &Path) -> Result<HeaderValue, TokenError> {
    value_of(path, &token::read_again(path)?)
}

fn value_of(path: &Path, token: &str) -> Result<HeaderValue, TokenError> {
    let mut value =
        HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| TokenError::Content {
            path: path.to_owned(),
            problem: "it has a character that a header field cannot carry",
        })?;
    value.set_sensitive(true);
    Ok(value)
}
