//! URLs of servers that the relay sends requests to.

use std::fmt;

use http::Uri;

/// An `http` or `https` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl(Uri);

impl HttpUrl {
    /// Parses an `http` or `https` URL; returns `None` for other URLs and for one with a user or a password.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let fits = matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.authority().is_some_and(|it| !it.as_str().contains('@'));
        fits.then_some(Self(uri))
    }

    /// True if `text` is meant as a URL and not as the name of a file.
    pub(super) fn is_meant(text: &str) -> bool {
        text.contains("://")
    }

    /// True for `https`: requests are encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// True for `http` to another machine: third parties on the way can read and change everything.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        let host = self.0.host().unwrap_or("");
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let is_local = bare == "localhost"
            || bare
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.to_canonical().is_loopback());
        !self.is_https() && !is_local
    }

    pub(crate) const fn uri(&self) -> &Uri {
        &self.0
    }

    /// Appends `path` to the URL's own path.
    pub(crate) fn join(&self, path: &str) -> Option<Self> {
        let base = self.0.to_string();
        let base = base.split(['?', '#']).next().unwrap_or("");
        Self::parse(&format!("{}{path}", base.trim_end_matches('/')))
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
