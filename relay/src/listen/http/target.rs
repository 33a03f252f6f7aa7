//! A target, as far as the HTTP front needs to know it.

use std::net::IpAddr;

use http::HeaderValue;
use http::uri::Authority;
use tieline_hop::rewrite::default_port;
use tieline_wire::{Generation, Scheme, TunnelId};

use crate::directory::{AgentBinding, Served, Stale};
use crate::registry::AgentTag;

/// Data about a tunnel's target that the HTTP front needs.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) tunnel: TunnelId,
    /// Tag of the agent in front of this target.
    pub(crate) agent: AgentTag,
    /// Whether the tunnel may have several agents.
    pub(super) is_shared: bool,
    /// Value of `Host` in requests to the target.
    pub(super) host: HeaderValue,
    /// Value of `Origin` in requests to the target from allowed web pages.
    pub(super) page: HeaderValue,
    /// Path prefix to which callers are limited; empty if all paths are exposed.
    pub(super) exposed: String,
    /// Path of the target's MCP endpoint; may be empty.
    pub(super) base_path: String,
    /// Ownership of the tunnel; a connection of an older generation is not used again.
    pub(crate) generation: Generation,
    /// Revision of the route that led here.
    pub(crate) revision: u64,
    pub(super) origin: Origin,
    pub(super) https: bool,
    /// Whether the target is announced as one that takes bytes, not as an HTTP server.
    pub(super) is_tcp: bool,
    /// Whether the target is a program behind its agent, which must know the caller of each request.
    pub(super) is_stdio: bool,
}

impl Target {
    /// The target of a route, as its agent described it.
    ///
    /// `None` if the target's authority is not a valid `Host` value.
    pub(crate) fn new(served: &Served<'_>) -> Option<Self> {
        let info = served.info;
        let authority = &info.authority;
        let https = info.scheme == Scheme::Https;
        let parsed: Authority = authority.parse().ok()?;
        let host = HeaderValue::from_str(authority).ok()?;
        let scheme = if https { "https" } else { "http" };
        let page = HeaderValue::from_str(&format!("{scheme}://{authority}")).ok()?;
        let origin = Origin::parse(parsed.as_str().as_bytes(), default_port(https))?;
        (!authority.contains('@')).then(|| Self {
            tunnel: served.tunnel.clone(),
            agent: served.agent,
            is_shared: info.shared,
            host,
            page,
            exposed: if info.expose_all {
                String::new()
            } else {
                info.base_path.clone()
            },
            base_path: info.base_path.clone(),
            generation: served.generation,
            revision: served.revision,
            origin,
            https,
            is_tcp: info.scheme == Scheme::Tcp,
            is_stdio: info.scheme == Scheme::Stdio,
        })
    }

    /// This target, whose link was found to be lost.
    pub(crate) const fn stale(&self) -> Stale<'_> {
        Stale {
            tunnel: &self.tunnel,
            agent: self.agent,
            revision: self.revision,
        }
    }

    /// The tunnel and agent, to bind further requests to this agent.
    pub(super) fn binding(&self) -> AgentBinding {
        AgentBinding {
            tunnel: self.tunnel.clone(),
            agent: self.agent,
        }
    }
}

/// Host and port.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) host: Vec<u8>,
    pub(super) port: u16,
}

impl Origin {
    pub(super) fn parse(authority: &[u8], default_port: u16) -> Option<Self> {
        let user_end = authority
            .iter()
            .rposition(|b| *b == b'@')
            .map_or(0, |at| at + 1);
        let authority = &authority[user_end..];
        let host_end = match authority.iter().position(|b| *b == b']') {
            Some(bracket) => bracket + 1,
            None => authority
                .iter()
                .position(|b| *b == b':')
                .unwrap_or(authority.len()),
        };
        let (host, port) = authority.split_at(host_end);
        let port = match port {
            b"" | b":" => default_port,
            [b':', digits @ ..] => str::from_utf8(digits).ok()?.parse().ok()?,
            _ => return None,
        };
        (!host.is_empty()).then(|| Self {
            host: host.to_ascii_lowercase(),
            port,
        })
    }

    /// True if both name the same server; all loopback names and addresses count as equal.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.port == other.port
            && (self.host == other.host || (self.names_itself() && other.names_itself()))
    }

    fn names_itself(&self) -> bool {
        let host = self.host.strip_prefix(b"[").unwrap_or(&self.host);
        let host = host.strip_suffix(b"]").unwrap_or(host);
        host == b"localhost"
            || str::from_utf8(host)
                .ok()
                .and_then(|host| host.parse::<IpAddr>().ok())
                .is_some_and(|ip| ip.is_loopback() || ip.is_unspecified())
    }
}
