//! Maps the relay's address in answers to the proxy's, and the proxy's address in requests to the
//! relay's.

use http::HeaderMap;
use http::header::{
    CONTENT_LOCATION, HeaderName, LINK, LOCATION, REFERER, REFRESH, WWW_AUTHENTICATE,
};
use tieline_hop::events;
use tieline_hop::rewrite::{links, metadata, refresh, split_authority, split_scheme, values};
use tieline_hop::site::{self, Site};

use crate::outbound::RelayOrigin;

const SERVICE_WORKER_ALLOWED: HeaderName = HeaderName::from_static("service-worker-allowed");

/// Rewrites the headers of an answer to a request for the path `asked`; the caller knows the proxy as `host`.
pub(super) fn apply(headers: &mut HeaderMap, relay: &RelayOrigin, host: &str, asked: &str) {
    let location = |value: &[u8]| location(value, relay, host);
    for name in [LOCATION, CONTENT_LOCATION] {
        values(headers, name, location);
    }
    values(headers, LINK, |value| links(value, location));
    values(headers, WWW_AUTHENTICATE, |value| metadata(value, location));
    values(headers, REFRESH, |value| refresh(value, location));
    // All tunnels share the proxy's one origin, also tunnels with a host name of their own at the relay.
    site::confine(headers, Site::Shared);
    let prefix = prefix(asked).map(str::as_bytes);
    let mut scopes = headers.get_all(SERVICE_WORKER_ALLOWED).iter();
    let is_confined = scopes.all(|scope| {
        let behind = prefix.and_then(|it| scope.as_bytes().strip_prefix(it));
        behind.is_some_and(|it| it.starts_with(b"/") && !it.iter().any(|b| b".%\\".contains(b)))
    });
    if !is_confined {
        headers.remove(SERVICE_WORKER_ALLOWED);
    }
}

/// Replaces the proxy's address in a request's `Referer` with the relay's. The caller knows the proxy
/// as `host`.
pub(super) fn read(headers: &mut HeaderMap, relay: &RelayOrigin, host: &str) {
    values(headers, REFERER, |page| {
        let (_, rest) = split_scheme(page)?;
        let (authority, path) = split_authority(rest);
        authority
            .eq_ignore_ascii_case(host.as_bytes())
            .then(|| [relay.to_string().as_bytes(), path].concat())
    });
}

/// Maps the endpoint URL that an event stream names (MCP's older HTTP+SSE transport).
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) relay: RelayOrigin,
    /// Path of the request that opened the stream.
    pub(super) asked: String,
}

impl events::Endpoint for Endpoint {
    /// Path of an endpoint URL that leads to the relay; `None` if the URL can stay.
    ///
    /// A URL leads to the relay if it has the relay's host, or the tunnel prefix of `asked`: the relay may have
    /// host names that this proxy does not know. Clients refuse an endpoint on another host than the stream's.
    fn for_caller(&self, url: &[u8]) -> Option<Vec<u8>> {
        let network = || Some((self.relay.https, url.strip_prefix(b"//")?));
        let (https, rest) = split_scheme(url).or_else(network)?;
        let (authority, path) = split_authority(rest);
        let is_tunnels = prefix(&self.asked).is_some_and(|prefix| {
            let behind = path.strip_prefix(prefix.as_bytes());
            behind.is_some_and(|behind| behind.is_empty() || b"/?".contains(&behind[0]))
        });
        let is_relays = is_tunnels || self.relay.is_named(https, authority);
        let slash: &[u8] = if path.starts_with(b"/") { b"" } else { b"/" };
        is_relays.then(|| [slash, path].concat())
    }
}

/// The first two segments of a relay path, if they name a tunnel or a DCC.
fn prefix(path: &str) -> Option<&str> {
    let (first, rest) = path.strip_prefix('/')?.split_once('/')?;
    let second = rest.split(['/', '?']).next().unwrap_or_default();
    let is_prefix = matches!(first, "w" | "tunnel" | "dcc") && !second.is_empty();
    is_prefix.then(|| &path[..first.len() + second.len() + 2])
}

/// The proxy's form of a URI reference to the relay; `None` if the reference can stay. A reference
/// without a host stays: paths are the same at proxy and relay.
fn location(value: &[u8], relay: &RelayOrigin, host: &str) -> Option<Vec<u8>> {
    let network = || Some((relay.https, value.strip_prefix(b"//")?));
    let (https, rest) = split_scheme(value).or_else(network)?;
    let (authority, path) = split_authority(rest);
    relay
        .is_named(https, authority)
        .then(|| [b"http://", host.as_bytes(), path].concat())
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
    fn an_endpoint_at_the_relay_becomes_a_path() {
        let endpoint = Endpoint {
            relay: RelayOrigin::parse("https://relay.example").unwrap(),
            asked: "/w/maya/sse?x".to_owned(),
        };
        let path = |url: &str| {
            let path = events::Endpoint::for_caller(&endpoint, url.as_bytes());
            path.map(|path| String::from_utf8(path).unwrap())
        };
        for (url, expected) in [
            ("https://relay.example/w/maya/m?s=1", "/w/maya/m?s=1"),
            ("http://relay.example/w/maya/m", "/w/maya/m"),
            ("//relay.example/m", "/m"),
            ("https://relay.example?x", "/?x"),
            ("http://10.0.0.1:9080/w/maya/m?s=1", "/w/maya/m?s=1"),
        ] {
            assert_eq!(path(url).as_deref(), Some(expected), "{url}");
        }
        for url in [
            "/w/maya/m",
            "m",
            "?s=1",
            "https://other.example/w/mayax/m",
            "https://other/m",
        ] {
            assert_eq!(path(url), None, "{url}");
        }
        for (asked, expected) in [
            ("/w/a", Some("/w/a")),
            ("/dcc/a/b/c", Some("/dcc/a")),
            ("/w/", None),
            ("/x/a", None),
            ("/w?/a", None),
        ] {
            assert_eq!(prefix(asked), expected, "{asked}");
        }
    }

    #[test]
    fn a_page_of_the_proxy_is_told_as_the_relays() {
        let relay = RelayOrigin::parse("https://relay.example").unwrap();
        for (page, told) in [
            (
                "http://localhost:51822/w/a/x?y",
                "https://relay.example/w/a/x?y",
            ),
            ("http://LOCALHOST:51822", "https://relay.example"),
            ("http://localhost:3000/w/a/x", "http://localhost:3000/w/a/x"),
            ("https://app.example/", "https://app.example/"),
        ] {
            let mut headers = HeaderMap::from_iter([(REFERER, page.parse().unwrap())]);
            read(&mut headers, &relay, "localhost:51822");
            assert_eq!(headers[REFERER], told);
        }
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
            // A relay behind a TLS terminator puts http:// into its own URLs.
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
