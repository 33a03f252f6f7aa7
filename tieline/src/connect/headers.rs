//! Request headers for the relay, beyond what every HTTP hop does to headers.

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Version};
use tieline_hop::browser;
use tieline_hop::headers::for_next_hop;

/// Prepares a request's headers for the connection to the relay. `length` is the body's length, `None`
/// if it is not known; `credential` replaces the caller's own credentials.
pub(super) fn for_relay(
    headers: &mut HeaderMap,
    version: Version,
    host: &HeaderValue,
    credential: Option<HeaderValue>,
    length: Option<u64>,
) {
    for_next_hop(headers, version, length);
    headers.insert(HOST, host.clone());
    // The proxy has checked the page; the relay's list of origins is for browsers that reach it directly.
    headers.remove(ORIGIN);
    browser::remove_metadata(headers);
    if let Some(credential) = credential {
        headers.insert(AUTHORIZATION, credential);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn sent(lines: &[(&str, &str)], credential: Option<&'static str>) -> HeaderMap {
        let mut headers = headers(lines);
        let host = HeaderValue::from_static("relay.example");
        let credential = credential.map(HeaderValue::from_static);
        for_relay(&mut headers, Version::HTTP_11, &host, credential, Some(0));
        headers
    }

    #[test]
    fn what_connection_names_is_dropped_and_the_rest_passes() {
        let passed = sent(
            &[
                ("host", "localhost:51822"),
                ("connection", "close, X-Private"),
                ("connection", "keep-alive,x-other,, ,b@d"),
                ("x-private", "1"),
                ("x-other", "1"),
                ("keep-alive", "timeout=5"),
                ("upgrade", "h2c"),
                ("origin", "http://localhost:6274"),
                ("sec-fetch-site", "same-site"),
                ("sec-fetch-site", "none"),
                ("sec-fetch-storage-access", "active"),
                ("sec-websocket-version", "13"),
                ("mcp-session-id", "kept"),
                ("authorization", "kept"),
            ],
            None,
        );
        let expected = headers(&[
            ("host", "relay.example"),
            ("sec-websocket-version", "13"),
            ("mcp-session-id", "kept"),
            ("authorization", "kept"),
        ]);
        assert_eq!(passed, expected);
    }

    #[test]
    fn the_token_replaces_every_credential_of_the_caller() {
        let passed = sent(
            &[("authorization", "Basic x"), ("authorization", "Basic y")],
            Some("Bearer t"),
        );
        let all: Vec<_> = passed.get_all(AUTHORIZATION).iter().collect();
        assert_eq!(all, ["Bearer t"]);
        // A `Connection` header that names `Authorization` removes the caller's value, not the token.
        let passed = sent(&[("connection", "authorization")], Some("Bearer t"));
        assert_eq!(passed[AUTHORIZATION], "Bearer t");
    }
}
