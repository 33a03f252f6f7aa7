//! Web pages as callers: whose scripts may read answers, and what browsers are told about it.
//!
//! A browser says in `Origin` whose page asks. Pages of the relay's own origin may, and those that
//! the operator lists; the rules are the Fetch standard's ("CORS protocol").

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderName, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use tieline_hop::headers::EXPOSED;

use super::problem::Problem;
use super::route::{host, is_ours_anywhere};

/// What a page may send: everything that MCP clients do.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");

/// Fields that a page may send, beside those that begin with [`MCP_FIELDS`].
const FIELDS: &[&str] = &[
    "accept",
    "authorization",
    "content-type",
    "last-event-id",
    "mcp-protocol-version",
    "mcp-session-id",
    "traceparent",
    "tracestate",
    "baggage",
];

/// MCP's own fields, `Mcp-Param-*` and those to come.
const MCP_FIELDS: &str = "mcp-";

/// Longest list of further fields that an answer repeats, in bytes.
const ASKED_BYTES_MAX: usize = 4096;

/// Seconds for which a browser need not ask again: what Firefox takes at most is a day, Chromium
/// two hours.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// Pages from elsewhere that may use the relay's tunnels.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins {
    listed: Vec<String>,
    any: bool,
}

impl Origins {
    /// Those of `listed`, as browsers write them; `*` stands for all.
    pub(crate) fn new(listed: Vec<String>) -> Self {
        let any = listed.iter().any(|one| one == "*");
        Self { listed, any }
    }

    fn has(&self, origin: &[u8]) -> bool {
        self.any
            || self
                .listed
                .iter()
                .any(|one| one.as_bytes().eq_ignore_ascii_case(origin))
    }
}

/// Whose script asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// No page at all, or one of the relay's own origin.
    Own,
    /// One from elsewhere that may.
    Allowed(HeaderValue),
    /// One that may not.
    Refused,
}

/// Reads `Origin` in a request to `authority`.
///
/// `is_known` says that the authority is a name which only the relay can have: a page can give
/// itself any other one that leads here (DNS rebinding), and would then look like the relay's own.
pub(super) fn page(
    headers: &HeaderMap,
    authority: &str,
    is_known: bool,
    https: bool,
    origins: &Origins,
) -> Page {
    let mut values = headers.get_all(ORIGIN).iter();
    let Some(origin) = values.next() else {
        return Page::Own;
    };
    if values.next().is_some() {
        return Page::Refused;
    }
    if is_same(origin.as_bytes(), authority, is_known, https) {
        return Page::Own;
    }
    if origins.has(origin.as_bytes()) {
        return Page::Allowed(origin.clone());
    }
    Page::Refused
}

fn is_same(origin: &[u8], authority: &str, is_known: bool, https: bool) -> bool {
    let scheme: &[u8] = if https { b"https://" } else { b"http://" };
    let Some(named) = origin.strip_prefix(scheme) else {
        return false;
    };
    let default = if https { ":443" } else { ":80" };
    let short = authority.strip_suffix(default).unwrap_or(authority);
    let is_ours = is_known || host(authority).is_some_and(is_ours_anywhere);
    is_ours && named.eq_ignore_ascii_case(short.as_bytes())
}

/// True if a browser asks whether it may send the request that a script wants.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// What a browser is told that asks first. It says nothing about the tunnel, which may not be the
/// page's to know of.
pub(super) fn preflight(asked: &HeaderMap) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, fields(asked));
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    response
}

/// The fields that may be sent, among them the asked-for ones that are MCP's.
fn fields(asked: &HeaderMap) -> HeaderValue {
    let mut list = FIELDS.join(", ");
    let asked = asked.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter();
    for value in asked.filter_map(|value| value.to_str().ok()) {
        for name in value.split(',').map(str::trim) {
            let is_mcp = name
                .get(..MCP_FIELDS.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(MCP_FIELDS));
            let is_new = !FIELDS.iter().any(|one| one.eq_ignore_ascii_case(name));
            let fits = list.len() + name.len() < ASKED_BYTES_MAX;
            if is_mcp && is_new && fits && HeaderName::from_bytes(name.as_bytes()).is_ok() {
                list.push_str(", ");
                list.push_str(name);
            }
        }
    }
    // Names of fields and commas.
    HeaderValue::from_str(&list).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Marks an answer for the page that may read it; what the target says of pages is about its own
/// address, which the page does not know.
pub(super) fn mark(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
    headers.append(VARY, HeaderValue::from_static("origin"));
}

/// What a page hears that may not ask.
pub(super) fn refusal() -> Problem {
    Problem::forbidden(
        "origin_not_allowed",
        "pages of this origin may not use this relay; its operator can list them: --allow-origin",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(lines: &[(HeaderName, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    fn page_of(origin: &str, authority: &str, is_known: bool, listed: &[&str]) -> Page {
        let origins = Origins::new(listed.iter().map(|&it| it.to_owned()).collect());
        let headers = asked(&[(ORIGIN, origin)]);
        page(&headers, authority, is_known, false, &origins)
    }

    #[test]
    fn no_page_and_pages_of_the_relay_itself_may_ask() {
        let origins = Origins::default();
        let none = page(&HeaderMap::new(), "relay.example", false, false, &origins);
        assert_eq!(none, Page::Own);
        for (origin, authority, is_known) in [
            ("http://relay.example:9080", "relay.example:9080", true),
            ("http://Relay.example", "relay.example:80", true),
            ("http://127.0.0.1:9080", "127.0.0.1:9080", false),
            ("http://localhost:9080", "localhost:9080", false),
        ] {
            let page = page_of(origin, authority, is_known, &[]);
            assert_eq!(page, Page::Own, "{origin}");
        }
    }

    #[test]
    fn a_page_that_gave_itself_a_name_is_none_of_the_relays_own() {
        for (origin, authority) in [
            ("http://evil.example:9080", "evil.example:9080"),
            ("http://evil.example", "127.0.0.1:9080"),
            ("https://127.0.0.1:9080", "127.0.0.1:9080"),
            ("http://127.0.0.1:1", "127.0.0.1:9080"),
            ("null", "127.0.0.1:9080"),
        ] {
            let page = page_of(origin, authority, false, &[]);
            assert_eq!(page, Page::Refused, "{origin}");
        }
    }

    #[test]
    fn listed_pages_may_ask() {
        let allowed = |origin: &str| Page::Allowed(origin.parse().unwrap());
        let origin = "https://app.example";
        let list = &["https://app.example"];
        assert_eq!(page_of(origin, "r", false, list), allowed(origin));
        assert_eq!(page_of(origin, "r", false, &["*"]), allowed(origin));
        let other = "https://app.example.evil.example";
        assert_eq!(page_of(other, "r", false, list), Page::Refused);
        let two = asked(&[(ORIGIN, origin), (ORIGIN, "https://evil.example")]);
        let mut both = two;
        both.append(ORIGIN, HeaderValue::from_static("https://evil.example"));
        let origins = Origins::new(vec![origin.to_owned()]);
        assert_eq!(page(&both, "r", false, false, &origins), Page::Refused);
    }

    #[test]
    fn a_preflight_allows_what_mcp_clients_send() {
        let ask = asked(&[
            (ORIGIN, "https://app.example"),
            (ACCESS_CONTROL_REQUEST_METHOD, "POST"),
            (
                ACCESS_CONTROL_REQUEST_HEADERS,
                "authorization,Mcp-Param-Region, x-evil,mcp-session-id,mcp-b@d",
            ),
        ]);
        assert!(is_preflight(&Method::OPTIONS, &ask));
        assert!(!is_preflight(&Method::POST, &ask));
        let answer = preflight(&ask);
        let fields = answer.headers()[ACCESS_CONTROL_ALLOW_HEADERS]
            .to_str()
            .unwrap();
        for wanted in [
            "authorization",
            "mcp-session-id",
            "last-event-id",
            "Mcp-Param-Region",
        ] {
            assert!(fields.split(", ").any(|it| it == wanted), "{fields}");
        }
        assert!(
            !fields.contains("evil") && !fields.contains('@'),
            "{fields}"
        );
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    }

    #[test]
    fn a_long_list_of_fields_is_not_repeated_without_end() {
        let long = (0..3000).map(|n| format!("mcp-{n}")).collect::<Vec<_>>();
        let ask = asked(&[(ACCESS_CONTROL_REQUEST_HEADERS, &long.join(","))]);
        assert!(fields(&ask).len() < ASKED_BYTES_MAX + 64);
    }
}
