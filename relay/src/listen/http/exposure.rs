//! Which paths of a target callers may ask for.

use super::route::split_well_known;

/// Rounds of decoding after which a path that still changes is taken for an attack.
const DECODINGS_MAX: usize = 4;

/// True if `path`, with or without a query, lies under `base`, or is metadata about what does.
///
/// A path that climbs (`..`, also where it is encoded) does not, wherever it would end: the target
/// may take it apart in another way.
pub(super) fn is_exposed(base: &str, path: &str) -> bool {
    if base.is_empty() {
        return true;
    }
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    if climbs(path) {
        return false;
    }
    let (well_known, path) = split_well_known(path);
    match path.strip_prefix(base) {
        Some(rest) => rest.is_empty() || rest.starts_with('/'),
        None => !well_known.is_empty() && matches!(path, "" | "/"),
    }
}

/// True if a server could read a `.` or `..` segment in it.
fn climbs(path: &str) -> bool {
    let mut path = path.as_bytes().to_vec();
    for _ in 0..DECODINGS_MAX {
        let dots = |segment: &[u8]| matches!(segment, b"." | b"..");
        // What follows a semicolon is a parameter to some servers (RFC 3986, section 3.3).
        let segments = path.split(|b| matches!(b, b'/' | b'\\'));
        if segments
            .filter_map(|segment| segment.split(|b| *b == b';').next())
            .any(dots)
        {
            return true;
        }
        match decoded(&path) {
            Some(next) => path = next,
            None => return false,
        }
    }
    true
}

/// The path with its percent signs resolved once; `None` if it has none that could be.
fn decoded(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((byte, behind)) = rest.split_first() {
        let hex = (*byte == b'%').then(|| behind.get(..2)).flatten();
        let value = hex
            .and_then(|hex| str::from_utf8(hex).ok())
            .filter(|hex| !hex.starts_with('+'))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match value {
            Some(value) => {
                out.push(value);
                rest = &behind[2..];
            }
            None => {
                out.push(*byte);
                rest = behind;
            }
        }
    }
    (out.len() < path.len()).then_some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_lies_under_the_base_is_exposed_and_nothing_beside_it() {
        for path in [
            "/mcp",
            "/mcp/",
            "/mcp/a/b",
            "/mcp?x=/../",
            "/mcp/%C3%A4",
            "/mcp/...",
            "/mcp/100%",
            "/.well-known/oauth-protected-resource",
            "/.well-known/oauth-protected-resource/mcp",
            "/.well-known/openid-configuration/?x",
        ] {
            assert!(is_exposed("/mcp", path), "{path}");
        }
        for path in [
            "/",
            "",
            "/mcpx",
            "/MCP",
            "/admin",
            "/.well-known/x",
            "/.well-known/oauth-protected-resource/admin",
        ] {
            assert!(!is_exposed("/mcp", path), "{path}");
        }
        assert!(is_exposed("", "/anything/../at/all"));
    }

    #[test]
    fn no_spelling_of_dots_leads_out() {
        for path in [
            "/mcp/..",
            "/mcp/../admin",
            "/mcp/./x",
            "/mcp/%2e%2E/admin",
            "/mcp/.%2e/admin",
            "/mcp/%2e%2e%2fadmin",
            "/mcp/..%5cadmin",
            "/mcp\\..\\admin",
            "/mcp/%252e%252e/admin",
            "/mcp/%25252e%25252e/admin",
            "/mcp/..;x=1/admin",
            "/mcp/%2525252525252e./x",
        ] {
            assert!(!is_exposed("/mcp", path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic(path in "\\PC{0,40}", base in "(/[a-z]{1,5})?") {
            let _ = is_exposed(&base, &path);
        }
    }
}
