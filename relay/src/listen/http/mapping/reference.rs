//! URI references (RFC 3986, section 4.1) as bytes, because a header value need not be UTF-8: their forms,
//! and the resolution of relative references.

use tieline_hop::rewrite::split_scheme;

/// The forms of a URI reference.
pub(super) enum Reference<'a> {
    /// `//authority/path`; holds the part after the slashes.
    Network(&'a [u8]),
    /// `http://` or `https://`; `rest` is the `authority/path` after it.
    Absolute { https: bool, rest: &'a [u8] },
    /// `/path`
    Path,
    /// A relative path, a query or a fragment.
    Relative,
    /// A reference with another scheme than HTTP's.
    Other,
}

impl<'a> Reference<'a> {
    pub(crate) fn of(value: &'a [u8]) -> Self {
        if let Some(rest) = value.strip_prefix(b"//") {
            return Self::Network(rest);
        }
        if value.starts_with(b"/") {
            return Self::Path;
        }
        if let Some((https, rest)) = split_scheme(value) {
            return Self::Absolute { https, rest };
        }
        match value.iter().find(|b| b":/?#".contains(b)) {
            Some(b':') => Self::Other,
            _ => Self::Relative,
        }
    }
}

/// Length of the path at the start of a reference.
pub(super) fn path_len(value: &[u8]) -> usize {
    let end = value.iter().position(|b| b"?#".contains(b));
    end.unwrap_or(value.len())
}

/// The part after an authority as an absolute path with its query.
pub(super) fn rooted(path: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if path.starts_with(b"/") { b"" } else { b"/" };
    [slash, path].concat()
}

/// Resolves a reference without scheme and authority against `base`, a path with its query (RFC 3986,
/// section 5.2.2).
pub(super) fn resolved(base: &[u8], reference: &[u8]) -> Vec<u8> {
    let (base_path, base_query) = base.split_at(path_len(base));
    let (path, suffix) = reference.split_at(path_len(reference));
    if path.is_empty() {
        let query = if suffix.starts_with(b"?") {
            b""
        } else {
            base_query
        };
        return [base_path, query, suffix].concat();
    }
    if path.starts_with(b"/") {
        return [&without_dots(path), suffix].concat();
    }
    let directory_end = base_path.iter().rposition(|b| *b == b'/');
    let directory = &base_path[..directory_end.map_or(0, |at| at + 1)];
    [&without_dots(&[directory, path].concat()), suffix].concat()
}

/// True if a path has a `.` or `..` segment, even percent-encoded as browsers accept it (WHATWG URL,
/// "double-dot URL path segment").
pub(crate) fn has_dots(path: &[u8]) -> bool {
    path.split(|b| *b == b'/')
        .any(|segment| dots(segment).is_some())
}

/// Number of dots in a segment that consists of one or two dots.
fn dots(segment: &[u8]) -> Option<usize> {
    let mut rest = segment;
    let mut count = 0;
    while !rest.is_empty() && count < 3 {
        rest = match rest {
            [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
            _ => return None,
        };
        count += 1;
    }
    (1..=2).contains(&count).then_some(count)
}

/// Removes `.` and `..` from an absolute path (RFC 3986, section 5.2.4).
fn without_dots(path: &[u8]) -> Vec<u8> {
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut parts = path.split(|b| *b == b'/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        let dots = dots(part);
        match dots {
            Some(1) => {}
            Some(_) => {
                segments.pop();
            }
            None => segments.push(part),
        }
        if last && dots.is_some() {
            segments.push(b"");
        }
    }
    segments
        .iter()
        .flat_map(|segment| [b"/", *segment].concat())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_resolve_as_the_standard_shows() {
        // RFC 3986, section 5.4, without the examples that have a scheme or an authority.
        for (reference, expected) in [
            ("g", "/b/c/g"),
            ("./g", "/b/c/g"),
            ("g/", "/b/c/g/"),
            ("/g", "/g"),
            ("?y", "/b/c/d;p?y"),
            ("g?y", "/b/c/g?y"),
            ("#s", "/b/c/d;p?q#s"),
            ("g#s", "/b/c/g#s"),
            ("g?y#s", "/b/c/g?y#s"),
            (";x", "/b/c/;x"),
            ("", "/b/c/d;p?q"),
            (".", "/b/c/"),
            ("./", "/b/c/"),
            ("..", "/b/"),
            ("../g", "/b/g"),
            ("../../g", "/g"),
            ("../../../g", "/g"),
            ("/./g", "/g"),
            ("/../g", "/g"),
            ("g.", "/b/c/g."),
            ("..g", "/b/c/..g"),
            ("./g/.", "/b/c/g/"),
            ("g/../h", "/b/c/h"),
            ("g;x=1/../y", "/b/c/y"),
            ("g?y/../x", "/b/c/g?y/../x"),
            ("%2E%2e/g", "/b/g"),
            (".%2e/g", "/b/g"),
        ] {
            let resolved = resolved(b"/b/c/d;p?q", reference.as_bytes());
            assert_eq!(
                String::from_utf8(resolved).unwrap(),
                expected,
                "{reference:?}"
            );
        }
    }

    #[test]
    fn dots_are_known_in_the_spellings_of_browsers() {
        for path in ["/a/..", "./a", "/%2e/a", "/a/%2E.", ".%2e"] {
            assert!(has_dots(path.as_bytes()), "{path}");
        }
        for path in ["/a/...", "/a/..b", "/%2e%2e%2e", "/%2", "", "/"] {
            assert!(!has_dots(path.as_bytes()), "{path}");
        }
    }
}
