//! Which tunnel a request names, and what is left of its path for the target.

use tieline_wire::TunnelId;

/// First path segment of every tunnel's public URL.
const PREFIX: &str = "/w/";

/// Longest method that [`hint`] looks past.
const METHOD_BYTES_MAX: usize = 32;

/// A path split at its tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route<'a> {
    /// `/w/<tunnel>` as the caller wrote it.
    pub(super) prefix: &'a str,
    /// The tunnel's name as the caller wrote it.
    pub(super) tunnel: &'a str,
    /// What follows: empty, or begins with `/` or `?`.
    pub(super) rest: &'a str,
}

/// Splits a path, with or without its query; `None` if it names no tunnel.
pub(super) fn split(path: &str) -> Option<Route<'_>> {
    let name_and_rest = path.strip_prefix(PREFIX)?;
    let end = name_and_rest
        .find(['/', '?'])
        .unwrap_or(name_and_rest.len());
    let (tunnel, rest) = name_and_rest.split_at(end);
    let prefix = &path[..PREFIX.len() + end];
    (!tunnel.is_empty()).then_some(Route {
        prefix,
        tunnel,
        rest,
    })
}

/// Guesses from the first bytes of a connection which tunnel its first request names.
///
/// `None` where that is not decidable. Only a hint for placing the connection: the route is
/// decided by hyper's parse of the whole head.
pub(crate) fn hint(head: &[u8]) -> Option<TunnelId> {
    // Empty lines before a request line are to be ignored (RFC 9112, section 2.2).
    let start = head.iter().position(|b| !matches!(b, b'\r' | b'\n'))?;
    let line = &head[start..];
    let method_bytes = line
        .iter()
        .take(METHOD_BYTES_MAX + 1)
        .position(|b| *b == b' ')?;
    let target = line.get(method_bytes + 1..)?;
    // A target that is cut off may go on with more of the name.
    let target_bytes = target
        .iter()
        .position(|b| matches!(b, b' ' | b'\r' | b'\n' | b'#'));
    let complete = target_bytes.is_some();
    let target = str::from_utf8(&target[..target_bytes.unwrap_or(target.len())]).ok()?;
    let path = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => &rest[rest.find('/')?..],
        _ => target,
    };
    let route = split(path)?;
    if route.rest.is_empty() && !complete {
        return None;
    }
    TunnelId::parse(route.tunnel).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hinted(head: &str) -> Option<String> {
        hint(head.as_bytes()).map(|tunnel| tunnel.as_str().to_owned())
    }

    #[test]
    fn a_path_splits_at_its_tunnel() {
        let route = split("/w/maya-1/mcp?x=/w/other/").unwrap();
        assert_eq!(route.prefix, "/w/maya-1");
        assert_eq!(route.tunnel, "maya-1");
        assert_eq!(route.rest, "/mcp?x=/w/other/");
        assert_eq!(split("/w/maya?x").unwrap().rest, "?x");
        assert_eq!(split("/w/maya").unwrap().rest, "");
        for path in ["/", "/w", "/w/", "/w//mcp", "/W/maya/", "w/maya", "*", ""] {
            assert_eq!(split(path), None, "{path}");
        }
    }

    #[test]
    fn the_hint_reads_the_tunnel_from_a_request_line() {
        for head in [
            "GET /w/Maya-1/mcp HTTP/1.1\r\nHost: x\r\n\r\n",
            "\r\n\r\nPOST /w/maya-1/mcp HT",
            "GET /w/maya-1?q HTTP/1.1",
            "GET /w/maya-1 ",
            "GET http://relay.example/w/maya-1/x HTTP/1.1",
            "GET /w/maya-1/\r\n",
        ] {
            assert_eq!(hinted(head).as_deref(), Some("maya-1"), "{head}");
        }
    }

    #[test]
    fn the_hint_stays_silent_where_it_cannot_know() {
        for head in [
            "",
            "\r\n",
            "GET",
            "GET /w/maya-1",
            "GET /w/",
            "GET / HTTP/1.1",
            "GET http://relay.example",
            "GET /w/ma%79a/ HTTP/1.1",
            "GET /w/-maya/ HTTP/1.1",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "\x16\x03\x01\x02\0\x01\0",
        ] {
            assert_eq!(hinted(head), None, "{head}");
        }
        assert_eq!(hint(b"GET /w/\xff\xfe/ HTTP/1.1\r\n"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_hint_panic(head in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = hint(&head);
        }

        #[test]
        fn no_cut_changes_what_the_hint_says(
            name in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", cut in 0_usize..80
        ) {
            let head = format!("GET /w/{name}/mcp HTTP/1.1\r\nHost: x\r\n\r\n");
            let cut = cut.min(head.len());
            if let Some(tunnel) = hint(&head.as_bytes()[..cut]) {
                prop_assert_eq!(tunnel.as_str(), name);
            }
        }
    }
}
