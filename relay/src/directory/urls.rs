//! Makes all public URLs of tunnels: those that agents and callers are told.

use tieline_wire::TunnelId;

use crate::config::{Config, ListenAddress, PublicUrl, listener_of_urls};

/// The tunnel's path at the relay's own host, in front of the target's path.
pub(crate) fn path_of_tunnel(tunnel: &TunnelId) -> String {
    format!("/w/{tunnel}")
}

/// Beginnings of the URLs of all tunnels.
#[derive(Clone, Debug, Default)]
pub(crate) struct PublicUrls {
    /// URL of the relay; `None` if it has no HTTP listener.
    base: Option<PublicUrl>,
    /// DNS name under which each tunnel has a subdomain.
    domain: Option<String>,
    /// True if URLs use the host that the agent dialled, because the listener is bound to all addresses.
    is_dialled: bool,
}

impl PublicUrls {
    /// The URLs of a relay whose HTTP listeners are bound to `http`.
    pub(crate) fn new(config: &Config, http: &[ListenAddress]) -> Self {
        let domain = config.domain.clone();
        let listener = listener_of_urls(http);
        let base = match (&config.public_url, listener) {
            (Some(url), _) => Some(url.clone()),
            (None, Some(it)) => PublicUrl::of(it.is_tls, &it.address.to_string()),
            (None, None) => None,
        };
        let is_any = listener.is_some_and(|it| it.address.ip().to_canonical().is_unspecified());
        let is_named = config.public_url.is_some() || domain.is_some();
        let base = base.map(|base| match &domain {
            Some(domain) if config.public_url.is_none() => base.with_host(domain),
            _ => base,
        });
        Self {
            is_dialled: !is_named && is_any,
            base,
            domain,
        }
    }

    /// The URLs for a request to `authority`; `public_url` wins over `authority` if it is set.
    pub(crate) fn for_request(
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

    /// URL of the relay; `None` if it has no HTTP listener.
    pub(crate) const fn base(&self) -> Option<&PublicUrl> {
        self.base.as_ref()
    }

    /// All URLs of a tunnel. The one under the tunnel's own subdomain comes first: its paths are the same as
    /// the target's. `dialled` is the host that the tunnel's agent dialled.
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
            Some(dialled) => base.with_host_of(dialled).usable(),
            None => base.clone().usable(),
        };
        let own = self.domain.as_ref().map(|domain| {
            let own = base.with_host(&format!("{tunnel}.{domain}"));
            format!("{own}{base_path}")
        });
        let shared = format!("{base}{}{base_path}", path_of_tunnel(tunnel));
        own.into_iter().chain([shared]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(change: impl FnOnce(&mut Config), http: &[&str], dialled: &str) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config);
        let http: Vec<ListenAddress> = http.iter().map(|it| it.parse().unwrap()).collect();
        let urls = PublicUrls::new(&config, &http);
        urls.of_tunnel(&TunnelId::parse("maya").unwrap(), "/mcp", Some(dialled))
    }

    fn for_request(
        url: Option<&str>,
        domain: Option<&str>,
        https: bool,
        host: &str,
    ) -> Vec<String> {
        let url = url.map(|url| PublicUrl::parse(url).unwrap());
        let urls = PublicUrls::for_request(url.as_ref(), domain, https, Some(host));
        urls.of_tunnel(&TunnelId::parse("maya").unwrap(), "", None)
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
            config.public_url = PublicUrl::parse("https://relay.example").ok();
        };
        let expected = [
            "https://maya.relay.example/mcp",
            "https://relay.example/w/maya/mcp",
        ];
        assert_eq!(urls(both, &["127.0.0.1:9080"], "10.0.0.1:9001"), expected);
    }

    #[test]
    fn a_listener_with_tls_makes_urls_with_https() {
        let nothing = |_: &mut Config| {};
        let domain = |config: &mut Config| config.domain = Some("relay.example".to_owned());
        let expected = [
            "https://maya.relay.example/mcp",
            "https://relay.example/w/maya/mcp",
        ];
        let both = ["127.0.0.1:9080", "tls://0.0.0.0:443"];
        assert_eq!(urls(domain, &both, "10.0.0.1:9001"), expected);
        let dialled = urls(
            nothing,
            &["127.0.0.1:9080", "tls://[::]:8443"],
            "Relay.example:9001",
        );
        assert_eq!(dialled, ["https://relay.example:8443/w/maya/mcp"]);
        let address = urls(nothing, &["tls://192.0.2.1:443"], "x:1");
        assert_eq!(address, ["https://192.0.2.1/w/maya/mcp"]);
        let set = |config: &mut Config| config.public_url = PublicUrl::parse("http://r:80").ok();
        let set = urls(set, &["tls://0.0.0.0:443"], "x:1");
        assert_eq!(set, ["http://r/w/maya/mcp"]);
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
        let zero = for_request(None, None, false, "0.0.0.0:9080");
        assert_eq!(zero, ["http://localhost:9080/w/maya"]);
    }

    #[test]
    fn a_request_is_told_urls_of_the_name_that_it_used() {
        let plain = for_request(None, None, true, "relay.example");
        assert_eq!(plain, ["https://relay.example/w/maya"]);
        let domain = for_request(None, Some("relay.example"), false, "127.0.0.1:9080");
        let expected = [
            "http://maya.relay.example:9080/",
            "http://127.0.0.1:9080/w/maya",
        ];
        assert_eq!(domain[0], expected[0].trim_end_matches('/'));
        assert_eq!(domain[1], expected[1]);
        let set = for_request(Some("https://relay.example"), None, false, "10.0.0.1:9080");
        assert_eq!(set, ["https://relay.example/w/maya"]);
        assert!(for_request(None, None, false, "a b").is_empty());
    }
}
