//! Maps what an answer says about the relay's own address to the proxy's.

use http::HeaderMap;
use http::header::{CONTENT_LOCATION, LOCATION, WWW_AUTHENTICATE};
use tieline_hop::rewrite::{metadata, split_authority, values};

use super::origin::RelayOrigin;

/// Rewrites an answer's headers for a caller that knows the proxy as `host`.
pub(super) fn apply(headers: &mut HeaderMap, relay: &RelayOrigin, host: &str) {
    let location = |value: &[u8]| location(value, relay, host);
    for name in [LOCATION, CONTENT_LOCATION] {
        values(headers, name, location);
    }
    values(headers, WWW_AUTHENTICATE, |value| metadata(value, location));
}

/// The proxy's form of a URI reference; `None` if it can stay, as one without a host can: paths
/// are the same at proxy and relay.
fn location(value: &[u8], relay: &RelayOrigin, host: &str) -> Option<Vec<u8>> {
    let (https, rest) = match split_scheme(value) {
        Some(split) => split,
        None => (relay.https, value.strip_prefix(b"//")?),
    };
    let (authority, path) = split_authority(rest);
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
}
