//! Header rules of a gateway: fields of one connection are dropped, fields that frame a body are
//! checked, all others pass untouched.

use std::time::Duration;

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, HeaderName, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use hyper::ext::ReasonPhrase;

use crate::refusal::Refusal;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Fields of one connection (RFC 9110, section 7.6.1). `Trailer` is left out: it announces
/// trailers, and those pass.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Refuses a request that cannot be passed on without changing its meaning; true if it asks for a WebSocket. `has_body`
/// says that a body follows the head.
///
/// # Errors
/// The refusal to answer with.
pub fn check_request_or_upgrade(
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
    has_body: bool,
) -> Result<bool, Refusal> {
    check_head(method, uri, version, headers)?;
    // A server may ignore an offer to upgrade (RFC 9110, section 7.8). Some clients offer HTTP/2
    // with every first request and accept HTTP/1.1 as well; a WebSocket client does not.
    if !wants_websocket(headers) {
        return Ok(false);
    }
    if version != Version::HTTP_11 {
        let why = "a WebSocket needs a connection of HTTP/1.1 here";
        return Err(unsupported_upgrade(why));
    }
    // Servers disagree on where the new protocol begins if there is a body (RFC 9110, section 7.8).
    if *method != Method::GET || has_body {
        let why = "a request for a WebSocket is a GET without a body";
        return Err(unsupported_upgrade(why));
    }
    if !names_upgrade(headers) {
        let why = "a request for a WebSocket has the fields `Upgrade: websocket` and `Connection: Upgrade`";
        return Err(Refusal::bad_request(why));
    }
    Ok(true)
}

const fn unsupported_upgrade(why: &'static str) -> Refusal {
    Refusal::unsupported("upgrade_unsupported", why)
}

/// Whether a head asks for a WebSocket, perhaps among other protocols.
fn wants_websocket(headers: &HeaderMap) -> bool {
    let websocket = |value: &HeaderValue| tokens(value).any(|t| is(t, b"websocket"));
    headers.get_all(UPGRADE).iter().any(websocket)
}

/// Whether `Connection` names `Upgrade`, as it must beside that field.
fn names_upgrade(headers: &HeaderMap) -> bool {
    let named = |value: &HeaderValue| tokens(value).any(|t| is(t, b"upgrade"));
    headers.get_all(CONNECTION).iter().any(named)
}

/// Refuses a head that cannot be passed on without changing its meaning.
fn check_head(
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    if *method == Method::CONNECT {
        let why = "this server is not a forward proxy: a tunnel's URL is /w/<tunnel>/<path>";
        return Err(Refusal::unsupported("connect_unsupported", why));
    }
    let hosts = headers.get_all(HOST).iter().count();
    // A URL and a `Host` that differ are malformed (RFC 9113, section 8.3.1). RFC 9112, section 3.2.2, has
    // the URL win; a server behind this hop may prefer `Host`.
    let named_twice = uri
        .authority()
        .zip(headers.get(HOST))
        .is_some_and(|(authority, host)| !is(host.as_bytes(), authority.as_str().as_bytes()));
    // RFC 9112, section 3.2: a server must refuse HTTP/1.1 without `Host`, and more than one `Host`.
    if hosts > 1 || (hosts == 0 && version == Version::HTTP_11) || named_twice {
        return Err(Refusal::bad_request("a request must name exactly one host"));
    }
    if !chunked_or_absent(headers) {
        let why = "the only supported transfer coding is a single chunked";
        return Err(Refusal::unsupported("coding_unsupported", why));
    }
    Ok(())
}

/// Refuses an answer that cannot be passed on without changing its meaning.
///
/// # Errors
/// The rule that the answer breaks.
pub fn check_answer(status: StatusCode, headers: &HeaderMap) -> Result<(), &'static str> {
    if status.is_informational() {
        return Err("it switches protocols, which the request did not ask for");
    }
    if !chunked_or_absent(headers) {
        return Err("its transfer coding is not a single chunked");
    }
    Ok(())
}

/// Refuses a `101 Switching Protocols` that does not switch to WebSocket alone.
///
/// # Errors
/// The rule that the answer breaks.
pub fn check_switch(headers: &HeaderMap) -> Result<(), &'static str> {
    let mut values = headers.get_all(UPGRADE).iter();
    let is_websocket = values
        .next()
        .is_some_and(|value| is(value.as_bytes().trim_ascii(), b"websocket"));
    if !is_websocket || values.next().is_some() || !names_upgrade(headers) {
        return Err("it switches to another protocol than WebSocket");
    }
    Ok(())
}

/// Writes the fields of one connection that switch it to WebSocket, into a head without such fields.
pub fn switch_to_websocket(headers: &mut HeaderMap) {
    headers.remove(TE);
    headers.remove(TRANSFER_ENCODING);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// The subprotocols that a request for a WebSocket offers (RFC 6455, section 11.3.4).
pub fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let lists = values.filter_map(|value| value.to_str().ok());
    let members = lists.flat_map(|list| list.split(',')).map(str::trim);
    members.filter(|member| !member.is_empty())
}

/// True if `Transfer-Encoding` is absent or exactly `chunked`, the only coding that hyper decodes.
fn chunked_or_absent(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(TRANSFER_ENCODING).iter();
    match (values.next(), values.next()) {
        (None, _) => true,
        (Some(only), None) => is(only.as_bytes().trim_ascii(), b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// Adapts a request's headers to the connection to the next hop. `length` is the body's length,
/// `None` if it is unknown.
pub fn for_next_hop(headers: &mut HeaderMap, version: Version, length: Option<u64>) {
    let trailers = headers.get_all(TE).iter().any(|value| {
        // `trailers;q=0` is invalid: the keyword takes no weight (RFC 9110, section 10.1.4).
        tokens(value).any(|token| is(token, b"trailers"))
    });
    drop_hop_by_hop(headers);
    join_cookies(headers);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    match length {
        // hyper keeps an existing field, and over HTTP/2 there may be several, or an empty one.
        Some(length) if headers.contains_key(CONTENT_LENGTH) => {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        Some(_) => {}
        None => {
            headers.remove(CONTENT_LENGTH);
            // Set explicitly, else hyper sends a GET with a body of unknown length without the body.
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    // An HTTP/1.0 expectation must be ignored, and a request without a body must not carry one
    // (RFC 9110, section 10.1.1).
    if version == Version::HTTP_10 || length == Some(0) {
        headers.remove(EXPECT);
    }
}

/// Adapts an answer's headers to the caller's connection. `length` as in [`for_next_hop`].
pub fn for_caller(headers: &mut HeaderMap, length: Option<u64>) {
    // A transfer coding overrides a length; the two must not be passed on together (RFC 9112,
    // section 6.3).
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    drop_hop_by_hop(headers);
    // hyper has checked that repeated lengths agree; the caller gets a single one.
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let is_list = lengths
        .next()
        .is_some_and(|value| value.as_bytes().contains(&b','));
    let is_repeated = is_list || lengths.next().is_some();
    if let Some(length) = length.filter(|_| is_repeated) {
        headers.insert(CONTENT_LENGTH, length.into());
    }
}

/// Extensions of an answer that hyper's server needs to pass it on: the reason phrase. The others describe
/// how hyper's client read the answer, which does not hold for the caller's connection.
#[must_use]
pub fn kept_extensions(read: &Extensions) -> Extensions {
    let mut kept = Extensions::new();
    if let Some(reason) = read.get::<ReasonPhrase>() {
        kept.insert(reason.clone());
    }
    kept
}

/// The media type of a body, without parameters; empty if the head does not say it.
#[must_use]
pub fn media_type(headers: &HeaderMap) -> &[u8] {
    let value = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    without_parameters(value.unwrap_or_default())
}

/// A media type without its parameters.
pub(crate) fn without_parameters(media_type: &[u8]) -> &[u8] {
    let essence = media_type.split(|b| *b == b';').next();
    essence.unwrap_or_default().trim_ascii()
}

/// True if an answer's `Content-Type` is JSON.
#[must_use]
pub fn is_json(headers: &HeaderMap) -> bool {
    let media_type = media_type(headers).to_ascii_lowercase();
    media_type == b"application/json" || media_type.ends_with(b"+json")
}

/// True if the request waits for `100 Continue` before it sends its body.
#[must_use]
pub fn expects_continue(headers: &HeaderMap) -> bool {
    headers
        .get(EXPECT)
        .is_some_and(|value| is(value.as_bytes(), b"100-continue"))
}

/// The token in a value of `Authorization`, if its scheme is Bearer (RFC 6750, section 2.1).
#[must_use]
pub fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Idle timeout that the next hop announces in `Keep-Alive`.
#[must_use]
pub fn kept_alive_for(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    let parameter = |text: &str| {
        let (name, value) = text.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("timeout")
            .then(|| value.trim().parse().ok())?
    };
    value
        .split(',')
        .find_map(parameter)
        .map(Duration::from_secs)
}

/// Joins cookies that HTTP/2 sends in separate fields (RFC 9113, section 8.2.3): HTTP/1.1 servers
/// read only the first field.
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<_> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if crumbs.len() < 2 {
        return;
    }
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, cookie);
    }
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let connection: Vec<_> = headers.get_all(CONNECTION).iter().cloned().collect();
    for token in connection.iter().flat_map(tokens) {
        if let Ok(name) = HeaderName::from_bytes(token) {
            headers.remove(name);
        }
    }
    // Most messages have none of these fields: comparing names costs less than looking each one up.
    drop_where(headers, |name| HOP_BY_HOP.contains(name));
}

/// Drops the fields whose name `is_dropped` accepts.
pub fn drop_where(headers: &mut HeaderMap, is_dropped: impl Fn(&HeaderName) -> bool) {
    let names = headers.keys().filter(|name| is_dropped(name));
    for name in names.cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
}

/// Members of a comma-separated value.
fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value
        .as_bytes()
        .split(|b| *b == b',')
        .map(<[u8]>::trim_ascii)
}

fn is(text: &[u8], word: &[u8]) -> bool {
    text.eq_ignore_ascii_case(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn sent(lines: &[(&str, &str)], length: Option<u64>) -> HeaderMap {
        let mut headers = headers(lines);
        for_next_hop(&mut headers, Version::HTTP_11, length);
        headers
    }

    #[test]
    fn a_bearer_token_is_read_in_any_spelling() {
        for value in ["Bearer t", "bearer t", "BEARER  t ", "Bearer \tt"] {
            assert_eq!(bearer(value), Some("t"), "{value:?}");
        }
        assert_eq!(bearer("Bearer "), Some(""));
        for value in ["Basic t", "Bearer", "Bearer\tt", " Bearer t", "t", ""] {
            assert_eq!(bearer(value), None, "{value:?}");
        }
    }

    #[test]
    fn what_connection_names_is_dropped_and_the_rest_passes() {
        let passed = sent(
            &[
                ("connection", "close, X-Private"),
                ("connection", "keep-alive,x-other,, ,b@d"),
                ("x-private", "1"),
                ("x-other", "1"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("upgrade", "h2c"),
                ("mcp-param-x", "kept"),
                ("authorization", "kept"),
            ],
            Some(0),
        );
        let expected = headers(&[("mcp-param-x", "kept"), ("authorization", "kept")]);
        assert_eq!(passed, expected);
    }

    #[test]
    fn a_length_is_written_anew() {
        for lengths in [&["2"][..], &["02"], &["2", "2"], &["2", ""]] {
            let lines: Vec<_> = lengths.iter().map(|it| ("content-length", *it)).collect();
            assert_eq!(sent(&lines, Some(2)), headers(&[("content-length", "2")]));
        }
        assert_eq!(
            sent(&[("content-length", "")], Some(0))[CONTENT_LENGTH],
            "0"
        );
        assert!(sent(&[], Some(0)).is_empty());
    }

    #[test]
    fn te_is_kept_only_as_trailers_and_named_in_connection() {
        let passed = sent(
            &[("te", "gzip;q=0.5, Trailers"), ("connection", "te")],
            Some(0),
        );
        assert_eq!(passed[TE], "trailers");
        assert_eq!(passed[CONNECTION], "te");
        assert!(!sent(&[("te", "gzip")], Some(0)).contains_key(TE));
    }

    #[test]
    fn cookies_become_one_line() {
        let passed = sent(&[("cookie", "a=1"), ("cookie", "b=2; c=3")], Some(0));
        assert_eq!(passed, headers(&[("cookie", "a=1; b=2; c=3")]));
        let one = sent(&[("cookie", "a=1")], Some(0));
        assert_eq!(one, headers(&[("cookie", "a=1")]));
    }

    #[test]
    fn a_length_beside_a_transfer_coding_never_reaches_the_caller() {
        let mut answer = headers(&[("transfer-encoding", "chunked"), ("content-length", "3")]);
        for_caller(&mut answer, None);
        assert!(answer.is_empty(), "{answer:?}");
    }

    #[test]
    fn a_repeated_length_becomes_one() {
        for lines in [
            &[("content-length", "3, 3")][..],
            &[("content-length", "3"); 2],
        ] {
            let mut answer = headers(lines);
            for_caller(&mut answer, Some(3));
            assert_eq!(answer, headers(&[("content-length", "3")]));
        }
    }

    #[test]
    fn a_request_names_exactly_one_host() {
        let word = |version, uri: &'static str, lines: &[(&str, &str)]| {
            let uri = Uri::from_static(uri);
            check_request_or_upgrade(&Method::GET, &uri, version, &headers(lines), false).err()
        };
        let one = &[("host", "a")][..];
        let uri = "http://A/x";
        assert_eq!(word(Version::HTTP_11, "/x", one), None);
        assert_eq!(word(Version::HTTP_10, "/x", &[]), None);
        assert_eq!(word(Version::HTTP_2, uri, &[]), None);
        assert_eq!(word(Version::HTTP_2, uri, one), None);
        assert_eq!(word(Version::HTTP_11, uri, one), None);
        assert_eq!(word(Version::HTTP_10, uri, &[]), None);
        for (version, uri, lines) in [
            (Version::HTTP_11, "/x", &[][..]),
            (Version::HTTP_11, uri, &[]),
            (Version::HTTP_10, "/x", &[("host", "a"); 2]),
            (Version::HTTP_2, uri, &[("host", "b")]),
            (Version::HTTP_11, uri, &[("host", "b")]),
            (Version::HTTP_11, uri, &[("host", "a:80")]),
            (Version::HTTP_11, uri, &[("host", "")]),
            (Version::HTTP_11, "http://u@a/x", one),
            (Version::HTTP_11, "a:80", one),
            (Version::HTTP_10, uri, &[("host", "b")]),
        ] {
            let refusal = word(version, uri, lines).unwrap();
            assert_eq!(refusal.word, "bad_request", "{version:?} {lines:?}");
        }
    }

    #[test]
    fn a_websocket_is_asked_for_by_a_get_without_a_body() {
        let asked = |method, version, has_body, lines: &[(&str, &str)]| {
            let mut headers = headers(lines);
            headers.insert(HOST, HeaderValue::from_static("a"));
            let uri = Uri::from_static("/x");
            let asked = check_request_or_upgrade(&method, &uri, version, &headers, has_body);
            asked.map_err(|refusal| refusal.status.as_u16())
        };
        let both = &[
            ("connection", "keep-alive, UPGRADE"),
            ("upgrade", "h2c, WebSocket"),
        ][..];
        let (get, http11) = (Method::GET, Version::HTTP_11);
        assert_eq!(asked(get.clone(), http11, false, both), Ok(true));
        assert_eq!(asked(get.clone(), http11, true, both), Err(501));
        assert_eq!(asked(Method::POST, http11, false, both), Err(501));
        assert_eq!(asked(get.clone(), Version::HTTP_10, false, both), Err(501));
        assert_eq!(asked(get.clone(), Version::HTTP_2, false, both), Err(501));
        assert_eq!(asked(get.clone(), http11, false, &both[1..]), Err(400));
        let h2c = &[("connection", "upgrade"), ("upgrade", "h2c")];
        assert_eq!(asked(get, http11, true, h2c), Ok(false));
    }

    #[test]
    fn an_answer_switches_to_websocket_alone() {
        let checked = |lines: &[(&str, &str)]| check_switch(&headers(lines)).is_ok();
        let (connection, upgrade) = (("connection", "Upgrade"), ("upgrade", "WebSocket"));
        assert!(checked(&[connection, upgrade]));
        assert!(checked(&[("connection", "x, upgrade"), upgrade]));
        for lines in [
            &[connection][..],
            &[upgrade],
            &[connection, ("upgrade", "h2c")],
            &[connection, ("upgrade", "websocket, h2c")],
            &[connection, upgrade, ("upgrade", "h2c")],
        ] {
            assert!(!checked(lines), "{lines:?}");
        }
    }

    #[test]
    fn only_a_single_chunked_is_understood() {
        for coding in [
            "gzip, chunked",
            "chunked, chunked",
            "identity",
            "chunkedx",
            "",
        ] {
            assert!(
                !chunked_or_absent(&headers(&[("transfer-encoding", coding)])),
                "{coding}"
            );
        }
        assert!(!chunked_or_absent(&headers(
            &[("transfer-encoding", "chunked"); 2]
        )));
        assert!(chunked_or_absent(&headers(&[(
            "transfer-encoding",
            "Chunked"
        )])));
    }

    #[test]
    fn json_is_known_in_any_spelling() {
        let is = |kind| is_json(&headers(&[("content-type", kind)]));
        for kind in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/x+json",
        ] {
            assert!(is(kind), "{kind}");
        }
        assert!(!is("text/html") && !is_json(&HeaderMap::new()));
    }

    #[test]
    fn the_next_hop_says_how_long_it_keeps_a_connection() {
        let limit = |value| kept_alive_for(&headers(&[("keep-alive", value)]));
        assert_eq!(limit("timeout=5"), Some(Duration::from_secs(5)));
        assert_eq!(limit("max=100, Timeout = 7"), Some(Duration::from_secs(7)));
        assert_eq!(limit("timeout=x"), None);
        assert_eq!(limit("5"), None);
    }
}
