//! Public URLs: what agents and callers are told of where a tunnel is. Every one is made here.

use std::fmt;
use std::net::SocketAddr;

use http::Uri;
use http::uri::Authority;
use tieline_wire::TunnelId;

use super::Config;
use crate::host::{host_of, is_unspecified};

/// Longest host in a URL (RFC 1035, 2.3.4); an agent may say that it dialled a longer one.
const HOST_BYTES_MAX: usize = 255;

/// Host in place of one that no caller could use.
const LOCAL: &str = "localhost";

/// Scheme, host and port in front of a path: how callers reach the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    https: bool,
    /// In brackets if it is an IPv6 address.
    host: String,
    port: u16,
}

impl PublicUrl {
    /// Reads `https://relay.example` or `http://relay.example:9080`: no user, no path and no query, and
    /// no address that stands for all.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let has_path = !matches!(uri.path(), "" | "/") || uri.query().is_some();
        if has_path || text.contains('#') {
            return None;
        }
        let url = Self::of(https, uri.authority()?.as_str())?;
        (!is_unspecified(host_of(&url.host))).then_some(url)
    }

    /// From the authority of a request, or of what an agent dialled.
    fn of(https: bool, authority: &str) -> Option<Self> {
        let parsed: Authority = authority.parse().ok()?;
        let host = parsed.host();
        let rest = authority.strip_prefix(host)?;
        let port = match rest.strip_prefix(':') {
            Some(port) if !port.is_empty() => port.parse().ok()?,
            _ => default_port(https),
        };
        (1..=HOST_BYTES_MAX).contains(&host.len()).then(|| Self {
            https,
            host: host.to_ascii_lowercase(),
            port,
        })
    }

    /// Host and port, without the scheme's own port.
    pub(crate) fn authority(&self) -> String {
        match self.port == default_port(self.https) {
            true => self.host.clone(),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    fn with_host(&self, host: &str) -> Self {
        Self {
            host: host.to_owned(),
            ..self.clone()
        }
    }

    /// The same, or this machine's own name where the host stands for all its addresses.
    fn usable(self) -> Self {
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

const fn default_port(https: bool) -> u16 {
    if https { 443 } else { 80 }
}

/// How the URLs of all tunnels begin.
#[derive(Clone, Debug, Default)]
pub(crate) struct PublicUrls {
    /// Where the relay is; `None` if callers cannot come over HTTP.
    base: Option<PublicUrl>,
    /// Name under which each tunnel has a name of its own.
    domain: Option<String>,
    /// The listener has every address of its machine: the host that an agent dialled is one of them.
    is_dialled: bool,
}

impl PublicUrls {
    /// Those of a relay whose HTTP listeners are bound at `http`.
    pub(crate) fn new(config: &Config, http: &[SocketAddr]) -> Self {
        let domain = config.domain.clone();
        let is_usable = |it: &&SocketAddr| !it.ip().to_canonical().is_unspecified();
        let listener = http.iter().find(is_usable).or_else(|| http.first());
        let base = match (&config.public_url, listener) {
            (Some(url), _) => Some(url.clone()),
            (None, Some(listener)) => PublicUrl::of(false, &listener.to_string()),
            (None, None) => None,
        };
        let is_named = config.public_url.is_some() || domain.is_some();
        let base = base.map(|base| match &domain {
            Some(domain) if config.public_url.is_none() => base.with_host(domain),
            _ => base,
        });
        Self {
            is_dialled: !is_named && listener.is_some_and(|it| !is_usable(&it)),
            base,
            domain,
        }
    }

    /// Those for a request that named the relay as `authority`, where `public_url` is not set.
    pub(crate) fn asked(
        public_url: Option<&PublicUrl>,
        domain: Option<&str>,
        https: bool,
        authority: Option<&str>,
    ) -> Self {
        let base = match public_url {
            Some(url) => Some(url.clone()),
            None => authority
                .and_then(|it| PublicUrl::of(https, it))
                .map(PublicUrl::usable),
        };
        Self {
            base,
            domain: domain.map(str::to_owned),
            is_dialled: false,
        }
    }

    /// All URLs of a tunnel, the best one first: under a name of its own a server's paths are those
    /// that callers use. `dialled` is what its agent calls the relay.
    pub(crate) fn of_tunnel(
        &self,
        tunnel: &TunnelId,
        base_path: &str,
        dialled: Option<&str>,
    ) -> Vec<String> {
        let Some(base) = &self.base else {
            return Vec::new();
        };
        let base = match dialled.filter(|_| self.is_dialled) {
            Some(dialled) => {
                let host = PublicUrl::of(false, dialled).map_or(LOCAL.to_owned(), |it| it.host);
                base.with_host(&host).usable()
            }
            None => base.clone().usable(),
        };
        let own = self.domain.as_ref().map(|domain| {
            let own = base.with_host(&format!("{tunnel}.{domain}"));
            format!("{own}{base_path}")
        });
        let shared = format!("{base}/w/{tunnel}{base_path}");
        own.into_iter().chain([shared]).collect()
    }
}

/// What an operator is to be told of URLs that callers elsewhere cannot use, in one line.
pub(super) fn unusable(config: &Config, http: &[SocketAddr]) -> Option<String> {
    if config.public_url.is_some() {
        return None;
    }
    let remedy = "set public_url, as in https://relay.example";
    let is_local = |it: &SocketAddr| it.ip().to_canonical().is_loopback();
    let is_any = |it: &SocketAddr| it.ip().to_canonical().is_unspecified();
    let first = http.first()?;
    if !config.http.trusted_proxies.is_empty() {
        return Some(format!(
            "callers come through a proxy, and agents are told URLs of {first} itself: {remedy}"
        ));
    }
    if config.domain.is_none() && http.iter().all(is_any) {
        return Some(format!(
            "{first} is an address that no URL can name, so agents are told URLs with the host that \
             they dialled: {remedy}"
        ));
    }
    if !config.agent_listen.iter().all(is_local) && http.iter().all(is_local) {
        return Some(format!(
            "agents of other machines are told URLs of {first}, which only this machine can reach: \
             {remedy}"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(change: impl FnOnce(&mut Config), http: &[&str], dialled: &str) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config);
        let http: Vec<SocketAddr> = http.iter().map(|it| it.parse().unwrap()).collect();
        let urls = PublicUrls::new(&config, &http);
        urls.of_tunnel(&TunnelId::parse("maya").unwrap(), "/mcp", Some(dialled))
    }

    fn asked(url: Option<&str>, domain: Option<&str>, https: bool, host: &str) -> Vec<String> {
        let url = url.map(|url| PublicUrl::parse(url).unwrap());
        let urls = PublicUrls::asked(url.as_ref(), domain, https, Some(host));
        urls.of_tunnel(&TunnelId::parse("maya").unwrap(), "", None)
    }

    #[test]
    fn a_public_url_has_scheme_host_and_port_and_nothing_else() {
        for (text, shown) in [
            ("https://Relay.example", Some("https://relay.example")),
            ("https://relay.example:443/", Some("https://relay.example")),
            (
                "http://relay.example:9080",
                Some("http://relay.example:9080"),
            ),
            ("http://[2001:db8::1]:80", Some("http://[2001:db8::1]")),
            ("https://relay.example/tunnels", None),
            ("https://relay.example/?a", None),
            ("https://relay.example#a", None),
            ("https://ada@relay.example", None),
            ("https://relay.example:99999", None),
            ("relay.example", None),
            ("wss://relay.example", None),
            ("http://0.0.0.0:9080", None),
            ("http://[::]", None),
            ("http://0:80", None),
            ("https://", None),
        ] {
            let parsed = PublicUrl::parse(text).map(|url| url.to_string());
            assert_eq!(parsed.as_deref(), shown, "{text}");
        }
    }

    #[test]
    fn the_tunnels_own_name_comes_first() {
        let domain = |config: &mut Config| config.domain = Some("relay.example".to_owned());
        let expected = [
            "http://maya.relay.example:9080/mcp",
            "http://relay.example:9080/w/maya/mcp",
        ];
        assert_eq!(urls(domain, &["0.0.0.0:9080"], "10.0.0.1:9001"), expected);
        let both = |config: &mut Config| {
            domain(config);
            config.public_url = PublicUrl::parse("https://relay.example");
        };
        let expected = [
            "https://maya.relay.example/mcp",
            "https://relay.example/w/maya/mcp",
        ];
        assert_eq!(urls(both, &["127.0.0.1:9080"], "10.0.0.1:9001"), expected);
    }

    #[test]
    fn no_url_names_an_unspecified_address() {
        let nothing = |_: &mut Config| {};
        for (http, dialled, expected) in [
            (
                &["0.0.0.0:9080"][..],
                "192.0.2.1:9001",
                "http://192.0.2.1:9080/w/maya/mcp",
            ),
            (
                &["[::]:80"],
                "Relay.example:9001",
                "http://relay.example/w/maya/mcp",
            ),
            (
                &["[::]:9080"],
                "[2001:db8::1]:9001",
                "http://[2001:db8::1]:9080/w/maya/mcp",
            ),
            (
                &["0.0.0.0:9080"],
                "0.0.0.0:9001",
                "http://localhost:9080/w/maya/mcp",
            ),
            (
                &["0.0.0.0:9080"],
                "not a host",
                "http://localhost:9080/w/maya/mcp",
            ),
            (&["0.0.0.0:9080"], "", "http://localhost:9080/w/maya/mcp"),
            (
                &["0.0.0.0:9080", "192.0.2.1:81"],
                "x:1",
                "http://192.0.2.1:81/w/maya/mcp",
            ),
            (
                &["127.0.0.1:9080"],
                "x:1",
                "http://127.0.0.1:9080/w/maya/mcp",
            ),
        ] {
            assert_eq!(
                urls(nothing, http, dialled),
                [expected],
                "{http:?} {dialled}"
            );
        }
        assert!(urls(nothing, &[], "x:1").is_empty());
        let zero = asked(None, None, false, "0.0.0.0:9080");
        assert_eq!(zero, ["http://localhost:9080/w/maya"]);
    }

    #[test]
    fn a_request_is_told_urls_of_the_name_that_it_used() {
        let plain = asked(None, None, true, "relay.example");
        assert_eq!(plain, ["https://relay.example/w/maya"]);
        let domain = asked(None, Some("relay.example"), false, "127.0.0.1:9080");
        let expected = [
            "http://maya.relay.example:9080/",
            "http://127.0.0.1:9080/w/maya",
        ];
        assert_eq!(domain[0], expected[0].trim_end_matches('/'));
        assert_eq!(domain[1], expected[1]);
        let set = asked(Some("https://relay.example"), None, false, "10.0.0.1:9080");
        assert_eq!(set, ["https://relay.example/w/maya"]);
        assert!(asked(None, None, false, "a b").is_empty());
    }

    #[test]
    fn an_operator_hears_of_urls_that_callers_cannot_use() {
        let told = |change: fn(&mut Config), http: &str| {
            let mut config = Config::default();
            change(&mut config);
            unusable(&config, &[http.parse().unwrap()])
        };
        assert_eq!(told(|_| {}, "127.0.0.1:9080"), None);
        assert!(told(|_| {}, "0.0.0.0:9080").unwrap().contains("public_url"));
        let remote: fn(&mut Config) =
            |config| config.agent_listen = vec!["0.0.0.0:1".parse().unwrap()];
        assert!(told(remote, "127.0.0.1:9080").is_some());
        assert_eq!(told(remote, "192.0.2.1:9080"), None);
        let named: fn(&mut Config) = |config| config.domain = Some("relay.example".to_owned());
        assert_eq!(told(named, "0.0.0.0:9080"), None);
        let set: fn(&mut Config) = |config| {
            config.public_url = PublicUrl::parse("https://relay.example");
            config.http.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        };
        assert_eq!(told(set, "0.0.0.0:9080"), None);
        let proxied: fn(&mut Config) = |config| {
            config.http.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        };
        assert!(told(proxied, "127.0.0.1:9080").is_some());
    }
}
