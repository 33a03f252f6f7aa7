//! Which proxy a connection goes through: that of a setting, of the environment, or of the system.

use std::env;
use std::sync::Once;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;

use super::proxy::{Proxy, UNKNOWN};
use super::variables::{self, breaks_user, unknown_scheme};
use super::way::Way;
use crate::address::HostPort;
use crate::error::ProxyError;
use crate::plain::address_without_user;

/// Text of the setting for no proxy.
const NONE: &str = "none";

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
        if text.eq_ignore_ascii_case(NONE) {
            return Ok(Self::Never);
        }
        if let Some(scheme) = unknown_scheme(text) {
            return Err(ProxyError::Kind { scheme });
        }
        let matcher = Matcher::builder().all(text).build();
        let found = matcher.intercept(&Uri::from_static("https://relay.invalid"));
        let wrong = || ProxyError::Url {
            text: address_without_user(text),
        };
        let found = found.filter(|_| !breaks_user(text)).ok_or_else(wrong)?;
        match Proxy::of(&found) {
            Err(ProxyError::Url { .. }) => Err(wrong()),
            made => made.map(Self::Always),
        }
    }

    /// The way to `to`, as the environment and the system's settings name it now. The settings change when a laptop
    /// changes its network, so each connection asks anew.
    ///
    /// # Errors
    /// [`ProxyError`] if the environment or the system names a proxy of a kind that is not supported.
    pub fn way(&self, to: &HostPort) -> Result<Way, ProxyError> {
        let proxy = match self {
            _ if to.is_loopback() => None,
            Self::System => of_system(to)?,
            Self::Never => None,
            Self::Always(proxy) => Some(proxy.clone()),
        };
        Ok(Way::new(to, proxy))
    }
}

/// The proxy that the environment, else the system names for `to`. The first call of a process tells of variables that
/// cannot be read; no part of a value is shown, since it may hold a password.
fn of_system(to: &HostPort) -> Result<Option<Proxy>, ProxyError> {
    static TOLD: Once = Once::new();

    let wrong = variables::wrong(|name| env::var_os(name));
    TOLD.call_once(|| {
        for name in &wrong.passed_over {
            tracing::warn!(
                "{name} is not used: its value is not the URL of a proxy (http://, socks5:// or socks5h://; / ? # @ : % \
                 and characters outside ASCII in a password percent-encoded)"
            );
        }
    });
    let exempt = variables::no_proxy(|name| env::var_os(name)).unwrap_or_default();
    if exempts(&exempt, to) {
        return Ok(None);
    }
    if let Some(scheme) = wrong.scheme {
        return Err(ProxyError::Kind { scheme });
    }
    match named_by(&Matcher::from_system(), to)? {
        Some(_) if wrong.is_broken => Err(ProxyError::Url {
            text: UNKNOWN.to_owned(),
        }),
        Some(proxy) => {
            tell_misspelt(&exempt);
            Ok(Some(proxy))
        }
        None => Ok(None),
    }
}

/// Tells once of entries in `NO_PROXY` that match no host, and may have been meant for a relay that a proxy leads to.
fn tell_misspelt(no_proxy: &str) {
    static TOLD: Once = Once::new();

    TOLD.call_once(|| {
        for (entry, right) in variables::misspelt(no_proxy) {
            tracing::warn!("NO_PROXY: the entry {entry:?} matches no host: write {right}");
        }
    });
}

/// True if `no_proxy` exempts `to`, as [`Matcher`] reads it, or one of its entries with a port.
fn exempts(no_proxy: &str, to: &HostPort) -> bool {
    let matcher = Matcher::builder()
        .all("http://proxy.invalid")
        .no(variables::at_port(no_proxy, to.port()))
        .build();
    named_by(&matcher, to).is_ok_and(|named| named.is_none())
}

/// The proxy that `matcher` names for `to`. Links of all transports go through a tunnel of the proxy, so the proxy is that
/// for `https`.
fn named_by(matcher: &Matcher, to: &HostPort) -> Result<Option<Proxy>, ProxyError> {
    let Ok(uri) = Uri::try_from(format!("https://{to}")) else {
        return Ok(None);
    };
    let found = matcher.intercept(&uri);
    found.map(|found| Proxy::of(&found)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(text: &str) -> HostPort {
        HostPort::parse(text, None).unwrap()
    }

    #[test]
    fn the_environment_names_the_proxy_and_the_exceptions() {
        let matcher = Matcher::builder()
            .https("http://ada:secret@proxy.studio:3128")
            .no("internal.studio, 10.0.0.0/8")
            .build();
        for (host, proxy) in [
            ("relay.example:9001", Some("http://proxy.studio:3128")),
            ("internal.studio:443", None),
            ("relay.internal.studio:443", None),
            ("10.1.2.3:9001", None),
            ("[2001:db8::1]:443", Some("http://proxy.studio:3128")),
        ] {
            let found = named_by(&matcher, &to(host)).unwrap();
            let shown = found.as_ref().map(ToString::to_string);
            assert_eq!(shown.as_deref(), proxy, "{host}");
            assert!(!format!("{found:?}").contains("secret"));
        }
        let all = Matcher::builder().all("socks5h://proxy").build();
        let found = named_by(&all, &to("relay:1")).unwrap().unwrap();
        assert_eq!(found.to_string(), "socks5h://proxy:1080");
    }

    #[test]
    fn an_exception_with_a_port_is_for_that_port_alone() {
        let exempt = "relay.test:8443,[2001:db8::1]:443,10.9.8.7:1,*:7,.plain.test";
        for (host, is_exempt) in [
            ("relay.test:8443", true),
            ("below.relay.test:8443", true),
            ("relay.test:443", false),
            ("otherrelay.test:8443", false),
            ("[2001:db8::1]:443", true),
            ("[2001:db8::1]:8443", false),
            ("10.9.8.7:1", true),
            ("10.9.8.7:2", false),
            ("any.test:7", true),
            ("10.1.1.1:7", true),
            ("[2001:db8::2]:7", true),
            ("10.1.1.1:8", false),
            ("a.plain.test:443", true),
        ] {
            assert_eq!(exempts(exempt, &to(host)), is_exempt, "{host}");
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
            ("None", None),
        ] {
            let way = Proxies::parse(text).unwrap().way(&to("relay:1")).unwrap();
            let proxy = way.proxy().map(ToString::to_string);
            assert_eq!(proxy.as_deref(), shown, "{text}");
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
    fn a_password_in_a_variable_that_is_not_encoded_is_not_shown() {
        for text in ["http://ada:secret/x@proxy:1", "http://ada:x@secret@proxy:1"] {
            let matcher = Matcher::builder().all(text).build();
            let error = named_by(&matcher, &to("relay:1")).unwrap_err();
            let message = format!("{error} {error:?}");
            assert!(message.contains("HTTPS_PROXY"), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn this_machine_is_never_reached_through_a_proxy() {
        let proxies = Proxies::parse("http://proxy:3128").unwrap();
        for text in ["localhost:1", "127.0.0.1:1", "[::1]:1", "relay.localhost:1"] {
            assert!(proxies.way(&to(text)).unwrap().proxy().is_none(), "{text}");
        }
    }
}
