//! Maps URLs and cookies in a target's answers to the tunnel's public URL, and those in requests back to
//! the target's. All functions work on bytes, because header values need not be UTF-8.

use std::rc::Rc;

use http::header::{
    CONTENT_LOCATION, COOKIE, HOST, LINK, LOCATION, ORIGIN, REFERER, REFRESH, SET_COOKIE,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use tieline_hop::rewrite::{default_port, links, metadata, refresh, split_authority, values};
use tieline_hop::site::{self, Site};

use super::cookies;
use super::reference::{Reference, has_dots, path_len, resolved, rooted};
use super::relay_names::{AuthorityOwner, Carried, RelayNames, carried};
use crate::directory::path_of_tunnel;
use crate::listen::http::inbound::exposure::is_exposed;
use crate::listen::http::inbound::url::split_well_known;
use crate::listen::http::problem::Problem;
use crate::listen::http::target::{Origin, Target};
use crate::listen::http::target_query::TargetQuery;

/// Header field in which a script's answer widens the worker's scope.
const SERVICE_WORKER_ALLOWED: HeaderName = HeaderName::from_static("service-worker-allowed");

/// Relation between the public URL of one request and its URL at the target.
#[derive(Clone, Debug)]
pub(crate) struct Mapping {
    pub(crate) target: Rc<Target>,
    /// `/w/<tunnel>` as the caller wrote it, since cookie paths are compared byte by byte; empty if the
    /// host names the tunnel.
    pub(crate) prefix: String,
    /// Path and query of the request at the target.
    pub(crate) path: String,
    /// Whether the caller's path is not `prefix` followed by `path`: the caller asked for `/w/<tunnel>` alone, or for a
    /// path that the relay had marked. A relative reference then means another URL to the caller than to the target.
    pub(crate) bare: bool,
    /// The relay's names that the request shows.
    pub(crate) ours: RelayNames,
    /// Whether the caller uses TLS.
    pub(crate) https: bool,
    /// Whether the URL names a kind of application, so that any tunnel of that kind may answer.
    pub(crate) is_any: bool,
    /// Path on the target of the page in `Referer`, if that page belongs to the tunnel.
    pub(crate) referer: Option<Vec<u8>>,
    /// Scheme and authority of the target in its own words, from the login mark of a target that does not
    /// know its public URL.
    pub(crate) login_origin: Option<String>,
}

impl Mapping {
    /// Refuses a path that is not exposed.
    pub(crate) fn check_exposed(&self, wanted: &TargetQuery) -> Result<(), Problem> {
        if wanted.is_invited || self.is_open(&self.path) {
            return Ok(());
        }
        let url = [&self.prefix[..], &self.target.base_path].concat();
        Err(Problem::not_exposed(&url))
    }

    /// Whether callers may request `path` without an invitation from the target.
    pub(crate) fn is_open(&self, path: &str) -> bool {
        is_exposed(&self.target.exposed, path)
    }

    /// Whether the next request with the same URL may go to another agent.
    pub(crate) fn is_of_several(&self) -> bool {
        self.is_any || self.target.is_shared
    }

    /// The public prefix that leads to exactly this tunnel.
    pub(crate) fn prefix_of_one(&self) -> String {
        match self.is_any {
            true => [&self.prefix, "/", self.target.tunnel.as_str()].concat(),
            false => self.prefix.clone(),
        }
    }

    /// Maps cookies and the `Referer` of a request to the target.
    pub(crate) fn read(&mut self, headers: &mut HeaderMap) {
        if !self.prefix.is_empty() {
            values(headers, COOKIE, cookies::for_target);
        }
        let Some(page) = headers.get(REFERER) else {
            return;
        };
        let Reference::Absolute { https, rest } = Reference::of(page.as_bytes()) else {
            return;
        };
        let (authority, _) = split_authority(rest);
        if self.ours.whose(https, authority) == AuthorityOwner::Foreign {
            return;
        }
        self.referer = self.own_path(page.as_bytes());
        if self.referer.is_none() {
            // The page belongs to another tunnel: hide it from this target.
            headers.remove(REFERER);
        }
    }

    /// Writes the target's own address into `Host`, `Origin` and `Referer`: servers refuse foreign values. The
    /// page's origin has been checked before.
    pub(crate) fn address(&self, headers: &mut HeaderMap) {
        headers.insert(HOST, self.target.host.clone());
        if let Some(page) = headers.get_mut(ORIGIN) {
            *page = self.target.page.clone();
        }
        if let Some(path) = &self.referer
            && let Ok(page) = HeaderValue::try_from([self.target.page.as_bytes(), path].concat())
        {
            headers.insert(REFERER, page);
        }
    }

    /// Maps the header fields of an answer.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        let location = |url: &[u8]| self.location(url);
        for name in [LOCATION, CONTENT_LOCATION] {
            values(headers, name, location);
        }
        values(headers, LOCATION, |value| self.with_issuer(value));
        values(headers, LINK, |value| links(value, location));
        // With several tunnels of a kind, a cookie is limited to the tunnel that set it.
        let prefix = self.prefix_of_one();
        values(headers, SET_COOKIE, |value| {
            Some(cookies::for_caller(value, &prefix, &self.path))
        });
        values(headers, WWW_AUTHENTICATE, |value| {
            metadata(value, |url| self.metadata(url))
        });
        values(headers, REFRESH, |value| refresh(value, location));
        self.confine(headers);
    }

    /// Drops or limits the fields of an answer that would affect other tunnels' pages.
    fn confine(&self, headers: &mut HeaderMap) {
        let site = match self.prefix.is_empty() {
            true => Site::Own,
            false => Site::Shared,
        };
        site::confine(headers, site);
        if let Some(scope) = headers.remove(SERVICE_WORKER_ALLOWED)
            && let Some(scope) = self.worker_scope(scope.as_bytes())
            && let Ok(scope) = HeaderValue::try_from(scope)
        {
            headers.insert(SERVICE_WORKER_ALLOWED, scope);
        }
    }

    /// The public form of a URI reference; `None` if it is unchanged.
    pub(crate) fn location(&self, value: &[u8]) -> Option<Vec<u8>> {
        match Reference::of(value) {
            Reference::Network(rest) => self.absolute(value, rest, b"", self.target.https),
            Reference::Absolute { https, rest } => self.absolute(value, rest, self.scheme(), https),
            Reference::Path => self.placed(value),
            Reference::Relative => self.relative(value),
            Reference::Other => None,
        }
    }

    /// Path and query on the target that a URI reference in its answer leads to, without the tunnel's prefix;
    /// `None` if the reference leads elsewhere.
    pub(crate) fn own_path(&self, value: &[u8]) -> Option<Vec<u8>> {
        let end = value.iter().position(|b| *b == b'#');
        let value = &value[..end.unwrap_or(value.len())];
        match Reference::of(value) {
            Reference::Network(rest) => self.own_path_at(rest, self.https),
            Reference::Absolute { https, rest } => self.own_path_at(rest, https),
            Reference::Path => Some(self.without_prefix(value)),
            Reference::Relative => Some(resolved(self.path.as_bytes(), value)),
            Reference::Other => None,
        }
    }

    /// As [`Self::own_path`], for the `authority/path` after a scheme and `//`.
    fn own_path_at(&self, rest: &[u8], https: bool) -> Option<Vec<u8>> {
        if let Some(path) = self.own(rest, https) {
            return Some(self.without_prefix(&rooted(path)));
        }
        let (authority, path) = split_authority(rest);
        let path = rooted(path);
        match self.ours.whose(https, authority) {
            AuthorityOwner::Tunnel(label) => {
                let is_this = label.eq_ignore_ascii_case(self.target.tunnel.as_str());
                is_this.then_some(path)
            }
            AuthorityOwner::Relay if self.carried(&path) == Carried::Another => None,
            AuthorityOwner::Relay => Some(self.without_prefix(&path)),
            AuthorityOwner::Foreign => None,
        }
    }

    pub(crate) fn scheme(&self) -> &'static [u8] {
        if self.https { b"https:" } else { b"http:" }
    }

    /// Maps a URL with an authority; `rest` is the `authority/path` after its scheme and `//`.
    fn absolute(&self, value: &[u8], rest: &[u8], scheme: &[u8], https: bool) -> Option<Vec<u8>> {
        if let Some(path) = self.own(rest, https) {
            let path = rooted(path);
            let path = self.placed(&path).unwrap_or(path);
            return Some([&self.start(scheme), &path[..]].concat());
        }
        let (start, path) = self.without_a_tunnel(value, rest, https)?;
        Some([start, self.prefix_at_relay().as_bytes(), &rooted(path)].concat())
    }

    /// Splits a URL at the relay that names no tunnel in front of its path: such URLs come from a target that
    /// trusts `X-Forwarded-Host` but does not know its prefix.
    pub(super) fn without_a_tunnel<'a>(
        &self,
        value: &'a [u8],
        rest: &'a [u8],
        https: bool,
    ) -> Option<(&'a [u8], &'a [u8])> {
        let (authority, path) = split_authority(rest);
        let is_relay = self.ours.whose(https, authority) == AuthorityOwner::Relay;
        let is_bare = is_relay && self.carried(path) == Carried::Nothing;
        is_bare.then(|| value.split_at(value.len() - path.len()))
    }

    /// The prefix for a URL that names the relay by host.
    pub(super) fn prefix_at_relay(&self) -> String {
        match self.prefix.is_empty() {
            true => path_of_tunnel(&self.target.tunnel),
            false => self.prefix.clone(),
        }
    }

    /// The path behind the authority, if the authority is the target's.
    pub(crate) fn own<'a>(&self, rest: &'a [u8], https: bool) -> Option<&'a [u8]> {
        let (authority, path) = split_authority(rest);
        let origin = Origin::parse(authority, default_port(https))?;
        origin.is_same(&self.target.origin).then_some(path)
    }

    /// Reads which tunnel a path names. A path under the target's `base_path` belongs to the target even if
    /// it looks like a tunnel's path: the target may be a relay itself.
    fn carried<'a>(&self, path: &'a [u8]) -> Carried<'a> {
        let text = text(path);
        let (tunnel, base) = (&self.target.tunnel, &self.target.base_path);
        let is_own = carried(base, tunnel, &self.prefix) != Carried::Nothing
            && text.starts_with(base.as_str());
        match is_own {
            true => Carried::Nothing,
            false => carried(text, tunnel, &self.prefix),
        }
    }

    /// A path of the target behind the prefix; `None` if it is unchanged.
    fn placed(&self, path: &[u8]) -> Option<Vec<u8>> {
        if self.prefix.is_empty() || matches!(self.carried(path), Carried::This { .. }) {
            return None;
        }
        // Dot segments behind the prefix could lead out of it, so they are resolved first.
        let plain = has_dots(&path[..path_len(path)]).then(|| resolved(b"/", path));
        Some([self.prefix.as_bytes(), plain.as_deref().unwrap_or(path)].concat())
    }

    /// A path without the tunnel's prefix, as the target knows it.
    fn without_prefix(&self, path: &[u8]) -> Vec<u8> {
        match self.carried(path) {
            Carried::This { well_known, rest } => {
                let behind = &path[text(path).len()..];
                [well_known.as_bytes(), &rooted(rest.as_bytes()), behind].concat()
            }
            _ => resolved(b"/", path),
        }
    }

    /// Scheme and authority of a public URL; empty if the authority is unknown.
    pub(crate) fn start(&self, scheme: &[u8]) -> Vec<u8> {
        match &self.ours.public {
            Some(public) => [scheme, b"//", public].concat(),
            None => Vec::new(),
        }
    }

    /// The public form of a metadata URL; `None` if it is unchanged. Clients look for metadata at the host's
    /// root, with the tunnel's path after the well-known path (RFC 9728, section 3.1).
    fn metadata(&self, url: &[u8]) -> Option<Vec<u8>> {
        let Reference::Absolute { https, rest } = Reference::of(url) else {
            return self.location(url);
        };
        let (_, path) = split_authority(rest);
        let text = str::from_utf8(path).ok()?;
        let (well_known, resource) = split_well_known(text);
        if well_known.is_empty() {
            return self.location(url);
        }
        let (start, prefix) = match self.own(rest, https) {
            Some(_) => match self.carried(path) {
                Carried::This { .. } => (self.start(self.scheme()), String::new()),
                _ => (self.start(self.scheme()), self.prefix.clone()),
            },
            None => {
                let (start, _) = self.without_a_tunnel(url, rest, https)?;
                (start.to_vec(), self.prefix_at_relay())
            }
        };
        let parts = [well_known, &prefix, resource].concat();
        Some([start, parts.into_bytes()].concat())
    }

    /// Resolves a relative reference whose meaning at the caller, who sees a longer path than the target,
    /// would differ.
    fn relative(&self, value: &[u8]) -> Option<Vec<u8>> {
        let path = &value[..path_len(value)];
        if path.is_empty() || !(has_dots(path) || self.bare) {
            return None;
        }
        let resolved = resolved(self.path.as_bytes(), value);
        Some([self.prefix.as_bytes(), &resolved].concat())
    }
}

/// The valid UTF-8 at the start of a path.
fn text(path: &[u8]) -> &str {
    let mut chunks = path.utf8_chunks();
    chunks.next().map_or("", |chunk| chunk.valid())
}

#[cfg(test)]
#[path = "../tests/rewrite.rs"]
mod tests;
