//! The relay's own names in URLs that targets and callers write, and which tunnel such a URL means.

use bytes::Bytes;
use tieline_hop::rewrite::default_port;
use tieline_wire::TunnelId;

use crate::listen::http::inbound::url::{HostMeaning, UrlMeaning, host_meaning, split};
use crate::listen::http::target::Origin;

/// The relay's names that one request shows.
#[derive(Clone, Debug, Default)]
pub(crate) struct RelayNames {
    /// Authority under which the caller knows the relay; `None` if the request has none.
    pub(crate) public: Option<Bytes>,
    /// Authority in the request that reached the relay, if a trusted proxy reports a different
    /// authority for the caller.
    pub(crate) inner: Option<Bytes>,
    /// Authority of `public_url`, which a target may be configured with.
    pub(crate) public_authority: Option<Bytes>,
    /// The relay's domain.
    pub(crate) domain: Option<String>,
}

/// Owner of the authority in a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthorityOwner<'a> {
    /// The relay itself: the path may name a tunnel.
    Relay,
    /// The tunnel with this label.
    Tunnel(&'a str),
    /// Neither the relay nor a tunnel.
    Foreign,
}

impl RelayNames {
    /// The owner of `authority` in a URL with that scheme.
    pub(crate) fn whose<'a>(&self, https: bool, authority: &'a [u8]) -> AuthorityOwner<'a> {
        let Ok(text) = str::from_utf8(authority) else {
            return AuthorityOwner::Foreign;
        };
        let Some(origin) = Origin::parse(authority, default_port(https)) else {
            return AuthorityOwner::Foreign;
        };
        let names = [&self.public, &self.inner, &self.public_authority]
            .into_iter()
            .flatten();
        let is_known = names.into_iter().any(|name| is_same(&origin, https, name));
        let domain = self.domain.as_deref();
        if !is_known && !domain.is_some_and(|it| self.is_below(&origin, https, it)) {
            return AuthorityOwner::Foreign;
        }
        match host_meaning(text, domain, false) {
            HostMeaning::Tunnel(label) => AuthorityOwner::Tunnel(label),
            HostMeaning::Relay => AuthorityOwner::Relay,
            HostMeaning::Other if is_known => AuthorityOwner::Relay,
            HostMeaning::Other => AuthorityOwner::Foreign,
        }
    }

    /// True for the relay's domain or a name below it, with the port that the caller used or the scheme's
    /// default port.
    fn is_below(&self, origin: &Origin, https: bool, domain: &str) -> bool {
        let domain = domain.to_ascii_lowercase();
        let host = origin.host.strip_suffix(b".").unwrap_or(&origin.host);
        let is_below = host
            .strip_suffix(domain.as_bytes())
            .is_some_and(|label| label.is_empty() || label.ends_with(b"."));
        let public = self.public.as_deref();
        let public = public.and_then(|it| Origin::parse(it, default_port(https)));
        let is_port = origin.port == default_port(https);
        is_below && (is_port || public.is_some_and(|public| public.port == origin.port))
    }
}

/// True if `origin` equals `name`. The default ports of both schemes count as equal: behind a TLS terminator, a
/// target may think that the relay uses `http`.
fn is_same(origin: &Origin, https: bool, name: &[u8]) -> bool {
    let Some(mut name) = Origin::parse(name, default_port(https)) else {
        return false;
    };
    let is_default = |port| port == default_port(true) || port == default_port(false);
    if is_default(origin.port) && is_default(name.port) {
        name.port = origin.port;
    }
    name.is_same(origin)
}

/// Which tunnel a path at the relay names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carried<'a> {
    /// This tunnel: `well_known` is the well-known path in front of the prefix, or empty; `rest` follows the prefix.
    This { well_known: &'a str, rest: &'a str },
    /// Another tunnel, or a kind.
    Another,
    /// No tunnel.
    Nothing,
}

/// Reads which tunnel a path names, with or without a query. `tunnel` is this tunnel; `prefix` is the prefix
/// of the request.
pub(crate) fn carried<'a>(path: &'a str, tunnel: &TunnelId, prefix: &str) -> Carried<'a> {
    let is_this = |name: &str| TunnelId::parse(name).is_ok_and(|name| name == *tunnel);
    let url = match split(HostMeaning::Relay, path) {
        Some(UrlMeaning::Tunnel(url)) => Some(url).filter(|url| is_this(url.tunnel)),
        Some(UrlMeaning::Kind { any, tunnel, .. }) => tunnel
            .filter(|url| is_this(url.tunnel))
            .or_else(|| Some(any).filter(|any| is_under(prefix, any.prefix))),
        Some(UrlMeaning::Health | UrlMeaning::Tunnels { .. } | UrlMeaning::Agent) | None => {
            return Carried::Nothing;
        }
    };
    url.map_or(Carried::Another, |url| Carried::This {
        well_known: url.well_known,
        rest: url.rest,
    })
}

/// True if `prefix` is the prefix `kind`, or that of a tunnel below it.
fn is_under(prefix: &str, kind: &str) -> bool {
    let rest = prefix.strip_prefix(kind);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(public: &'static str, domain: Option<&str>) -> RelayNames {
        RelayNames {
            public: Some(Bytes::from_static(public.as_bytes())),
            inner: Some(Bytes::from_static(b"inner:9080")),
            public_authority: Some(Bytes::from_static(b"public.example")),
            domain: domain.map(str::to_owned),
        }
    }

    #[test]
    fn the_relay_is_known_by_the_names_that_a_request_shows() {
        let ours = ours("relay.example:9080", None);
        for (https, authority) in [
            (false, "relay.example:9080"),
            (true, "Relay.Example:9080"),
            (false, "inner:9080"),
            (true, "public.example"),
            (true, "public.example:443"),
        ] {
            assert_eq!(
                ours.whose(https, authority.as_bytes()),
                AuthorityOwner::Relay
            );
        }
        for authority in ["relay.example", "relay.example:80", "other:9080", "", "a b"] {
            let whose = ours.whose(false, authority.as_bytes());
            assert_eq!(whose, AuthorityOwner::Foreign, "{authority}");
        }
    }

    #[test]
    fn default_ports_count_as_one() {
        for public in ["relay.example", "relay.example:80", "relay.example:443"] {
            let ours = ours(public, None);
            for (https, authority) in [
                (true, "relay.example"),
                (false, "relay.example"),
                (true, "relay.example:443"),
                (false, "relay.example:80"),
            ] {
                let whose = ours.whose(https, authority.as_bytes());
                assert_eq!(whose, AuthorityOwner::Relay, "{public} {https} {authority}");
            }
            assert_eq!(
                ours.whose(true, b"relay.example:9080"),
                AuthorityOwner::Foreign
            );
        }
    }

    #[test]
    fn on_this_machine_all_names_of_it_are_one() {
        let ours = ours("127.0.0.1:9080", None);
        assert_eq!(ours.whose(false, b"localhost:9080"), AuthorityOwner::Relay);
        assert_eq!(
            ours.whose(false, b"localhost:9081"),
            AuthorityOwner::Foreign
        );
    }

    #[test]
    fn a_name_below_the_domain_is_a_tunnels() {
        let ours = ours("maya.relay.example:9080", Some("relay.example"));
        let whose = |authority: &'static str| ours.whose(false, authority.as_bytes());
        assert_eq!(
            whose("maya.relay.example:9080"),
            AuthorityOwner::Tunnel("maya")
        );
        assert_eq!(
            whose("comfy.relay.example"),
            AuthorityOwner::Tunnel("comfy")
        );
        assert_eq!(whose("relay.example:9080"), AuthorityOwner::Relay);
        assert_eq!(whose("relay.example:1234"), AuthorityOwner::Foreign);
        assert_eq!(whose("evilrelay.example"), AuthorityOwner::Foreign);
        assert_eq!(whose("a.b.relay.example"), AuthorityOwner::Foreign);
    }

    #[test]
    fn a_path_carries_this_tunnels_prefix_or_anothers_or_none() {
        let maya = TunnelId::parse("maya").unwrap();
        let of = |path: &'static str| carried(path, &maya, "/dcc/maya-kind");
        let this = |well_known, rest| Carried::This { well_known, rest };
        assert_eq!(of("/w/maya/x?y"), this("", "/x?y"));
        assert_eq!(of("/tunnel/maya"), this("", ""));
        assert_eq!(of("/dcc/any/maya/x"), this("", "/x"));
        assert_eq!(of("/dcc/maya-kind/x"), this("", "/x"));
        let known = "/.well-known/oauth-protected-resource";
        let path = "/.well-known/oauth-protected-resource/w/maya/mcp";
        assert_eq!(of(path), this(known, "/mcp"));
        assert_eq!(of("/w/mayax/x"), Carried::Another);
        assert_eq!(of("/dcc/any/x"), Carried::Another);
        for path in ["/x", "/", "/w", "/wx/maya", "/health", "/tunnels"] {
            assert_eq!(of(path), Carried::Nothing, "{path}");
        }
    }
}
