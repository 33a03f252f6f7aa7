//! The URL at which callers reach the relay; `directory/urls` makes the URLs of tunnels from it.

use std::fmt;

use http::uri::Authority;
use tieline_hop::rewrite::default_port;

use super::names::is_host;
use super::{Config, ListenAddress};
use crate::host::{host_of, is_unspecified};

/// Longest host in a URL (RFC 1035, 2.3.4); the host that an agent says it dialled may be longer.
const HOST_BYTES_MAX: usize = 255;

/// Replaces a host that callers cannot use, such as `0.0.0.0`.
const LOCAL: &str = "localhost";

/// Scheme, host and port that callers reach the relay at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    https: bool,
    /// In brackets if it is an IPv6 address.
    host: String,
    port: u16,
}

impl PublicUrl {
    /// Parses a URL such as `https://relay.example` or `http://relay.example:9080`. It must not have a user, a
    /// path, a query or a wildcard address.
    ///
    /// # Errors
    /// What is wrong with `text`, worded to follow `text` in a sentence.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(
                "has no scheme: write it as https://relay.example or http://relay.example:9080",
            );
        };
        let https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => {
                return Err(
                    "begins with another scheme than https:// or http://, which callers use",
                );
            }
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
        if authority.contains('@') {
            return Err("names a user: scheme, host and port alone belong here");
        }
        if !matches!(&rest[authority.len()..], "" | "/") {
            return Err(
                "has a path: scheme, host and port alone belong here, and a tunnel's path comes behind \
                 them (/w/<tunnel>)",
            );
        }
        if authority.contains('*') {
            return Err(
                "has a *: the relay's own name belongs here, such as https://relay.example",
            );
        }
        let wrong = "has no host or port that callers can use: write it as https://relay.example or \
                     http://relay.example:9080";
        let url = Self::of(https, authority).ok_or(wrong)?;
        if is_unspecified(host_of(&url.host)) {
            return Err(
                "names all addresses of a machine instead of one: the name or address that callers use \
                 belongs here",
            );
        }
        if url.host.ends_with('.') {
            return Err(
                "has a dot at the end of its host: write it without, as in https://relay.example",
            );
        }
        if !is_host(&url.host) || url.port == 0 {
            return Err(wrong);
        }
        Ok(url)
    }

    /// Makes a URL from a request's authority, or from the authority that an agent dialled.
    pub(crate) fn of(https: bool, authority: &str) -> Option<Self> {
        let parsed: Authority = authority.parse().ok()?;
        let host = parsed.host();
        let rest = authority.strip_prefix(host)?;
        let port = match rest.strip_prefix(':') {
            // Digits alone: `u16` allows a sign.
            Some(port) if port.bytes().any(|byte| !byte.is_ascii_digit()) => return None,
            Some(port) if !port.is_empty() => port.parse().ok()?,
            _ => default_port(https),
        };
        (1..=HOST_BYTES_MAX).contains(&host.len()).then(|| Self {
            https,
            host: host.to_ascii_lowercase(),
            port,
        })
    }

    /// Whether the scheme is `https`.
    pub(super) const fn is_https(&self) -> bool {
        self.https
    }

    /// Host and port, without the port if it is the scheme's default.
    pub(crate) fn authority(&self) -> String {
        match self.port == default_port(self.https) {
            true => self.host.clone(),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Whether the URL's host is `host`, which has no port and no dot at its end.
    pub(crate) fn has_host(&self, host: &str) -> bool {
        self.host.eq_ignore_ascii_case(host)
    }

    /// The same URL with another host.
    pub(crate) fn with_host(&self, host: &str) -> Self {
        Self {
            host: host.to_owned(),
            ..self.clone()
        }
    }

    /// The same URL with the host of `authority`, or with `localhost` if `authority` has no valid one.
    pub(crate) fn with_host_of(&self, authority: &str) -> Self {
        let other = Self::of(false, authority);
        self.with_host(other.as_ref().map_or(LOCAL, |it| &it.host))
    }

    /// Replaces a host that stands for all addresses by `localhost`.
    pub(crate) fn usable(self) -> Self {
        match is_unspecified(host_of(&self.host)) {
            true => self.with_host(LOCAL),
            false => self,
        }
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

/// The HTTP listener that public URLs lead to unless `public_url` is set. One with TLS comes before others, and an
/// address that a URL can name before `0.0.0.0` and `[::]`.
pub(crate) fn listener_of_urls(http: &[ListenAddress]) -> Option<ListenAddress> {
    let has_tls = http.iter().any(|it| it.is_tls);
    let mut those = http.iter().filter(|it| it.is_tls == has_tls);
    let named = those
        .clone()
        .find(|it| !it.address.ip().to_canonical().is_unspecified());
    named.or_else(|| those.next()).copied()
}

/// Warning for the operator, in one line, if agents elsewhere would be told URLs that callers cannot use.
pub(super) fn unusable(config: &Config, http: &[ListenAddress]) -> Option<String> {
    if config.public_url.is_some() {
        return None;
    }
    let remedy = "set public_url, as in https://relay.example";
    let is_local = |it: &ListenAddress| it.address.ip().to_canonical().is_loopback();
    let listener = listener_of_urls(http)?;
    if !config.callers.trusted_proxies.is_empty() {
        return Some(format!(
            "callers come through a proxy, and agents are told URLs of {listener} itself: {remedy}"
        ));
    }
    if config.domain.is_none() && listener.address.ip().to_canonical().is_unspecified() {
        return Some(format!(
            "{listener} is an address that no URL can name, so agents are told URLs with the host that \
             they dialled: {remedy}"
        ));
    }
    if !config.agent_listen.iter().all(is_local) && http.iter().all(is_local) {
        return Some(format!(
            "agents of other machines are told URLs of {listener}, which only this machine can reach: \
             {remedy}"
        ));
    }
    None
}

#[cfg(test)]
#[path = "tests/public_url.rs"]
mod tests;
