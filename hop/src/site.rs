//! Drops fields of an answer that act beyond that answer: on everything that a browser loads from the same
//! host or origin. Servers behind one hop may share an origin, and none may act for the others.

use http::header::STRICT_TRANSPORT_SECURITY;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::headers::drop_where;

const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

/// Fields about how the host is reached, or that bind a user's session to a key. Only the hop's operator may
/// set them, even if a server has its own name: most outlast the server, and reach all ports or subdomains.
const ABOUT_HOSTS: [&str; 8] = [
    "public-key-pins",
    "public-key-pins-report-only",
    "expect-ct",
    "expect-staple",
    "alt-svc",
    "nel",
    "sec-session-registration",
    "secure-session-registration",
];

/// Fields that act on all pages, storage or requests of an origin.
const ABOUT_ORIGINS: [&str; 10] = [
    "clear-site-data",
    "report-to",
    "reporting-endpoints",
    "origin-agent-cluster",
    "accept-ch",
    "accept-ch-lifetime",
    "critical-ch",
    "use-as-dictionary",
    "set-login",
    "shared-storage-write",
];

/// Prefix of further fields that act on an origin.
const ABOUT_ORIGINS_PREFIX: &str = "attribution-reporting-";

/// Kinds of data that a server may clear for its own origin. `"cookies"`, and `"*"` which includes them, are
/// left out: they reach the whole registered domain (Clear Site Data, section 4.2.3).
const CLEARED: [&str; 5] = [
    "\"cache\"",
    "\"storage\"",
    "\"executioncontexts\"",
    "\"prefetchcache\"",
    "\"prerendercache\"",
];

/// How many servers share the origin of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// Several servers, each under its own path.
    Shared,
    /// One server, under its own subdomain of the hop's domain.
    Own,
}

/// Drops the fields of an answer that act beyond the server that sent it.
pub fn confine(headers: &mut HeaderMap, site: Site) {
    drop_where(headers, |name| {
        let text = name.as_str();
        let is_origins = ABOUT_ORIGINS.contains(&text) || text.starts_with(ABOUT_ORIGINS_PREFIX);
        name == STRICT_TRANSPORT_SECURITY
            || ABOUT_HOSTS.contains(&text)
            || (site == Site::Shared && is_origins)
    });
    let cleared: Vec<_> = headers.get_all(CLEAR_SITE_DATA).iter().collect();
    if cleared.is_empty() {
        return;
    }
    match own_data(&cleared) {
        Some(value) => drop(headers.insert(CLEAR_SITE_DATA, value)),
        None => drop(headers.remove(CLEAR_SITE_DATA)),
    }
}

/// The kinds in `Clear-Site-Data` that reach one origin alone.
fn own_data(values: &[&HeaderValue]) -> Option<HeaderValue> {
    let values = values.iter().filter_map(|value| value.to_str().ok());
    let kinds: Vec<_> = values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .flat_map(|kind| match kind {
            "\"*\"" => vec!["\"cache\"", "\"storage\"", "\"executionContexts\""],
            kind => vec![kind],
        })
        .filter(|kind| CLEARED.contains(&&*kind.to_ascii_lowercase()))
        .collect();
    let value = HeaderValue::from_str(&kinds.join(", ")).ok();
    value.filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(site: Site, lines: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        confine(&mut headers, site);
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        let fields = headers.iter();
        fields
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect()
    }

    #[test]
    fn how_a_host_is_reached_is_for_no_server_behind_it_to_say() {
        for name in ABOUT_HOSTS.into_iter().chain(["strict-transport-security"]) {
            for site in [Site::Shared, Site::Own] {
                assert!(kept(site, &[(name, "x"), (name, "y")]).is_empty(), "{name}");
            }
        }
    }

    #[test]
    fn what_acts_on_an_origin_stays_where_the_server_has_one() {
        let one = |name| [(name, "\"cache\"")];
        for name in ABOUT_ORIGINS
            .into_iter()
            .chain(["attribution-reporting-eligible"])
        {
            assert!(kept(Site::Shared, &one(name)).is_empty(), "{name}");
            assert_eq!(kept(Site::Own, &one(name)).len(), 1, "{name}");
        }
        for name in ["x-frame-options", "content-security-policy", "refresh"] {
            assert_eq!(kept(Site::Shared, &one(name)).len(), 1, "{name}");
        }
    }

    #[test]
    fn cookies_of_the_whole_domain_are_not_cleared() {
        let cleared = |values: &[&'static str]| {
            let lines: Vec<_> = values.iter().map(|it| ("clear-site-data", *it)).collect();
            kept(Site::Own, &lines).pop().map(|(_, value)| value)
        };
        let all = "\"cache\", \"storage\", \"executionContexts\"";
        assert_eq!(cleared(&["\"*\""]).as_deref(), Some(all));
        let some = cleared(&["\"cookies\", \"storage\"", "\"cache\",x"]);
        assert_eq!(some.as_deref(), Some("\"storage\", \"cache\""));
        assert_eq!(cleared(&["\"cookies\""]), None);
        assert_eq!(cleared(&["\"Cookies\""]), None);
    }
}
