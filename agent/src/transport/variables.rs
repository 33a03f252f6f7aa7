//! The environment variables that name a proxy, and checks that their values are URLs of proxies.

use std::ffi::OsString;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;

/// Names of the variables, each in upper and lower case; the first variable whose value is a proxy's URL counts.
const VARIABLES: [[&str; 2]; 2] = [["HTTPS_PROXY", "https_proxy"], ["ALL_PROXY", "all_proxy"]];

/// Names of the variable for hosts that are reached without a proxy.
const NO_PROXY: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// What the entry `*` stands for: [`Matcher`] takes it for names alone.
const ALL: &str = "*,0.0.0.0/0,::/0";

/// Largest number of misspelt entries that are told.
const MISSPELT_MAX: usize = 8;

/// Proposal for an entry that does not show which hosts it means.
const PLAIN_ENTRY: &str = "a name, .suffix, an address or a network such as 10.0.0.0/8";

/// Schemes of proxies that [`Matcher`] knows.
const SCHEMES: [&str; 6] = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// Longest text that is taken for a scheme, in bytes: it is shown, and longer text may be a part of a password.
const SCHEME_LEN_MAX: usize = 16;

/// What is wrong with the variables.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wrong {
    /// Names of the variables that are passed over, because their value is not a proxy's URL.
    pub(super) passed_over: Vec<&'static str>,
    /// Whether the variable that counts has a user name or password of which a part would be taken for the proxy's
    /// host.
    pub(super) is_broken: bool,
    /// Scheme of the first variable that names a proxy of an unknown kind, which does not lead to a dial without one.
    pub(super) scheme: Option<String>,
}

/// Checks the variables in the order in which [`Matcher::from_system`] reads them.
pub(super) fn wrong(variable: impl Fn(&str) -> Option<OsString>) -> Wrong {
    let mut wrong = Wrong::default();
    for names in VARIABLES {
        let mut set = names.into_iter().filter_map(|it| Some((it, variable(it)?)));
        let Some((name, value)) = set.next() else {
            continue;
        };
        match value.to_str() {
            Some("") => {}
            Some(text) if names_proxy(text) => {
                wrong.is_broken = breaks_user(text);
                break;
            }
            text => match text.and_then(unknown_scheme) {
                Some(scheme) => {
                    wrong.scheme = Some(scheme);
                    break;
                }
                None => wrong.passed_over.push(name),
            },
        }
    }
    wrong
}

/// Value of the variable for hosts that are reached without a proxy: that in upper case, if both are set.
pub(super) fn no_proxy(variable: impl Fn(&str) -> Option<OsString>) -> Option<String> {
    let mut set = NO_PROXY.into_iter().filter_map(variable);
    set.find_map(|value| value.into_string().ok())
}

/// The entries of `NO_PROXY` for a server at `port`, as [`Matcher`] reads them: it knows no ports, so those with this
/// port are without it, and those with another one match nothing.
pub(super) fn at_port(no_proxy: &str, port: u16) -> String {
    let entries = no_proxy.split(',').map(str::trim);
    let entries = entries.map(|entry| match with_port(entry) {
        Some((host, at)) if at == port => host,
        _ => entry,
    });
    let entries = entries.map(|host| if host == "*" { ALL } else { host });
    entries.collect::<Vec<_>>().join(",")
}

/// Host and port of an entry that has both; an IPv6 address is in brackets then.
fn with_port(entry: &str) -> Option<(&str, u16)> {
    let (host, port) = match entry.strip_prefix('[') {
        Some(inner) => inner.split_once("]:")?,
        // An IPv6 address has more than one colon.
        None => entry.split_once(':')?,
    };
    Some((host, port.parse().ok()?)).filter(|_| !host.is_empty())
}

/// The entries of `NO_PROXY` that match no host because of their spelling, each with a right one; [`MISSPELT_MAX`] at most.
pub(super) fn misspelt(no_proxy: &str) -> Vec<(String, String)> {
    let entries = no_proxy.split(',').map(str::trim);
    let wrong = entries.filter_map(|entry| Some((entry.to_owned(), right_spelling(entry)?)));
    wrong.take(MISSPELT_MAX).collect()
}

/// How to write an entry that [`Matcher`] takes for the name of no host; `None` if it is right.
fn right_spelling(entry: &str) -> Option<String> {
    let words: Vec<&str> = entry.split_whitespace().collect();
    if words.len() > 1 {
        return Some(words.join(","));
    }
    if entry.contains("://") {
        return Some("the host alone".to_owned());
    }
    if let Some((host, port)) = with_port(entry) {
        let right = right_spelling(host)?;
        return Some(match right == PLAIN_ENTRY {
            true => right,
            false => format!("{right}:{port}"),
        });
    }
    if entry == "*" {
        return None;
    }
    if let Some(suffix) = entry.strip_prefix('*') {
        return match suffix.contains('*') {
            true => Some(PLAIN_ENTRY.to_owned()),
            false => Some(suffix.to_owned()),
        };
    }
    if entry.contains('*') {
        return Some(PLAIN_ENTRY.to_owned());
    }
    if let Some(inner) = entry.strip_prefix('[') {
        let (address, _) = inner.split_once(']').unwrap_or((inner, ""));
        return Some(address.to_owned());
    }
    // What is behind the only colon is no port.
    if let Some((host, rest)) = entry.split_once(':')
        && !rest.contains(':')
    {
        return Some(host.to_owned());
    }
    entry.strip_suffix('.').map(str::to_owned)
}

/// Scheme of the URL `text` if no proxy has such a URL. [`Matcher`] knows the schemes of proxies that are not supported,
/// such as `https` and `socks4`, and takes a URL with another one for none.
pub(super) fn unknown_scheme(text: &str) -> Option<String> {
    let (scheme, _) = text.split_once("://")?;
    let is_scheme = !scheme.is_empty()
        && scheme.len() <= SCHEME_LEN_MAX
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    let scheme = scheme.to_ascii_lowercase();
    (is_scheme && !SCHEMES.contains(&&*scheme)).then_some(scheme)
}

/// True if [`Matcher`] reads `text` as a proxy's URL.
fn names_proxy(text: &str) -> bool {
    let matcher = Matcher::builder().all(text).build();
    let found = matcher.intercept(&Uri::from_static("https://relay.invalid"));
    found.is_some()
}

/// True if the user name or the password in the URL `text` has a character that must be percent-encoded there: a part
/// of them would be taken for the host.
pub(super) fn breaks_user(text: &str) -> bool {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let user = rest.rsplit_once('@').map_or("", |(user, _)| user);
    user.contains(['/', '?', '#', '@'])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Variables that are set, the names of those that are passed over, whether the one that counts is broken, and its
    /// scheme if that is unknown.
    type Case = (
        &'static [(&'static str, &'static str)],
        &'static [&'static str],
        bool,
        Option<&'static str>,
    );

    #[test]
    fn an_entry_of_no_proxy_that_matches_nothing_is_told_with_the_right_spelling() {
        for (entry, right) in [
            ("*.test", ".test"),
            ("relay.test.", "relay.test"),
            ("relay.test.:443", "relay.test:443"),
            ("*.test:443", ".test:443"),
            ("10.*:443", PLAIN_ENTRY),
            ("relay.test:", "relay.test"),
            ("relay.test:https", "relay.test"),
            ("10.9.8.7:65536", "10.9.8.7"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:x", "2001:db8::1"),
            ("a.test b.test", "a.test,b.test"),
            ("https://relay.test", "the host alone"),
            ("10.*", PLAIN_ENTRY),
        ] {
            let told = misspelt(&format!("one.test, {entry} ,.two.test"));
            assert_eq!(told, [(entry.to_owned(), right.to_owned())]);
        }
        let right = "*, Relay.TEST,.test,,10.0.0.0/8,10.9.8.7,2001:db8::1,2001:db8::/32,::1";
        assert!(misspelt(right).is_empty());
        let right = "*:443, relay.test:443,.test:1,10.9.8.7:443,[2001:db8::1]:65535";
        assert!(misspelt(right).is_empty());
        assert_eq!(misspelt(&"a.,".repeat(100)).len(), MISSPELT_MAX);
    }

    #[test]
    fn an_entry_with_a_port_is_for_that_port_alone() {
        let entries = "a.test, b.test:8443 ,[::1]:443,2001:db8::1,c:x";
        for (port, expected) in [
            (443, "a.test,b.test:8443,::1,2001:db8::1,c:x"),
            (8443, "a.test,b.test,[::1]:443,2001:db8::1,c:x"),
            (1, "a.test,b.test:8443,[::1]:443,2001:db8::1,c:x"),
        ] {
            assert_eq!(at_port(entries, port), expected);
        }
        assert_eq!(at_port("", 443), "");
    }

    #[test]
    fn a_value_that_is_no_proxys_url_is_named() {
        let set = |all: &[(&str, &str)]| {
            wrong(|asked| {
                let found = all.iter().find(|(name, _)| *name == asked);
                found.map(|(_, value)| (*value).into())
            })
        };
        let cases: [Case; 10] = [
            (&[], &[], false, None),
            (&[("HTTPS_PROXY", "")], &[], false, None),
            (&[("HTTPS_PROXY", "http://proxy:3128")], &[], false, None),
            (&[("HTTPS_PROXY", "socks4://proxy")], &[], false, None),
            (
                &[("HTTPS_PROXY", "SOCKS://proxy")],
                &[],
                false,
                Some("socks"),
            ),
            // No dial goes without a proxy of an unknown kind, nor through another one.
            (
                &[("https_proxy", "ftp://proxy"), ("all_proxy", "proxy:3128")],
                &[],
                false,
                Some("ftp"),
            ),
            (
                &[
                    ("https_proxy", "http://a b"),
                    ("all_proxy", "socks://proxy"),
                ],
                &["https_proxy"],
                false,
                Some("socks"),
            ),
            // A variable after one with a proxy's URL does not count.
            (
                &[
                    ("HTTPS_PROXY", "proxy:3128"),
                    ("ALL_PROXY", "socks://proxy"),
                ],
                &[],
                false,
                None,
            ),
            (
                &[("HTTPS_PROXY", "ada:secret+12345678901234://proxy")],
                &["HTTPS_PROXY"],
                false,
                None,
            ),
            // The matcher takes `ada:1234` for the host.
            (
                &[("HTTPS_PROXY", "http://ada:1234/x@proxy")],
                &[],
                true,
                None,
            ),
        ];
        for (all, passed_over, is_broken, scheme) in cases {
            let wanted = Wrong {
                passed_over: passed_over.to_vec(),
                is_broken,
                scheme: scheme.map(str::to_owned),
            };
            assert_eq!(set(all), wanted, "{all:?}");
        }
    }
}
