//! Credentials of the relay in what callers send on: a target's owner who got one could use it, so
//! they are taken out wherever clients put tokens. Path and body are not looked at.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use bytes::Bytes;
use data_encoding::{BASE64, BASE64URL_NOPAD};
use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;

use super::Gateway;
use crate::config::TOKEN_PREFIX;

/// Signatures that are checked for one request: each takes up to 0.1 ms, and a caller chooses how many
/// texts look like tokens.
const CHECKS_MAX: u32 = 4;

/// Characters of a static token that the relay made: 256 random bits in base 64 behind the prefix.
const STATIC_TOKEN_CHARS: usize = TOKEN_PREFIX.len() + 43;

/// Shortest text that is taken for a credential as a whole.
const WHOLE_CHARS_MIN: usize = 8;

/// Fields that hold a credential and nothing else, if they are there.
const CREDENTIAL_FIELDS: [HeaderName; 6] = [
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-auth-token"),
    HeaderName::from_static("x-access-token"),
    HeaderName::from_static("x-authorization"),
];

/// Takes credentials of the relay out of a request's fields, cookies and query; the path and query that
/// are left.
pub(super) fn keep_back<G: Gateway>(
    gateway: &G,
    headers: &mut HeaderMap,
    path: PathAndQuery,
) -> PathAndQuery {
    if !gateway.knows_tokens() {
        return path;
    }
    let checks_left = Cell::new(CHECKS_MAX);
    withhold(headers, path, &|token| gateway.is_ours(token, &checks_left))
}

/// Takes credentials that are `is_ours` out of a request's fields, cookies and query; the path and
/// query that are left.
fn withhold(
    headers: &mut HeaderMap,
    path: PathAndQuery,
    is_ours: &dyn Fn(&str) -> bool,
) -> PathAndQuery {
    // One text is looked at in several ways, and in each place that it stands in, but judged once.
    let judged = RefCell::new(HashMap::<String, bool>::new());
    let is_ours: &dyn Fn(&str) -> bool = &|text| {
        let known = judged.borrow().get(text).copied();
        known.unwrap_or_else(|| {
            let verdict = is_ours(text);
            judged.borrow_mut().insert(text.to_owned(), verdict);
            verdict
        })
    };
    let holds_ours = |(name, value): (&HeaderName, &HeaderValue)| {
        let is_credential = CREDENTIAL_FIELDS.contains(name);
        let text = String::from_utf8_lossy(value.as_bytes());
        (has_ours(&text, is_ours) || is_credential && is_our_credential(&text, is_ours))
            .then(|| name.clone())
    };
    let found: Vec<HeaderName> = headers.iter().filter_map(holds_ours).collect();
    for name in found {
        let values: Vec<_> = headers.get_all(&name).iter().cloned().collect();
        headers.remove(&name);
        for value in values {
            if let Some(left) = without_ours(&name, value, is_ours) {
                headers.append(name.clone(), left);
            }
        }
    }
    without_ours_in_query(&path, is_ours).unwrap_or(path)
}

/// What is left of a field's value; of cookies, the pairs without a credential.
fn without_ours(
    name: &HeaderName,
    value: HeaderValue,
    is_ours: &dyn Fn(&str) -> bool,
) -> Option<HeaderValue> {
    let text = String::from_utf8_lossy(value.as_bytes());
    if *name == COOKIE {
        let pairs = text.split(';').map(str::trim);
        let left: Vec<_> = pairs.filter(|pair| !pair_is_ours(pair, is_ours)).collect();
        return (!left.is_empty()).then(|| HeaderValue::from_str(&left.join("; ")).ok())?;
    }
    let is_credential = CREDENTIAL_FIELDS.contains(name);
    let drop = has_ours(&text, is_ours) || is_credential && is_our_credential(&text, is_ours);
    (!drop).then_some(value)
}

/// The path with what is left of its query; `None` if nothing is to be taken out.
fn without_ours_in_query(
    path: &PathAndQuery,
    is_ours: &dyn Fn(&str) -> bool,
) -> Option<PathAndQuery> {
    let query = path.query()?;
    let fields = || query.split('&');
    if !fields().any(|field| pair_is_ours(field, is_ours)) {
        return None;
    }
    let left: Vec<_> = fields()
        .filter(|field| !pair_is_ours(field, is_ours))
        .collect();
    let mut text = path.path().to_owned();
    if !left.is_empty() {
        text = format!("{text}?{}", left.join("&"));
    }
    PathAndQuery::from_maybe_shared(Bytes::from(text)).ok()
}

/// True if a field of a query, or a cookie, holds a credential of ours.
fn pair_is_ours(pair: &str, is_ours: &dyn Fn(&str) -> bool) -> bool {
    let value = pair.split_once('=').map_or(pair, |(_, value)| value);
    let value = decoded(value);
    has_ours(&decoded(pair), is_ours) || is_our_credential(&value, is_ours)
}

/// True if a text as a whole is a credential of ours, alone, behind the name of its scheme, or as the
/// user or password of RFC 7617.
fn is_our_credential(text: &str, is_ours: &dyn Fn(&str) -> bool) -> bool {
    let whole = |text: &str| text.len() >= WHOLE_CHARS_MIN && is_ours(text);
    let text = text.trim();
    let (scheme, rest) = match text.split_once(|c: char| c.is_ascii_whitespace()) {
        Some((scheme, rest)) => (scheme, rest.trim()),
        None => ("", text),
    };
    let basic = || {
        let unpadded = rest.trim_end_matches('=');
        let padded = BASE64.decode(rest.as_bytes());
        let bytes = padded.or_else(|_| BASE64URL_NOPAD.decode(unpadded.as_bytes()));
        String::from_utf8(bytes.ok()?).ok()
    };
    whole(text)
        || whole(rest)
        || scheme.eq_ignore_ascii_case("basic")
            && basic().is_some_and(|pair| {
                let (user, password) = pair.split_once(':').unwrap_or((&pair, ""));
                whole(user) || whole(password) || has_ours(&pair, is_ours)
            })
}

/// True if a text has the form of a credential of ours somewhere in it, and is one.
fn has_ours(text: &str, is_ours: &dyn Fn(&str) -> bool) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let text = decoded(text);
    let mut pieces = text.split(|c| !is_part(c));
    pieces.any(|piece| {
        let mut fixed = piece
            .match_indices(TOKEN_PREFIX)
            .map(|(at, _)| &piece[at..]);
        fixed.any(|token| is_ours(token) || token.get(..STATIC_TOKEN_CHARS).is_some_and(is_ours))
            || signed(piece).any(is_ours)
    })
}

/// Parts of a text that have the form of a signed token: three parts, of which the first is a JSON
/// object in base 64.
fn signed(piece: &str) -> impl Iterator<Item = &str> {
    let starts = std::iter::once(0).chain(piece.match_indices('.').map(|(at, _)| at + 1));
    starts.filter_map(|start| {
        let rest = &piece[start..];
        if !rest.starts_with("ey") && !rest.starts_with("ew") {
            return None;
        }
        let mut dots = rest.match_indices('.').map(|(at, _)| at);
        dots.next().zip(dots.next())?;
        Some(&rest[..dots.next().unwrap_or(rest.len())])
    })
}

/// A text with its percent encoding undone, where that is text again.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let pair = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let digits = pair.filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 3;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&plain).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATIC: &str = "tieline_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl";
    const WRITTEN: &str = "a token made by hand!";

    fn is_ours(token: &str) -> bool {
        [STATIC, JWT, WRITTEN].contains(&token)
    }

    fn left(lines: &[(&'static str, &str)]) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        withhold(&mut headers, PathAndQuery::from_static("/"), &is_ours);
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        let all = headers.iter();
        all.map(|(name, value)| (name.to_string(), text(value)))
            .collect()
    }

    #[test]
    fn a_credential_of_ours_is_taken_out_of_every_field() {
        let basic = |pair: String| format!("Basic {}", BASE64.encode(pair.as_bytes()));
        for token in [STATIC, JWT] {
            for value in [
                format!("Bearer {token}"),
                format!("bearer {token}"),
                format!("BEARER\t  {token}  "),
                format!("Bearer \"{token}\""),
                format!("token={token}"),
                format!("Bearer theirs, Bearer {token}"),
                format!("Bearer {}", token.replace('_', "%5F").replace('.', "%2e")),
                token.to_owned(),
                basic(format!("ada:{token}")),
                basic(format!("{token}:")),
            ] {
                for name in ["authorization", "x-api-key", "x-auth-token"] {
                    assert_eq!(left(&[(name, &value)]), [], "{name}: {value}");
                }
            }
            let referer = format!("http://r/w/maya/?access_token={token}&x=1");
            assert_eq!(left(&[("referer", &referer), ("x-anything", token)]), []);
        }
        for value in [
            format!("Bearer {WRITTEN}"),
            WRITTEN.to_owned(),
            basic(format!(":{WRITTEN}")),
        ] {
            assert_eq!(left(&[("authorization", &value)]), [], "{value}");
        }
    }

    #[test]
    fn what_is_the_targets_passes_untouched() {
        let theirs = [
            (
                "authorization",
                "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJib2IifQ.c2ln",
            ),
            ("authorization", "Basic dTpw"),
            ("x-api-key", "tieline_but_not_ours"),
            ("cookie", "a=1;b=eyJh.b.c; c"),
            ("accept", "text/event-stream, application/json"),
            ("x-percent", "100%, %zz %e2%82"),
        ];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let expected: Vec<_> = theirs.into_iter().map(owned).collect();
        assert_eq!(left(&theirs), expected);
    }

    #[test]
    fn of_several_values_only_ours_is_dropped() {
        let ours = format!("Bearer {STATIC}");
        let lines = [
            ("authorization", "Basic dTpw"),
            ("authorization", ours.as_str()),
        ];
        let expected = [("authorization".to_owned(), "Basic dTpw".to_owned())];
        assert_eq!(left(&lines), expected);
        let cookies = format!("a=1; token={STATIC}; b=2");
        let expected = [("cookie".to_owned(), "a=1; b=2".to_owned())];
        assert_eq!(left(&[("cookie", &cookies)]), expected);
        let only = format!("token={JWT}");
        assert_eq!(left(&[("cookie", &only)]), []);
    }

    #[test]
    fn a_query_loses_our_credential_and_nothing_else() {
        let encoded = STATIC.replace('_', "%5f");
        for (query, expected) in [
            (format!("/mcp?access_token={STATIC}"), "/mcp"),
            (
                format!("/mcp?a=1&access_token={JWT}&b=%20"),
                "/mcp?a=1&b=%20",
            ),
            (format!("/mcp?a=1&x={encoded}"), "/mcp?a=1"),
            (format!("/mcp?{STATIC}"), "/mcp"),
            (
                "/mcp?token=a%20token%20made%20by%20hand!".to_owned(),
                "/mcp",
            ),
            (
                "/mcp?access_token=theirs&&=".to_owned(),
                "/mcp?access_token=theirs&&=",
            ),
            ("/mcp?".to_owned(), "/mcp?"),
        ] {
            let path = PathAndQuery::try_from(query.as_str()).unwrap();
            let left = withhold(&mut HeaderMap::new(), path, &is_ours);
            assert_eq!(left.as_str(), expected, "{query}");
        }
    }

    #[test]
    fn a_text_is_judged_once_wherever_it_stands() {
        let judged = RefCell::new(Vec::new());
        let mut headers = HeaderMap::new();
        for name in ["authorization", "x-api-key", "x-other"] {
            headers.insert(name, HeaderValue::from_static(JWT));
        }
        let path = PathAndQuery::try_from(format!("/?a={JWT}&b={JWT}")).unwrap();
        let left = withhold(&mut headers, path, &|text| {
            judged.borrow_mut().push(text.to_owned());
            false
        });
        assert_eq!(
            (headers.len(), left.query().unwrap().matches(JWT).count()),
            (3, 2)
        );
        assert_eq!(judged.into_inner(), [JWT]);
    }

    #[test]
    fn tokens_are_found_within_longer_texts() {
        for text in [
            format!("x.{JWT}.y"),
            format!("prefix-{STATIC}"),
            format!("{STATIC}-suffix"),
            format!("{STATIC}.suffix"),
        ] {
            assert!(has_ours(&text, &is_ours), "{text}");
        }
        assert!(!has_ours("ey.ey.ey.ey..", &is_ours));
    }
}
