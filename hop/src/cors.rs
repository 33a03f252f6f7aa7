//! CORS fields of an answer: they tell browsers whose pages may read it (the Fetch standard, "CORS
//! protocol"). Each hop sets them itself; a target does not know the hop's address, nor which pages
//! the hop's operator allows.

use http::header::{ACCESS_CONTROL_EXPOSE_HEADERS, HeaderName, VARY};
use http::{HeaderMap, HeaderValue};

use crate::headers::drop_where;

/// Answer fields that pages of other origins may read, beside those that CORS always allows.
const EXPOSED: [&str; 5] = [
    "Mcp-Session-Id",
    "WWW-Authenticate",
    "MCP-Protocol-Version",
    "Retry-After",
    "Location",
];

/// Longest list of field names in an answer, in bytes; further names are left out.
const LIST_BYTES_MAX: usize = 4096;

/// Prefix of all CORS fields.
const PREFIX: &str = "access-control-";

/// Drops a target's CORS permissions from its answer. The list of exposed fields stays: it permits
/// nothing by itself, and a hop that allows a page adds its own names.
pub fn drop_permissions(headers: &mut HeaderMap) {
    drop_where(headers, |name| {
        name.as_str().starts_with(PREFIX) && name != ACCESS_CONTROL_EXPOSE_HEADERS
    });
}

/// Lets pages read the fields that MCP clients need, beside those that the answer exposes already.
pub fn expose(headers: &mut HeaderMap) {
    let listed = headers.get_all(ACCESS_CONTROL_EXPOSE_HEADERS);
    let list = joined(&EXPOSED, listed);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, list);
}

/// Adds request fields to the answer's `Vary`, beside those that it names already.
pub fn vary(headers: &mut HeaderMap, on: &[&str]) {
    let list = joined(on, headers.get_all(VARY));
    headers.insert(VARY, list);
}

/// One list of `ours` and of the names in `theirs` that are not in `ours`. Text that is not a field name
/// is left out; `*` counts as a name.
pub fn joined<'a>(ours: &[&str], theirs: impl IntoIterator<Item = &'a HeaderValue>) -> HeaderValue {
    let mut list = ours.join(", ");
    let mut names: Vec<String> = ours.iter().map(|it| it.to_ascii_lowercase()).collect();
    let values = theirs.into_iter().filter_map(|value| value.to_str().ok());
    for name in values.flat_map(|value| value.split(',')).map(str::trim) {
        if list.len() + name.len() + 2 > LIST_BYTES_MAX {
            break;
        }
        let is_name = HeaderName::from_bytes(name.as_bytes()).is_ok();
        let folded = name.to_ascii_lowercase();
        if is_name && !names.contains(&folded) {
            if !list.is_empty() {
                list.push_str(", ");
            }
            list.push_str(name);
            names.push(folded);
        }
    }
    // Cannot fail: the list holds only field names and commas.
    HeaderValue::from_str(&list).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(lines: &[&'static str]) -> Vec<HeaderValue> {
        lines
            .iter()
            .map(|it| HeaderValue::from_static(it))
            .collect()
    }

    #[test]
    fn lists_are_joined_and_each_name_is_there_once() {
        for (theirs, expected) in [
            (&[][..], "Origin"),
            (
                &["Accept-Encoding, origin", "accept-encoding"],
                "Origin, Accept-Encoding",
            ),
            (&["*"], "Origin, *"),
            (&["a b, ,x@y,\"z\""], "Origin"),
        ] {
            assert_eq!(joined(&["Origin"], &values(theirs)), expected, "{theirs:?}");
        }
    }

    #[test]
    fn a_long_list_is_not_repeated_without_end() {
        let long: Vec<_> = (0..3000).map(|n| format!("x-{n}")).collect();
        let value = HeaderValue::from_str(&long.join(",")).unwrap();
        let list = joined(&EXPOSED, [&value]);
        assert!((4000..=LIST_BYTES_MAX).contains(&list.len()));
    }

    #[test]
    fn what_a_target_permits_is_dropped_and_what_it_exposes_is_joined_with_ours() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("access-control-allow-origin", "*"),
            ("access-control-allow-origin", "https://evil.example"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-private-network", "true"),
            ("access-control-expose-headers", "X-Total, mcp-session-id"),
            ("access-control-expose-headers", "x-rate"),
            ("x-total", "3"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        drop_permissions(&mut headers);
        expose(&mut headers);
        let list = "Mcp-Session-Id, WWW-Authenticate, MCP-Protocol-Version, Retry-After, Location, \
                    X-Total, x-rate";
        assert_eq!(headers[ACCESS_CONTROL_EXPOSE_HEADERS], list);
        assert_eq!(headers.len(), 2, "{headers:?}");
    }
}
