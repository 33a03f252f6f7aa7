//! Which proxy a connection goes through: that of a setting, of the environment, or of the system.

use std::borrow::Cow;
use std::env;
use std::ffi::OsString;
use std::sync::Once;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;

use super::proxy::{Proxy, Unusable};
use super::variables;
use super::way::{Way, WayReason};
use crate::address::HostPort;
use crate::error::ProxyError;
use crate::plain::address_without_user;

/// Text of the setting, or value of a variable, for no proxy.
const NONE: &str = "none";

/// Stands in messages for the URL of a proxy that the system names.
const SYSTEMS: &str = "… (of the system's settings)";

/// Schemes of proxies that [`Matcher`] knows, those that are not supported included; it takes a URL with another one for
/// no proxy.
const SCHEMES: [&str; 6] = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// Longest text that is taken for a scheme, in bytes: it is shown, and longer text may be a part of a password.
const SCHEME_LEN_MAX: usize = 16;

/// Which proxy connections go through; none of them leads to a loopback address.
#[derive(Clone, Debug, Default)]
pub enum Proxies {
    /// The proxy that the environment names (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`), else the system's settings.
    #[default]
    System,
    /// No proxy.
    Never,
    /// This proxy, whatever the environment says.
    Always(Proxy),
}

impl Proxies {
    /// Parses a setting: the URL of a proxy, or `none`.
    ///
    /// # Errors
    /// [`ProxyError`] says what is wrong with the URL.
    pub fn parse(text: &str) -> Result<Self, ProxyError> {
        match of_text(text) {
            Ok(None) => Ok(Self::Never),
            Ok(Some(proxy)) => Ok(Self::Always(proxy)),
            Err(Unusable::Kind(scheme)) => Err(ProxyError::Kind { scheme }),
            Err(Unusable::Url) => Err(ProxyError::Url {
                text: address_without_user(text),
            }),
        }
    }

    /// The way to `to`, as the environment and the system's settings name it now. The settings change when a laptop
    /// changes its network, so each connection asks anew.
    ///
    /// # Errors
    /// [`ProxyError`] if the environment or the system names a proxy that cannot be used.
    pub fn way(&self, to: &HostPort) -> Result<Way, ProxyError> {
        let (proxy, reason) = match self {
            _ if to.is_loopback() => (None, WayReason::Loopback),
            Self::System => of_system(to)?,
            Self::Never => (None, WayReason::Setting),
            Self::Always(proxy) => (Some(proxy.clone()), WayReason::Setting),
        };
        Ok(Way::new(to, proxy, reason))
    }
}

/// The proxy that the environment, else the system names for `to`, and why it is used or none is.
fn of_system(to: &HostPort) -> Result<(Option<Proxy>, WayReason), ProxyError> {
    let variable = |name: &str| env::var_os(name);
    let chosen = choose(to, variable, |to| named_by(&Matcher::from_system(), to))?;
    if chosen.0.is_some()
        && let Some((name, exempt)) = variables::no_proxy(variable)
    {
        tell_misspelt(name, &exempt);
    }
    Ok(chosen)
}

/// The proxy that the variables name for `to`, else `system` does, and why it is used or none is.
fn choose(
    to: &HostPort,
    variable: impl Fn(&str) -> Option<OsString>,
    system: impl FnOnce(&HostPort) -> Result<Option<Proxy>, ProxyError>,
) -> Result<(Option<Proxy>, WayReason), ProxyError> {
    let named = variables::proxy(&variable);
    if let Some((by, list)) = variables::no_proxy(&variable)
        && let Some(entry) = variables::exemption(&list, to)
    {
        let reason = WayReason::Exempt {
            by,
            entry: entry.to_owned(),
            from: named.map(|(name, _)| name),
        };
        return Ok((None, reason));
    }
    let Some((name, value)) = named else {
        return Ok((system(to)?, WayReason::System));
    };
    let proxy = value.to_str().ok_or(Unusable::Url).and_then(of_text);
    match proxy {
        Ok(proxy) => Ok((proxy, WayReason::Variable(name))),
        Err(Unusable::Kind(scheme)) => Err(ProxyError::KindOfVariable { name, scheme }),
        Err(Unusable::Url) => Err(ProxyError::Variable { name }),
    }
}

/// Tells once of entries in the variable `name` that match no host, and may have been meant for a relay that a proxy
/// leads to.
fn tell_misspelt(name: &str, no_proxy: &str) {
    static TOLD: Once = Once::new();

    TOLD.call_once(|| {
        for (entry, right) in variables::misspelt(no_proxy) {
            tracing::warn!("{name}: the entry {entry:?} matches no host: write {right}");
        }
    });
}

/// The proxy that `matcher` names for `to`.
fn named_by(matcher: &Matcher, to: &HostPort) -> Result<Option<Proxy>, ProxyError> {
    let Some(uri) = variables::uri(to) else {
        return Ok(None);
    };
    let found = matcher.intercept(&uri);
    let proxy = found.map(|found| Proxy::of(&found)).transpose();
    proxy.map_err(|unusable| match unusable {
        Unusable::Kind(scheme) => ProxyError::Kind { scheme },
        Unusable::Url => ProxyError::Url {
            text: SYSTEMS.to_owned(),
        },
    })
}

/// The proxy with the URL `text`; `None` for the text `none`.
fn of_text(text: &str) -> Result<Option<Proxy>, Unusable> {
    if text.eq_ignore_ascii_case(NONE) {
        return Ok(None);
    }
    let text = match split_scheme(text) {
        Some((scheme, _)) if !SCHEMES.contains(&&*scheme) => return Err(Unusable::Kind(scheme)),
        Some((scheme, rest)) => Cow::Owned(format!("{scheme}://{rest}")),
        None => Cow::Borrowed(text),
    };
    let matcher = Matcher::builder().all(&*text).build();
    let found = matcher.intercept(&Uri::from_static("https://relay.invalid"));
    let found = found.filter(|_| !breaks_user(&text));
    let found = found.ok_or(Unusable::Url)?;
    Proxy::of(&found).map(Some)
}

/// Scheme of the URL `text`, in lower case since capitals make no difference (RFC 3986, section 3.1), and what follows
/// it. [`Matcher`] knows schemes in lower case alone.
fn split_scheme(text: &str) -> Option<(String, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let is_scheme = !scheme.is_empty()
        && scheme.len() <= SCHEME_LEN_MAX
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    is_scheme.then(|| (scheme.to_ascii_lowercase(), rest))
}

/// True if the user name or the password in the URL `text` has a character that must be percent-encoded there: a part
/// of them would be taken for the host.
fn breaks_user(text: &str) -> bool {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let user = rest.rsplit_once('@').map_or("", |(user, _)| user);
    user.contains(['/', '?', '#', '@'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(text: &str) -> HostPort {
        HostPort::parse(text, None).unwrap()
    }

    /// What [`choose`] says of the way to `server` with these variables, and a system that names no proxy.
    fn chosen(
        all: &[(&str, &str)],
        server: &str,
    ) -> Result<(Option<String>, WayReason), ProxyError> {
        let variable = |asked: &str| {
            let found = all.iter().find(|(name, _)| *name == asked);
            found.map(|(_, value)| OsString::from(*value))
        };
        let (proxy, reason) = choose(&to(server), variable, |_| Ok(None))?;
        assert!(!format!("{proxy:?} {reason:?}").contains("secret"));
        Ok((proxy.map(|proxy| proxy.to_string()), reason))
    }

    #[test]
    fn the_environment_names_the_proxy_and_the_exceptions() {
        let variables = [
            ("HTTPS_PROXY", "http://ada:secret@proxy.studio:3128"),
            ("NO_PROXY", "internal.studio, 10.0.0.0/8"),
        ];
        for (host, entry) in [
            ("relay.example:9001", None),
            ("internal.studio:443", Some("internal.studio")),
            ("relay.internal.studio:443", Some("internal.studio")),
            ("10.1.2.3:9001", Some("10.0.0.0/8")),
            ("[2001:db8::1]:443", None),
        ] {
            let (proxy, reason) = chosen(&variables, host).unwrap();
            match entry {
                None => {
                    assert_eq!(proxy.as_deref(), Some("http://proxy.studio:3128"), "{host}");
                    assert_eq!(reason, WayReason::Variable("HTTPS_PROXY"));
                }
                Some(entry) => {
                    assert_eq!(proxy, None, "{host}");
                    let exempt = WayReason::Exempt {
                        by: "NO_PROXY",
                        entry: entry.to_owned(),
                        from: Some("HTTPS_PROXY"),
                    };
                    assert_eq!(reason, exempt);
                }
            }
        }
        let all = [("all_proxy", "socks5h://proxy")];
        let (proxy, reason) = chosen(&all, "relay:1").unwrap();
        assert_eq!(proxy.as_deref(), Some("socks5h://proxy:1080"));
        assert_eq!(reason, WayReason::Variable("all_proxy"));
        let nothing = chosen(&[("HTTPS_PROXY", "")], "relay:1").unwrap();
        assert_eq!(nothing, (None, WayReason::System));
    }

    #[test]
    fn a_variable_may_say_none_for_no_proxy() {
        for value in ["none", "None"] {
            let variables = [("HTTPS_PROXY", value), ("ALL_PROXY", "http://proxy")];
            let none = (None, WayReason::Variable("HTTPS_PROXY"));
            assert_eq!(chosen(&variables, "relay:1").unwrap(), none);
        }
    }

    #[test]
    fn a_variable_that_names_a_proxy_which_cannot_be_used_is_an_error_without_its_value() {
        for (value, words) in [
            (
                "http://ada:sécret@proxy:3128",
                "value of https_proxy is not",
            ),
            ("http://ada:secret/x@proxy:1", "value of https_proxy is not"),
            ("http://ada:x@secret@proxy:1", "value of https_proxy is not"),
            ("http://ada:secret@a b", "percent-encoded"),
            (
                "http://ada:secret@proxy:port",
                "value of https_proxy is not",
            ),
            (
                "ada:secret+12345678901234://proxy",
                "value of https_proxy is not",
            ),
            ("SOCKS://ada:secret@proxy", "over socks://"),
            ("ftp://ada:secret@proxy", "over ftp://"),
            ("https://ada:secret@proxy", "over https://"),
            ("socks4://ada@proxy", "https_proxy: a proxy"),
        ] {
            let mut variables = vec![("https_proxy", value), ("ALL_PROXY", "http://proxy")];
            let error = chosen(&variables, "relay:1").unwrap_err();
            let message = format!("{error} {error:?}");
            assert!(message.contains(words), "{message}");
            assert!(
                !message.contains("secret") && !message.contains("cret@"),
                "{message}"
            );
            variables.push(("no_proxy", "relay"));
            let (proxy, reason) = chosen(&variables, "relay:1").unwrap();
            assert!(matches!(reason, WayReason::Exempt { .. }) && proxy.is_none());
        }
    }

    #[test]
    fn a_setting_is_none_or_the_url_of_a_proxy() {
        for (text, shown) in [
            ("http://proxy:3128", Some("http://proxy:3128")),
            ("proxy:3128", Some("http://proxy:3128")),
            ("http://proxy", Some("http://proxy:80")),
            ("socks5://[::1]:9050/", Some("socks5://[::1]:9050")),
            ("socks5h://u:p@proxy", Some("socks5h://proxy:1080")),
            ("SOCKS5H://u:p@proxy", Some("socks5h://proxy:1080")),
            ("Http://proxy", Some("http://proxy:80")),
            ("None", None),
        ] {
            let way = Proxies::parse(text).unwrap().way(&to("relay:1")).unwrap();
            let proxy = way.proxy().map(ToString::to_string);
            assert_eq!(proxy.as_deref(), shown, "{text}");
            assert_eq!(*way.reason(), WayReason::Setting);
        }
        for (text, words) in [
            ("https://proxy:3128", "https://"),
            ("socks4://proxy", "socks4://"),
            (
                "socks://ada:secret@proxy",
                "http://, socks5:// or socks5h://",
            ),
            ("http://ada:sécret@proxy", "outside ASCII"),
            ("", "expected http://"),
            ("http://a b", "expected http://"),
            // Characters that must be percent-encoded.
            ("http://ada:secret/x@proxy", "percent-encoded"),
            ("http://ada:1/secret@proxy", "percent-encoded"),
            ("http://ada:a#secret@proxy:1", "percent-encoded"),
            ("ada:a?secret@proxy:1", "percent-encoded"),
            ("socks5h://ada:x@secret@proxy", "percent-encoded"),
            ("http://ada:secret@proxy:port", "expected http://"),
        ] {
            let error = Proxies::parse(text).unwrap_err();
            let message = format!("{error} {error:?}");
            assert!(message.contains(words), "{text}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn this_machine_is_never_reached_through_a_proxy() {
        let proxies = Proxies::parse("http://proxy:3128").unwrap();
        for text in ["localhost:1", "127.0.0.1:1", "[::1]:1", "relay.localhost:1"] {
            let way = proxies.way(&to(text)).unwrap();
            assert!(way.proxy().is_none(), "{text}");
            assert_eq!(*way.reason(), WayReason::Loopback);
        }
    }
}
