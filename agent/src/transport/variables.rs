//! The environment variables that name a proxy, and checks that their values are URLs of proxies.

use std::ffi::OsString;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;

/// Names of the variables, each in upper and lower case; the first variable whose value is a proxy's URL counts.
const VARIABLES: [[&str; 2]; 2] = [["HTTPS_PROXY", "https_proxy"], ["ALL_PROXY", "all_proxy"]];

/// What is wrong with the variables.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wrong {
    /// Names of the variables that are passed over, because their value is not a proxy's URL.
    pub(super) passed_over: Vec<&'static str>,
    /// Whether the variable that counts has a user name or password of which a part would be taken for the proxy's
    /// host.
    pub(super) is_broken: bool,
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
            _ => wrong.passed_over.push(name),
        }
    }
    wrong
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

    /// Variables that are set, the names of those that are passed over, and whether the one that counts is broken.
    type Case = (
        &'static [(&'static str, &'static str)],
        &'static [&'static str],
        bool,
    );

    #[test]
    fn a_value_that_is_no_proxys_url_is_named() {
        let set = |all: &[(&str, &str)]| {
            wrong(|asked| {
                let found = all.iter().find(|(name, _)| *name == asked);
                found.map(|(_, value)| (*value).into())
            })
        };
        let cases: [Case; 8] = [
            (&[], &[], false),
            (&[("HTTPS_PROXY", "")], &[], false),
            (&[("HTTPS_PROXY", "http://proxy:3128")], &[], false),
            (&[("HTTPS_PROXY", "socks://proxy")], &["HTTPS_PROXY"], false),
            (
                &[("https_proxy", "http://a b"), ("all_proxy", "ftp://proxy")],
                &["https_proxy", "all_proxy"],
                false,
            ),
            // A variable after one with a proxy's URL does not count.
            (
                &[
                    ("HTTPS_PROXY", "proxy:3128"),
                    ("ALL_PROXY", "socks://proxy"),
                ],
                &[],
                false,
            ),
            (
                &[("HTTPS_PROXY", ""), ("ALL_PROXY", "socks://proxy")],
                &["ALL_PROXY"],
                false,
            ),
            // The matcher takes `ada:1234` for the host.
            (&[("HTTPS_PROXY", "http://ada:1234/x@proxy")], &[], true),
        ];
        for (all, passed_over, is_broken) in cases {
            let wanted = Wrong {
                passed_over: passed_over.to_vec(),
                is_broken,
            };
            assert_eq!(set(all), wanted, "{all:?}");
        }
    }
}
