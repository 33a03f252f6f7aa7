//! Keeps the relay's credentials from targets, whose owners could use them: removes them from the header
//! fields, cookies, query and trailers of requests, and refuses a request with one in its method, host name or
//! path. The audit log is protected, too. Bodies are not searched.
//!
//! `search` finds credentials, `spelling` decodes text, and this file removes or refuses.

mod search;
mod spelling;

use bytes::Bytes;
use http::Method;
use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;

use self::search::Search;
use crate::audit::Call;
use crate::auth::OwnTokens;
use crate::listen::http::gateway::Gateway;
use crate::listen::http::problem::Problem;

/// Removes credentials of the relay from a request's fields and cookies; returns the path with the rest of
/// the query. `authority` is the relay's authority as the caller knows it.
///
/// # Errors
/// The method, the path or the host name holds a credential: without it the request would have another meaning.
pub(crate) fn keep_back<G: Gateway>(
    gateway: &G,
    method: &Method,
    headers: &mut HeaderMap,
    path: PathAndQuery,
    authority: Option<Bytes>,
) -> Result<PathAndQuery, Problem> {
    let Some(own) = gateway.own_tokens() else {
        return Ok(path);
    };
    let search = Search::new(own);
    for (place, text, word) in [
        ("method", method.as_str().as_bytes(), "token_in_method"),
        ("path", path.path().as_bytes(), "token_in_url"),
        ("host name", &authority.unwrap_or_default(), "token_in_url"),
    ] {
        if search.finds_in(text) {
            return Err(Problem::token_in(place, word, search.is_unsure()));
        }
    }
    from_fields(&search, headers);
    Ok(from_query(&search, path))
}

/// Removes credentials of the relay from the trailers of a request.
pub(crate) fn keep_trailers_back<G: Gateway>(gateway: &G, trailers: &mut HeaderMap) {
    if let Some(own) = gateway.own_tokens() {
        from_fields(&Search::new(own), trailers);
    }
}

/// Removes credentials of the relay from an audit entry before it is written.
pub(crate) fn hide_tokens(own: OwnTokens, call: &mut Call) {
    let search = Search::new(own);
    call.hide(|text| search.finds_in(text));
}

/// True if a text holds a credential of the relay.
pub(crate) fn holds_token(own: OwnTokens, text: &[u8]) -> bool {
    Search::new(own).finds_in(text)
}

fn from_fields(search: &Search, headers: &mut HeaderMap) {
    let holds = |(name, value): (&HeaderName, &HeaderValue)| {
        let is_found = search.finds_in_name(name.as_str()) || search.finds_in(value.as_bytes());
        is_found.then(|| name.clone())
    };
    let found: Vec<HeaderName> = headers.iter().filter_map(holds).collect();
    for name in found {
        let values: Vec<_> = headers.get_all(&name).iter().cloned().collect();
        headers.remove(&name);
        for value in values {
            if let Some(left) = left_of(search, &name, value) {
                headers.append(name.clone(), left);
            }
        }
    }
}

/// The rest of a field's value: all, nothing, or the cookies without a credential.
fn left_of(search: &Search, name: &HeaderName, value: HeaderValue) -> Option<HeaderValue> {
    if search.finds_in_name(name.as_str()) {
        return None;
    }
    if !search.finds_in(value.as_bytes()) {
        return Some(value);
    }
    if *name != COOKIE {
        return None;
    }
    let left = without(search, value.as_bytes(), b';', b"; ")?;
    HeaderValue::from_bytes(&left).ok()
}

/// The path with the rest of its query.
fn from_query(search: &Search, path: PathAndQuery) -> PathAndQuery {
    let Some(query) = path.query().map(str::as_bytes) else {
        return path;
    };
    if !search.finds_in(query) {
        return path;
    }
    let mut text = path.path().as_bytes().to_vec();
    if let Some(left) = without(search, query, b'&', b"&") {
        text.push(b'?');
        text.extend_from_slice(&left);
    }
    let bare = |_| PathAndQuery::try_from(path.path());
    let left = PathAndQuery::from_maybe_shared(Bytes::from(text)).or_else(bare);
    left.unwrap_or_else(|_| PathAndQuery::from_static("/"))
}

/// The parts of a text without a credential, joined again; `None` if there are none, or if the joined parts
/// form a credential that no single part holds.
fn without(search: &Search, text: &[u8], delimiter: u8, joint: &[u8]) -> Option<Vec<u8>> {
    let parts = text.split(|byte| *byte == delimiter);
    let parts = parts.map(|part| {
        if joint.len() > 1 {
            part.trim_ascii()
        } else {
            part
        }
    });
    let left: Vec<_> = parts.filter(|part| !search.finds_in(part)).collect();
    let (text, bare) = (left.join(joint), left.join(&delimiter));
    // Also joined as in the original, without the blanks of `joint`.
    let is_found = search.finds_in(&text) || joint.len() > 1 && search.finds_in(&bare);
    (!left.is_empty() && !is_found).then_some(text)
}

#[cfg(test)]
mod tests;
