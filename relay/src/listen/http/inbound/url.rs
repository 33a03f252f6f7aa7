//! Meaning of a request's URL: the tunnel that it names, and the rest for the target.
//!
//! Host and path are parsed here, once; the shard looks up the tunnel.

use std::net::IpAddr;

use http::uri::Authority;
use tieline_hop::headers::bearer;
use tieline_wire::TunnelId;

/// Longest method that [`hint`] skips.
const METHOD_BYTES_MAX: usize = 32;

/// Metadata paths at a host's root, followed by the resource's path: RFC 9728 (section 3.1), RFC 8414
/// (section 3.1), and OpenID Connect Discovery as RFC 8414 adapts it.
const WELL_KNOWN: [&str; 3] = [
    "/.well-known/oauth-protected-resource",
    "/.well-known/oauth-authorization-server",
    "/.well-known/openid-configuration",
];

/// Meaning of a request's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostMeaning<'a> {
    /// The relay itself: the path names the tunnel.
    Relay,
    /// A tunnel, by its label below the relay's domain.
    Tunnel(&'a str),
    /// A host that does not belong to the relay.
    Other,
}

/// Interprets a request's authority. Without a `domain`, the relay accepts any name.
///
/// IP addresses and `localhost` always mean the relay: no name server can redirect them.
///
/// `is_local` says that the caller runs on this machine and is not a proxy. A web page in a local browser
/// can use a name that resolves to loopback (DNS rebinding), and would then seem to have the relay's own
/// origin; such names contain a dot, and are refused.
pub(crate) fn host_meaning<'a>(
    authority: &'a str,
    domain: Option<&str>,
    is_local: bool,
) -> HostMeaning<'a> {
    let Some(domain) = domain else {
        let is_ours = |host: &str| is_ours_anywhere(host) || !host.contains('.');
        return match host(authority) {
            Some(host) if is_local && !is_ours(host) => HostMeaning::Other,
            None if !authority.is_empty() => HostMeaning::Other,
            _ => HostMeaning::Relay,
        };
    };
    let Some(host) = host(authority) else {
        return HostMeaning::Other;
    };
    if is_ours_anywhere(host) || host.eq_ignore_ascii_case(domain) {
        return HostMeaning::Relay;
    }
    match host.split_once('.') {
        Some((label, rest)) if !label.is_empty() && rest.eq_ignore_ascii_case(domain) => {
            HostMeaning::Tunnel(label)
        }
        _ => HostMeaning::Other,
    }
}

/// The host in an authority, without the port and without a trailing dot.
pub(crate) fn host(authority: &str) -> Option<&str> {
    // `parsed` only checks the authority; the result borrows from the argument, which lives longer.
    let parsed: Authority = authority.parse().ok()?;
    let (host, port) = authority.split_at_checked(parsed.host().len())?;
    let digits = port.strip_prefix(':').unwrap_or(port);
    if host != parsed.host() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(host.strip_suffix('.').unwrap_or(host))
}

/// True for an IP address or `localhost`: a web page cannot make these names resolve to the relay (DNS
/// rebinding).
pub(crate) fn is_ours_anywhere(host: &str) -> bool {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    bare.parse::<IpAddr>().is_ok() || bare.trim_end_matches('.').eq_ignore_ascii_case("localhost")
}

/// Parts of a URL that leads to a tunnel or to a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UrlParts<'a> {
    /// Prefix of the target's path in public URLs, as the caller wrote it: `/w/<tunnel>`; empty if the host
    /// names the tunnel.
    pub(crate) prefix: &'a str,
    /// The tunnel's name as the caller wrote it; empty for any tunnel of a kind.
    pub(crate) tunnel: &'a str,
    /// The well-known path in front of the prefix, or empty.
    pub(crate) well_known: &'a str,
    /// The rest of the path and query: empty, or begins with `/` or `?`.
    pub(crate) rest: &'a str,
}

impl UrlParts<'_> {
    /// Path and query for the target.
    pub(crate) fn path(&self) -> String {
        // `OPTIONS *` (RFC 9112, section 3.2.4): only where the host names the tunnel.
        if self.rest == "*" {
            return self.rest.to_owned();
        }
        let is_bare = self.well_known.is_empty() && !self.rest.starts_with('/');
        let slash = if is_bare { "/" } else { "" };
        [self.well_known, slash, self.rest].concat()
    }
}

/// Meaning of a request's URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UrlMeaning<'a> {
    /// One tunnel.
    Tunnel(UrlParts<'a>),
    /// Any tunnel of the kind `dcc`, or the tunnel that the next segment names, if it is of that kind.
    Kind {
        dcc: &'a str,
        any: UrlParts<'a>,
        tunnel: Option<UrlParts<'a>>,
    },
    /// The relay's health check.
    Health,
    /// The relay's list of tunnels that the caller may reach, beginning after the name `after`.
    Tunnels { after: &'a str },
    /// Links of agents over WebSocket.
    Agent,
}

impl UrlMeaning<'_> {
    /// Whether the URL is for metadata at the relay's root.
    pub(crate) fn is_well_known(&self) -> bool {
        match self {
            Self::Tunnel(url) | Self::Kind { any: url, .. } => !url.well_known.is_empty(),
            Self::Health | Self::Tunnels { .. } | Self::Agent => false,
        }
    }
}

/// Interprets a path, with or without its query; `None` if it names neither a tunnel nor a page of the relay.
pub(crate) fn split<'a>(host: HostMeaning<'a>, path: &'a str) -> Option<UrlMeaning<'a>> {
    match host {
        HostMeaning::Relay => {}
        HostMeaning::Other => return None,
        HostMeaning::Tunnel(tunnel) => {
            return Some(UrlMeaning::Tunnel(UrlParts {
                prefix: "",
                tunnel,
                well_known: "",
                rest: path,
            }));
        }
    }
    match path.split_once('?').unwrap_or((path, "")) {
        ("/health", _) => return Some(UrlMeaning::Health),
        ("/agent", _) => return Some(UrlMeaning::Agent),
        ("/tunnels", query) => {
            let mut fields = query.split('&');
            let after = fields.find_map(|field| field.strip_prefix("after="));
            return Some(UrlMeaning::Tunnels {
                after: after.unwrap_or_default(),
            });
        }
        _ => {}
    }
    let (well_known, path) = split_well_known(path);
    let (first, behind) = segment(path, 0)?;
    let (second, behind_second) = segment(path, behind)?;
    let url = |tunnel, end| UrlParts {
        prefix: &path[..end],
        tunnel,
        well_known,
        rest: &path[end..],
    };
    match first {
        "w" | "tunnel" => Some(UrlMeaning::Tunnel(url(second, behind_second))),
        "dcc" => Some(UrlMeaning::Kind {
            dcc: second,
            any: url("", behind_second),
            tunnel: segment(path, behind_second).map(|(name, end)| url(name, end)),
        }),
        _ => None,
    }
}

/// Splits off a well-known path at the start, if the path ends there or continues with `/` or `?`.
pub(crate) fn split_well_known(path: &str) -> (&str, &str) {
    let found = WELL_KNOWN.iter().find(|known| {
        let rest = path.strip_prefix(**known);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
    });
    path.split_at(found.map_or(0, |known| known.len()))
}

/// The segment after the slash at `start`, and the offset of its end; `None` if it is missing or empty.
fn segment(path: &str, start: usize) -> Option<(&str, usize)> {
    let inside = path.get(start..)?.strip_prefix('/')?;
    let len = inside.find(['/', '?']).unwrap_or(inside.len());
    (len > 0).then(|| (&inside[..len], start + 1 + len))
}

/// Guesses from a connection's first bytes which tunnel its first request names; `None` if undecidable.
///
/// Only a hint for the choice of a shard: hyper's parse of the whole head decides on the tunnel.
pub(crate) fn hint(head: &[u8], domain: Option<&str>) -> Option<TunnelId> {
    // A server ignores empty lines before the request line (RFC 9112, section 2.2).
    let start = head.iter().position(|b| !matches!(b, b'\r' | b'\n'))?;
    let line = &head[start..];
    let method_bytes = line
        .iter()
        .take(METHOD_BYTES_MAX + 1)
        .position(|b| *b == b' ')?;
    let target = line.get(method_bytes + 1..)?;
    // The last segment of an incomplete target may continue.
    let target_bytes = target
        .iter()
        .position(|b| matches!(b, b' ' | b'\r' | b'\n' | b'#'));
    let (target, fields) = target.split_at(target_bytes.unwrap_or(target.len()));
    let target = str::from_utf8(target).ok()?;
    let (authority, path) = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => {
            let (authority, path) = rest.split_at(rest.find('/')?);
            (Some(authority), path)
        }
        _ => (None, target),
    };
    let host = match domain {
        None => HostMeaning::Relay,
        Some(_) => {
            let authority = authority.or_else(|| field(fields, b"host:"))?;
            host_meaning(authority, domain, false)
        }
    };
    let url = match split(host, path)? {
        UrlMeaning::Tunnel(url)
        | UrlMeaning::Kind {
            tunnel: Some(url), ..
        } => url,
        UrlMeaning::Kind { .. }
        | UrlMeaning::Health
        | UrlMeaning::Tunnels { .. }
        | UrlMeaning::Agent => return None,
    };
    if url.rest.is_empty() && target_bytes.is_none() {
        return None;
    }
    TunnelId::parse(url.tunnel).ok()
}

/// The bearer token in a connection's first bytes, if its line is complete. Only a hint: the caller is
/// decided by hyper's parse.
pub(crate) fn hinted_token(head: &[u8]) -> Option<&str> {
    field(head, b"authorization:").and_then(bearer)
}

/// The first value of a header field among the complete lines after the first line; `name` includes the
/// colon.
fn field<'a>(lines: &'a [u8], name: &[u8]) -> Option<&'a str> {
    let complete = lines.iter().rposition(|b| *b == b'\n')?;
    let mut lines = lines[..complete].split(|b| *b == b'\n').skip(1);
    let value = lines.find_map(|line| {
        let (start, value) = line.split_at_checked(name.len())?;
        start.eq_ignore_ascii_case(name).then_some(value)
    })?;
    str::from_utf8(value.trim_ascii()).ok()
}

#[cfg(test)]
#[path = "../tests/url.rs"]
mod tests;
