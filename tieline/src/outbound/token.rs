//! The token of a file as a request carries it.

use std::path::Path;

use http::HeaderValue;
use tieline_agent::{TokenError, token};

/// Value of `Authorization` for the token in the file at `path`.
pub(crate) fn authorization(path: &Path) -> Result<HeaderValue, TokenError> {
    let token = token::read(path)?;
    let mut value =
        HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| TokenError::Content {
            path: path.to_owned(),
            problem: "it has a character that a header field cannot carry",
        })?;
    value.set_sensitive(true);
    Ok(value)
}
