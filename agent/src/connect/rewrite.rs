//! Maps what an answer says about the relay's own address to the proxy's.

use bytes::Bytes;
use http::header::{CONTENT_LOCATION, Entry, HeaderName, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};

use super::origin::RelayOrigin;

/// The parameter of a challenge that points to the resource's metadata (RFC 9728, section 5.1).
const RESOURCE_METADATA: &[u8] = b"resource_metadata";

/// Rewrites an answer's headers for a caller that knows the proxy as `host`.
pub(super) fn apply(headers: &mut HeaderMap, relay: &RelayOrigin, host: &str) {
    for name in [LOCATION, CONTENT_LOCATION] {
        rewrite(headers, name, |value| location(value, relay, host));
    }
    rewrite(headers, WWW_AUTHENTICATE, |value| {
        challenge(value, relay, host)
    });
}

/// The proxy's form of a URI reference; `None` if it can stay, as one without a host can: paths
/// are the same at proxy and relay.
fn location(value: &[u8], relay: &RelayOrigin, host: &str) -> Option<Vec<u8>> {
    let (https, rest) = match split_scheme(value) {
        Some(split) => split,
        None => (relay.https, value.strip_prefix(b"//")?),
    };
    // Browsers read a backslash as a slash (WHATWG URL, "authority state").
    let end = rest
        .iter()
        .position(|b| b"/?#\\".contains(b))
        .unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    relay
        .is_named(https, authority)
        .then(|| [b"http://", host.as_bytes(), path].concat())
}

/// `https://rest` and `http://rest`.
fn split_scheme(value: &[u8]) -> Option<(bool, &[u8])> {
    [(true, &b"https://"[..]), (false, b"http://")]
        .into_iter()
        .find_map(|(https, scheme)| {
            let (start, rest) = value.split_at_checked(scheme.len())?;
            start.eq_ignore_ascii_case(scheme).then_some((https, rest))
        })
}

/// A challenge whose `resource_metadata` leads to the proxy; `None` if it can stay.
fn challenge(value: &[u8], relay: &RelayOrigin, host: &str) -> Option<Vec<u8>> {
    let mut rest = value;
    let mut mapped = Vec::new();
    let mut changed = false;
    // What stands between quotes is every second part; a quoted pair is not among what a URL
    // may hold.
    while let Some(start) = rest.iter().position(|b| *b == b'"') {
        let (before, quoted) = rest.split_at(start + 1);
        let end = closing_quote(quoted)?;
        let (inside, after) = quoted.split_at(end);
        mapped.extend_from_slice(before);
        match location(inside, relay, host).filter(|_| names_metadata(before)) {
            Some(url) => {
                mapped.extend_from_slice(&url);
                changed = true;
            }
            None => mapped.extend_from_slice(inside),
        }
        mapped.push(b'"');
        rest = &after[1..];
    }
    mapped.extend_from_slice(rest);
    changed.then_some(mapped)
}

fn closing_quote(quoted: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match quoted.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// True if `before` ends in `resource_metadata="`.
fn names_metadata(before: &[u8]) -> bool {
    let name = before
        .strip_suffix(b"\"")
        .unwrap_or(before)
        .trim_ascii_end();
    let Some(name) = name.strip_suffix(b"=") else {
        return false;
    };
    let name = name.trim_ascii_end();
    let start = name
        .iter()
        .rposition(|b| b", \t".contains(b))
        .map_or(0, |at| at + 1);
    name[start..].eq_ignore_ascii_case(RESOURCE_METADATA)
}

fn rewrite(headers: &mut HeaderMap, name: HeaderName, map: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let Entry::Occupied(mut values) = headers.entry(name) else {
        return;
    };
    for value in values.iter_mut() {
        let Some(mapped) = map(value.as_bytes()) else {
            continue;
        };
        // Cannot fail: it is put together from parts of header values.
        if let Ok(mapped) = HeaderValue::from_maybe_shared(Bytes::from(mapped)) {
            *value = mapped;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(relay: &str, value: &str) -> Option<String> {
        let relay = RelayOrigin::parse(relay).unwrap();
        location(value.as_bytes(), &relay, "localhost:51822")
            .map(|mapped| String::from_utf8(mapped).unwrap())
    }

    #[test]
    fn the_relays_own_urls_become_the_proxys() {
        let relay = "https://relay.example";
        for (value, expected) in [
            (
                "https://relay.example/w/a/mcp/",
                "http://localhost:51822/w/a/mcp/",
            ),
            ("HTTPS://Relay.Example:443?x", "http://localhost:51822?x"),
            // A relay behind a TLS terminator takes itself for this.
            ("http://relay.example/w/a", "http://localhost:51822/w/a"),
            ("//relay.example/w/a", "http://localhost:51822/w/a"),
        ] {
            assert_eq!(mapped(relay, value).as_deref(), Some(expected), "{value}");
        }
        for value in [
            "/w/a/mcp/",
            "mcp/",
            "https://login.example/authorize?u=https://relay.example/",
            "https://relay.example:8443/w/a",
            "https://relay.example.evil/w/a",
            "https://u@relay.example/",
            "mailto:x@relay.example",
        ] {
            assert_eq!(mapped(relay, value), None, "{value}");
        }
        assert_eq!(mapped("http://127.0.0.1:9080", "http://127.0.0.1/x"), None);
    }

    #[test]
    fn a_challenge_leads_to_metadata_at_the_proxy() {
        let relay = RelayOrigin::parse("https://relay.example").unwrap();
        let value = br#"Bearer realm="https://relay.example/", error="a \"b\"", Resource_Metadata = "https://relay.example/.well-known/oauth-protected-resource/w/a/mcp", scope="x""#;
        let mapped = challenge(value, &relay, "localhost:51822").unwrap();
        assert_eq!(
            String::from_utf8(mapped).unwrap(),
            r#"Bearer realm="https://relay.example/", error="a \"b\"", Resource_Metadata = "http://localhost:51822/.well-known/oauth-protected-resource/w/a/mcp", scope="x""#
        );
        for value in [
            &br#"Bearer resource_metadata="https://other.example/x""#[..],
            br#"Bearer x_resource_metadata="https://relay.example/x""#,
            br#"Bearer resource_metadata="https://relay.example/x"#,
            b"Basic",
            b"",
        ] {
            assert_eq!(challenge(value, &relay, "localhost:51822"), None);
        }
    }
}
