//! Header fields in which a proxy describes a request (its client, its original URL) or an answer (the file
//! to send instead). Callers and targets must not set such fields for each other.
//!
//! All fields that only proxies write are listed here. Most are dropped from requests; each of them shows
//! that the request came through a proxy.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use tieline_hop::headers::drop_where;

/// Fields in which only proxies and gateways describe a request: its client, and its path before a rewrite.
/// Servers and frameworks trust these fields on every connection.
const ABOUT_REQUESTS: [&str; 35] = [
    "forwarded",
    "x-forwarded",
    "x-real-ip",
    "x-client-ip",
    "client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "x-originating-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-proxyuser-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-pseudo-ipv4",
    "fastly-client-ip",
    "fly-client-ip",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-appengine-user-ip",
    "x-envoy-external-address",
    "proxy-client-ip",
    "wl-proxy-client-ip",
    "front-end-https",
    "x-url-scheme",
    "x-original-host",
    "x-original-uri",
    "x-original-url",
    "x-rewrite-url",
    "x-script-name",
    "script-name",
    // Rack reads from this field how the proxy sends files instead of the answer.
    "x-sendfile-type",
    // CGI turns this field into `HTTP_PROXY`, the proxy for outgoing requests (CVE-2016-5385).
    "proxy",
    "x-proxy-host",
    // The relay itself names callers in this field, to the agents of `stdio` targets.
    "tieline-caller",
];

/// Prefixes of further such fields.
const ABOUT_REQUESTS_PREFIXES: [&str; 2] = ["x-forwarded-", "x-accel-"];

/// Fields in which proxies describe themselves. Targets do not take caller data from them, so they pass.
const ABOUT_PROXIES: [&str; 6] = [
    "via",
    "cdn-loop",
    "x-amzn-trace-id",
    "x-cloud-trace-context",
    "x-bluecoat-via",
    "x-varnish",
];

/// Prefixes of further such fields, each of one proxy product or network.
const ABOUT_PROXIES_PREFIXES: [&str; 15] = [
    "akamai-",
    "cf-",
    "fastly-",
    "fly-",
    "incap-",
    "x-akamai-",
    "x-amz-cf-",
    "x-appengine-",
    "x-arr-",
    "x-azure-",
    "x-envoy-",
    "x-nf-",
    "x-proxy-",
    "x-real-",
    "x-vercel-",
];

/// Fields that are kept from a trusted proxy, in exactly this spelling.
const KEPT_FROM_TRUSTED: [&str; 3] = ["forwarded", "x-real-ip", "x-forwarded-"];

/// Fields that a hop reads or writes itself, dropped in any other spelling: CGI and WSGI cannot tell
/// `Content_Length` from `Content-Length`, nor `X_Forwarded_For` from `X-Forwarded-For`.
const OF_HOPS: [&str; 8] = [
    "content-length",
    "content-type",
    "transfer-encoding",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "mcp-session-id",
    "mcp-protocol-version",
];

/// Fields that make a server in front of the relay replace the target's answer, by a file of that server's
/// machine or by the content of a URL.
const REDIRECTS: [&str; 6] = [
    "x-sendfile",
    "x-sendfile2",
    "x-lighttpd-send-file",
    "x-lighttpd-send-tempfile",
    "x-litespeed-location",
    "x-accel-redirect",
];

/// Prefixes of further such fields.
const REDIRECT_PREFIXES: [&str; 2] = ["x-accel-", "x-reproxy-"];

/// Kept in answers: event streams turn off buffering in a server in front of the relay with this field.
const HARMLESS: &str = "x-accel-buffering";

/// First letters of fields that may be dropped; a field with another first letter is kept without a comparison.
const IN_REQUESTS: Initials = Initials::of(&ABOUT_REQUESTS)
    .and(Initials::of(&ABOUT_REQUESTS_PREFIXES))
    .and(Initials::of(&OF_HOPS));
const IN_ANSWERS: Initials = Initials::of(&REDIRECTS).and(Initials::of(&REDIRECT_PREFIXES));

/// A set of first bytes of names: one bit for each letter, one for all other bytes.
#[derive(Clone, Copy)]
struct Initials(u32);

impl Initials {
    const fn of(names: &[&str]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < names.len() {
            bits |= Self::bit(names[at]);
            at += 1;
        }
        Self(bits)
    }

    const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether one of the names begins with the first byte of `name`. All names are in lower case, as in `HeaderName`.
    const fn has(self, name: &str) -> bool {
        self.0 & Self::bit(name) != 0
    }

    const fn bit(name: &str) -> u32 {
        match name.as_bytes() {
            [letter @ b'a'..=b'z', ..] => 1 << (*letter - b'a'),
            _ => 1 << 26,
        }
    }
}

/// True if a request has any field of a proxy, even one that is not dropped.
pub(crate) fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        let dashed = dashed(name.as_str());
        let begins = |it: &&str| dashed.starts_with(it);
        ABOUT_PROXIES.contains(&&*dashed)
            || ABOUT_PROXIES_PREFIXES.iter().any(begins)
            || is_about_request(&dashed)
    })
}

/// True for a field in which only a proxy describes a request; `dashed` is its name with dashes.
fn is_about_request(dashed: &str) -> bool {
    let begins = |it: &&str| dashed.starts_with(it);
    ABOUT_REQUESTS.contains(&dashed) || ABOUT_REQUESTS_PREFIXES.iter().any(begins)
}

/// Drops the fields of a proxy from a request, unless they come from a trusted proxy. `own` is a field that
/// the relay reads itself; its other spellings are dropped.
pub(crate) fn drop_from_request(
    headers: &mut HeaderMap,
    is_trusted: bool,
    own: Option<&HeaderName>,
) {
    let own = own.map(HeaderName::as_str);
    let own_dashed = own.map(dashed);
    let initials = own.map_or(IN_REQUESTS, |own| IN_REQUESTS.and(Initials::of(&[own])));
    drop_where(headers, |name| {
        let name = name.as_str();
        if own == Some(name) || !initials.has(name) {
            return false;
        }
        let dashed = dashed(name);
        let is_changed = dashed != name;
        let begins = |it: &&str| dashed.starts_with(it);
        if is_about_request(&dashed) {
            let is_kept = |it: &&str| *it == dashed || (it.ends_with('-') && begins(it));
            return is_changed || !is_trusted || !KEPT_FROM_TRUSTED.iter().any(is_kept);
        }
        own_dashed.as_ref() == Some(&dashed) || (is_changed && OF_HOPS.contains(&&*dashed))
    });
}

/// Drops the fields that make a server in front of the relay replace the answer.
pub(crate) fn drop_from_answer(headers: &mut HeaderMap) {
    drop_where(headers, |name| {
        let name = name.as_str();
        if !IN_ANSWERS.has(name) {
            return false;
        }
        let dashed = dashed(name);
        let is_redirect = REDIRECTS.contains(&&*dashed)
            || REDIRECT_PREFIXES.iter().any(|it| dashed.starts_with(it));
        is_redirect && name != HARMLESS
    });
}

/// A name with every character that is neither letter nor digit as a dash: servers that turn fields into
/// variables do not distinguish such characters. Almost every name is unchanged, and is not copied.
fn dashed(name: &str) -> Cow<'_, str> {
    let is_dashed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if name.bytes().all(is_dashed) {
        return Cow::Borrowed(name);
    }
    let as_dash = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    Cow::Owned(name.chars().map(as_dash).collect())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// Names of the request fields that are not dropped.
    fn kept(names: &[&str], is_trusted: bool) -> Vec<String> {
        let own = HeaderName::from_static("x-target-authorization");
        let mut headers = all(names);
        drop_from_request(&mut headers, is_trusted, Some(&own));
        headers.keys().map(ToString::to_string).collect()
    }

    fn all(names: &[&str]) -> HeaderMap {
        let value = HeaderValue::from_static("1");
        let field = |name: &&str| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.clone(),
            )
        };
        names.iter().map(field).collect()
    }

    #[test]
    fn no_spelling_of_a_proxys_field_passes() {
        for name in [
            "X-Forwarded-For",
            "X_Forwarded_For",
            "x_forwarded-FOR",
            "x.forwarded.for",
            "x-forwarded-user",
            "X_Forwarded_Anything",
            "Forwarded",
            "X_Real_IP",
            "Proxy",
            "X-Original-URL",
            "X_Rewrite_Url",
            "X-Sendfile-Type",
            "X-Accel-Mapping",
            "Tieline-Caller",
            "Tieline_Caller",
            "tieline.CALLER",
            "Content_Length",
            "Transfer_Encoding",
            "Mcp_Session_Id",
            "X_Target_Authorization",
        ] {
            assert!(kept(&[name], false).is_empty(), "{name}");
        }
    }

    #[test]
    fn a_field_of_the_relay_is_dropped_in_other_spellings_whatever_it_begins_with() {
        for (own, other) in [
            ("_own-field", "-own_field"),
            ("1-own", "1_own"),
            ("zown-x", "zown_x"),
        ] {
            let own = HeaderName::from_static(own);
            let mut headers = all(&[own.as_str(), other, "host"]);
            drop_from_request(&mut headers, false, Some(&own));
            assert!(headers.contains_key(&own), "{own} is the caller's to set");
            assert!(!headers.contains_key(other), "{other}");
            assert_eq!(headers.len(), 2);
        }
    }

    #[test]
    fn what_is_not_a_proxys_field_passes_also_with_underscores() {
        let names = [
            "x_custom",
            "content-length",
            "mcp-session-id",
            "mcp-param-a_b",
            "x-api-key",
        ];
        for is_trusted in [false, true] {
            let mut passed = kept(&names, is_trusted);
            passed.sort_unstable();
            let mut expected = names.map(str::to_owned);
            expected.sort_unstable();
            assert_eq!(passed, expected);
        }
    }

    #[test]
    fn every_field_of_a_proxy_marks_a_request_as_forwarded() {
        let listed = ABOUT_REQUESTS.iter().chain(&ABOUT_PROXIES).copied();
        let others = [
            "CF-Connecting-IP",
            "CF_Ray",
            "True-Client-IP",
            "Fastly-Client-IP",
            "Fastly-FF",
            "X-Real-IP",
            "X-Client-IP",
            "X_Forwarded_For",
            "X-Envoy-Internal",
            "X-Amz-Cf-Id",
            "Via",
            "CDN-Loop",
        ];
        for name in listed.chain(others) {
            assert!(is_forwarded(&all(&[name])), "{name}");
        }
        let direct = [
            "host",
            "accept",
            "user-agent",
            "mcp-session-id",
            "x-custom",
            "origin",
        ];
        assert!(!is_forwarded(&all(&direct)));
    }

    #[test]
    fn a_trusted_proxy_is_believed_to_the_letter_only() {
        let names = [
            "x-forwarded-for",
            "x-forwarded-prefix",
            "forwarded",
            "x-real-ip",
        ];
        assert_eq!(kept(&names, true).len(), names.len());
        let others = [
            "x_forwarded_for",
            "x_real_ip",
            "proxy",
            "x-original-url",
            "x-sendfile-type",
            "tieline-caller",
        ];
        assert!(kept(&others, true).is_empty());
    }

    #[test]
    fn an_answer_names_no_file_of_the_server_in_front() {
        let mut headers = all(&[
            "X-Accel-Redirect",
            "X-Accel-Expires",
            "X_Accel_Redirect",
            "X-Sendfile",
            "X-LIGHTTPD-send-file",
            "X-LiteSpeed-Location",
            "X-Reproxy-URL",
            "X-Accel-Buffering",
            "X-Frame-Options",
        ]);
        drop_from_answer(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x-accel-buffering", "x-frame-options"]);
    }
}
