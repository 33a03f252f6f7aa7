//! Web pages as callers: which origins may read answers, and the CORS fields that tell browsers so.
//!
//! A browser names the page's origin in `Origin`. The relay's own origin and the origins that the operator
//! lists are allowed; the rules are those of the Fetch standard ("CORS protocol").

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderName, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use tieline_hop::{browser, cors};

use crate::listen::http::gateway::settings::Origins;
use crate::listen::http::inbound::url::{host, is_ours_anywhere};
use crate::listen::http::problem::Problem;

/// Methods that a page may use, besides the method that its preflight names.
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

/// Fields that a page may send, besides the fields that its preflight names.
const FIELDS: [&str; 9] = [
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

/// Longest method name that a preflight answer repeats, in bytes.
const METHOD_BYTES_MAX: usize = 32;

/// Fetch metadata: how the browser will use the answer.
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Seconds for which a browser may cache a preflight answer; Chromium's maximum (Firefox allows a day).
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// Origin of the web page behind a request, and whether it may use the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// No web page, or a page of the relay's own origin.
    Own,
    /// A page of another origin that is listed.
    Allowed(HeaderValue),
    /// A page of another origin that is not listed.
    Refused,
}

impl Page {
    /// Refuses a page of another origin that is not listed.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        match self {
            Self::Own | Self::Allowed(_) => Ok(()),
            Self::Refused => Err(refusal()),
        }
    }
}

/// Checks `Origin` in a request to `authority`.
///
/// `is_known` says that only the relay can have the name `authority`. With DNS rebinding, a page can make
/// any other name resolve to the relay, and would then seem to have the relay's own origin.
pub(crate) fn page(
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

/// True for a cross-origin request without `Origin`, as browsers send for images, scripts, forms and
/// links. The page's origin is unknown, so only the list entry `*` allows it.
///
/// A same-site request counts as cross-origin: on this machine another port belongs to another program, and
/// below a domain another label belongs to another tunnel. A link to a remote relay (`is_here` is false) is
/// allowed, since the user followed it.
pub(crate) fn is_blind(headers: &HeaderMap, is_here: bool, origins: &Origins) -> bool {
    let mut modes = headers.get_all(SEC_FETCH_MODE).iter();
    let is_link = !is_here && modes.any(|mode| mode.as_bytes().eq_ignore_ascii_case(b"navigate"));
    let is_foreign = browser::is_foreign(headers, &["none", "same-origin"]);
    !headers.contains_key(ORIGIN) && is_foreign && !is_link && !origins.has_all()
}

fn is_same(origin: &[u8], authority: &str, is_known: bool, https: bool) -> bool {
    let scheme: &[u8] = if https { b"https://" } else { b"http://" };
    let Some(origin_authority) = origin.strip_prefix(scheme) else {
        return false;
    };
    let default = if https { ":443" } else { ":80" };
    let short = authority.strip_suffix(default).unwrap_or(authority);
    let is_ours = is_known || host(authority).is_some_and(is_ours_anywhere);
    is_ours && origin_authority.eq_ignore_ascii_case(short.as_bytes())
}

/// True for a CORS preflight, by which a browser asks whether a script may send its request.
pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Answer to a CORS preflight. It reveals nothing about the tunnel, which may be hidden from the page.
pub(crate) fn preflight(request: &HeaderMap) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods(request));
    // All requested fields are allowed: the origin was checked before, and fields that targets must not
    // see are removed from the request itself.
    let fields = cors::joined(&FIELDS, request.get_all(ACCESS_CONTROL_REQUEST_HEADERS));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, fields);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    let on = [
        ACCESS_CONTROL_REQUEST_METHOD,
        ACCESS_CONTROL_REQUEST_HEADERS,
    ];
    cors::vary(headers, &on.each_ref().map(HeaderName::as_str));
    response
}

/// Allowed methods, including the requested method.
fn methods(request: &HeaderMap) -> HeaderValue {
    let method = request
        .get(ACCESS_CONTROL_REQUEST_METHOD)
        .map(HeaderValue::as_bytes)
        .filter(|name| name.len() <= METHOD_BYTES_MAX)
        .and_then(|name| Method::from_bytes(name).ok());
    let mut list = METHODS.join(", ");
    if let Some(method) = method.filter(|method| !METHODS.contains(&method.as_str())) {
        list.push_str(", ");
        list.push_str(method.as_str());
    }
    // Always valid: the list consists of method names and commas.
    HeaderValue::from_str(&list).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Adds the CORS permission for an allowed page, and `Vary: Origin` to every answer: a cache must not give a
/// page an answer that was made for another origin, or for a request without `Origin`.
pub(crate) fn add_cors(headers: &mut HeaderMap, page: Page) {
    if let Page::Allowed(origin) = page {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        cors::expose(headers);
    }
    match headers.contains_key(VARY) {
        true => cors::vary(headers, &["Origin"]),
        false => drop(headers.insert(VARY, HeaderValue::from_static("Origin"))),
    }
}

/// Answer to a page that may not use the relay.
fn refusal() -> Problem {
    Problem::forbidden(
        "origin_not_allowed",
        "pages of this origin may not use this relay; its operator can list them: --allow-origin",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header_map(lines: &[(HeaderName, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    fn page_of(origin: &str, authority: &str, is_known: bool, listed: &[&str]) -> Page {
        let origins = Origins(listed.iter().map(|&it| it.to_owned()).collect());
        let headers = header_map(&[(ORIGIN, origin)]);
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
        let two = header_map(&[(ORIGIN, origin), (ORIGIN, "https://evil.example")]);
        let mut both = two;
        both.append(ORIGIN, HeaderValue::from_static("https://evil.example"));
        let origins = Origins(vec![origin.to_owned()]);
        assert_eq!(page(&both, "r", false, false, &origins), Page::Refused);
    }

    #[test]
    fn a_preflight_allows_what_mcp_clients_send_and_what_is_asked_for() {
        let request = header_map(&[
            (ORIGIN, "https://app.example"),
            (ACCESS_CONTROL_REQUEST_METHOD, "REPORT"),
            (
                ACCESS_CONTROL_REQUEST_HEADERS,
                "authorization,Mcp-Param-Region, x-api-key,x-target-authorization,b@d",
            ),
        ]);
        assert!(is_preflight(&Method::OPTIONS, &request));
        assert!(!is_preflight(&Method::POST, &request));
        let answer = preflight(&request);
        let list = |name: HeaderName| answer.headers()[name].to_str().unwrap().to_owned();
        let fields = list(ACCESS_CONTROL_ALLOW_HEADERS);
        for wanted in [
            "authorization",
            "mcp-session-id",
            "last-event-id",
            "Mcp-Param-Region",
            "x-api-key",
            "x-target-authorization",
        ] {
            assert_eq!(
                fields.split(", ").filter(|it| *it == wanted).count(),
                1,
                "{fields}"
            );
        }
        assert!(!fields.contains('@'), "{fields}");
        assert!(list(ACCESS_CONTROL_ALLOW_METHODS).ends_with("DELETE, REPORT"));
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    }

    #[test]
    fn a_method_that_is_none_is_not_repeated() {
        let long = "X".repeat(METHOD_BYTES_MAX + 1);
        for method in ["GET", "G\"T", "", &long] {
            let request = header_map(&[(ACCESS_CONTROL_REQUEST_METHOD, method)]);
            assert_eq!(
                methods(&request),
                "GET, HEAD, POST, PUT, PATCH, DELETE",
                "{method}"
            );
        }
    }

    #[test]
    fn what_another_sites_page_has_its_browser_ask_is_noticed() {
        let blind = |lines: &[(&'static str, &str)], is_here, listed: &[&str]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, value.parse().unwrap());
            }
            let origins = Origins(listed.iter().map(|&it| it.to_owned()).collect());
            is_blind(&headers, is_here, &origins)
        };
        let picture = &[
            ("sec-fetch-site", "Cross-Site"),
            ("sec-fetch-mode", "no-cors"),
        ];
        let link = &[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
        ];
        let twice = &[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")];
        let app = &["https://app.example"];
        assert!(blind(picture, true, &[]) && blind(picture, false, app) && blind(twice, true, app));
        assert!(blind(link, true, &[]));
        assert!(!blind(link, false, &[]));
        assert!(!blind(picture, true, &["*"]));
        for site in ["none", "same-origin"] {
            assert!(!blind(&[("sec-fetch-site", site)], true, &[]), "{site}");
        }
        for site in ["same-site", "Same-Site", "x", ""] {
            let line = ("sec-fetch-site", site);
            assert!(
                blind(&[line], true, app) && blind(&[line], false, &[]),
                "{site}"
            );
            assert!(blind(&[line, link[1]], true, &[]) && !blind(&[line, link[1]], false, &[]));
            assert!(!blind(
                &[("origin", "https://app.example"), line],
                true,
                &[]
            ));
        }
        let named = [("origin", "https://app.example"), picture[0]];
        assert!(!blind(&named, true, &[]) && !blind(&[], true, &[]));
    }

    #[test]
    fn a_cache_is_told_that_answers_depend_on_the_page() {
        let with_cors = |page, vary: &[&str]| {
            let vary = vary.iter().map(|value| (VARY, *value));
            let exposed = (http::header::ACCESS_CONTROL_EXPOSE_HEADERS, "x-total");
            let mut headers = header_map(&vary.chain([exposed]).collect::<Vec<_>>());
            add_cors(&mut headers, page);
            headers
        };
        let (app, theirs) = ("https://app.example", &["Accept-Encoding"][..]);
        let headers = with_cors(Page::Allowed(app.parse().unwrap()), theirs);
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], app);
        assert_eq!(headers[VARY], "Origin, Accept-Encoding");
        let exposed = headers[http::header::ACCESS_CONTROL_EXPOSE_HEADERS]
            .to_str()
            .unwrap();
        assert!(exposed.starts_with("Mcp-Session-Id, ") && exposed.ends_with(", x-total"));
        for page in [Page::Own, Page::Refused] {
            let headers = with_cors(page.clone(), theirs);
            assert_eq!(headers[VARY], "Origin, Accept-Encoding");
            assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
            assert_eq!(with_cors(page, &[])[VARY], "Origin");
        }
    }
}
