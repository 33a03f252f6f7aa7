//! OAuth login at a target whose own address differs from its public URL: metadata is looked up where the
//! target has it, and URLs in metadata, requests and redirects are mapped in both directions.
//!
//! A target that knows its public URL needs no mapping. A target that writes its own URL is recognized by a
//! mark: the relay marks the endpoints in its metadata, and keeps no state. In requests to a marked endpoint,
//! `resource` is rewritten to the target's own URL.

use bytes::{Bytes, BytesMut};
use data_encoding::BASE64URL_NOPAD;
use http::header::{ACCEPT_ENCODING, IF_MODIFIED_SINCE, IF_NONE_MATCH, RANGE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue};
use tieline_hop::documents;
use tieline_hop::rewrite::{split_authority, split_scheme};
use tieline_wire::TunnelId;

use super::reference::path_len;
use super::relay_names::AuthorityOwner;
use super::rewrite::Mapping;
use crate::directory::AgentBinding;
use crate::listen::http::gateway::marks::{MarkKey, MarkKind};
use crate::listen::http::inbound::url::{UrlParts, split_well_known};
use crate::registry::AgentTag;

/// Prefix of the target's own origin in a mark's text.
const ORIGIN: &str = "/=";

/// Path of the metadata of a protected resource (RFC 9728, section 3.1).
const RESOURCE: &str = "/.well-known/oauth-protected-resource";

/// A marked endpoint, which a client read from metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Login {
    /// The agent of the endpoint, if several agents serve the URL.
    pub(crate) binding: Option<AgentBinding>,
    /// Path and query on the target.
    pub(crate) path: String,
    /// Scheme and authority of the target in its own words, if the target does not know its public URL.
    pub(crate) origin: Option<String>,
}

impl Login {
    /// Checks a marked path, which follows the tunnel's prefix, with its query.
    pub(crate) fn of(mark_key: &MarkKey, tunnel: &TunnelId, path: &str) -> Option<Self> {
        let (path, query) = path.split_at(path_len(path.as_bytes()));
        let (binding, text) = mark_key.check_path(MarkKind::Login, tunnel, None, path)?;
        let (origin, path) = match text.strip_prefix(ORIGIN) {
            Some(rest) => {
                let (origin, path) = rest.split_at(rest.find('/')?);
                let origin = BASE64URL_NOPAD.decode(origin.as_bytes()).ok()?;
                (Some(String::from_utf8(origin).ok()?), path)
            }
            None => (None, text),
        };
        Some(Self {
            binding: (binding.agent != AgentTag::default()).then_some(binding),
            path: [path, query].concat(),
            origin,
        })
    }
}

/// Further paths of the requested metadata on the target; empty if the URL is not for metadata.
///
/// A target that is configured with its public URL has its metadata under the full public path. A target
/// with several resources has one document under each resource's path; a target with a single resource may
/// have its document directly under the well-known path.
pub(crate) fn places(url: &UrlParts<'_>) -> Vec<PathAndQuery> {
    let UrlParts {
        well_known,
        prefix,
        rest,
        ..
    } = *url;
    if well_known.is_empty() {
        return Vec::new();
    }
    let mut places = Vec::new();
    if let Some(short) = rest.strip_suffix('/') {
        places.push([well_known, short].concat());
    }
    places.push([well_known, prefix, rest].concat());
    if well_known == RESOURCE && !matches!(rest, "" | "/") {
        places.push(well_known.to_owned());
    }
    places
        .into_iter()
        .filter_map(|place| PathAndQuery::from_maybe_shared(Bytes::from(place)).ok())
        .collect()
}

/// True if a target's path is for metadata.
pub(crate) fn is_metadata(path: &str) -> bool {
    !split_well_known(path).0.is_empty()
}

/// Asks for the whole document, uncompressed and unconditionally, so that it can be mapped.
pub(crate) fn ask_for_whole(headers: &mut HeaderMap) {
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    for name in [RANGE, IF_NONE_MATCH, IF_MODIFIED_SINCE] {
        headers.remove(name);
    }
}

impl Mapping {
    /// A metadata document with public URLs; `None` if it is unchanged.
    pub(crate) fn document(&self, mark_key: &MarkKey, document: &[u8]) -> Option<Vec<u8>> {
        let issuer = documents::text(document, "issuer");
        let origin = issuer.as_deref().and_then(|issuer| self.own_origin(issuer));
        // Below a kind, authorization servers are mapped to this tunnel: only its agent knows its tokens.
        let one = self.is_any.then(|| Self {
            prefix: self.prefix_of_one(),
            is_any: false,
            ..self.clone()
        });
        documents::texts(document, |field, url| {
            if field == "authorization_servers"
                && let Some(one) = &one
            {
                return one.public_url(url);
            }
            let is_endpoint = field.ends_with("_endpoint") || field == "jwks_uri";
            let marked = is_endpoint.then(|| self.marked(mark_key, url, origin));
            marked.flatten().or_else(|| self.public_url(url))
        })
    }

    /// Scheme and authority of a URL, if it is the target's own URL or a URL of the relay without a tunnel.
    fn own_origin<'a>(&self, url: &'a str) -> Option<&'a str> {
        let (https, rest) = split_scheme(url.as_bytes())?;
        let own = self.own(rest, https);
        let bare = || self.without_a_tunnel(url.as_bytes(), rest, https);
        let path = own.or_else(|| bare().map(|(_, path)| path))?;
        Some(&url[..url.len() - path.len()])
    }

    /// The public form of an identifier. An identifier without a path gets no slash after the prefix, because
    /// issuers are compared character by character (RFC 8414, section 3.3).
    fn public_url(&self, url: &str) -> Option<String> {
        let (_, rest) = split_scheme(url.as_bytes())?;
        let mapped = String::from_utf8(self.location(url.as_bytes())?).ok()?;
        match rest.contains(&b'/') {
            true => Some(mapped),
            false => Some(mapped.trim_end_matches('/').to_owned()),
        }
    }

    /// The public form of an endpoint with a mark; `None` if it needs no mark. A mark is needed if the path is
    /// not exposed, if several agents serve the URL, or if the target does not know its public URL (`origin`).
    fn marked(&self, mark_key: &MarkKey, url: &str, origin: Option<&str>) -> Option<String> {
        let (https, rest) = split_scheme(url.as_bytes())?;
        let path = String::from_utf8(self.own_path(url.as_bytes())?).ok()?;
        let is_open = !self.is_of_several() && self.is_open(&path);
        if path.contains(['?', '#']) || path.starts_with(ORIGIN) || (is_open && origin.is_none()) {
            return None;
        }
        let text = match origin {
            Some(origin) => [ORIGIN, &BASE64URL_NOPAD.encode(origin.as_bytes()), &path].concat(),
            None => path,
        };
        let binding = match self.is_of_several() {
            true => self.target.binding(),
            false => AgentBinding {
                agent: AgentTag::default(),
                ..self.target.binding()
            },
        };
        let marked = mark_key.mark_path(MarkKind::Login, &binding, None, &text);
        if self.own(rest, https).is_some() {
            let start = String::from_utf8(self.start(self.scheme())).ok()?;
            return Some([start, self.prefix_of_one(), marked].concat());
        }
        let (authority, path) = split_authority(rest);
        let prefix = match self.ours.whose(https, authority) {
            AuthorityOwner::Relay if self.prefix.is_empty() => self.prefix_at_relay(),
            AuthorityOwner::Relay => self.prefix_of_one(),
            AuthorityOwner::Tunnel(_) | AuthorityOwner::Foreign => String::new(),
        };
        Some([&url[..url.len() - path.len()], &prefix, &marked].concat())
    }

    /// A query or form with `resource` (RFC 8707) mapped to the target's own URL; `None` if it is unchanged.
    pub(crate) fn with_resource(&self, pairs: &[u8]) -> Option<Vec<u8>> {
        let origin = self.login_origin.as_deref()?;
        with_value(pairs, "resource", |url| {
            let (https, rest) = split_scheme(url.as_bytes())?;
            let (authority, _) = split_authority(rest);
            if self.ours.whose(https, authority) == AuthorityOwner::Foreign {
                return None;
            }
            let path = String::from_utf8(self.own_path(url.as_bytes())?).ok()?;
            let path = match url.ends_with('/') {
                true => &path,
                false => path.trim_end_matches('/'),
            };
            Some([origin, path].concat())
        })
    }

    /// A redirect to the client with the issuer (`iss`, RFC 9207) in its public form; `None` if it is
    /// unchanged.
    pub(super) fn with_issuer(&self, location: &[u8]) -> Option<Vec<u8>> {
        self.login_origin.as_ref()?;
        let start = location.iter().position(|b| *b == b'?')? + 1;
        let behind = &location[start..];
        let end = behind.iter().position(|b| *b == b'#');
        let (query, fragment) = behind.split_at(end.unwrap_or(behind.len()));
        let mapped = with_value(query, "iss", |issuer| self.public_url(issuer))?;
        Some([&location[..start], &mapped, fragment].concat())
    }
}

/// Applies `map` to the values of one name in a query or form; `None` if the pairs are
/// unchanged.
fn with_value(pairs: &[u8], name: &str, map: impl Fn(&str) -> Option<String>) -> Option<Vec<u8>> {
    let mut out = BytesMut::with_capacity(pairs.len());
    let mut is_changed = false;
    for (at, pair) in pairs.split(|b| *b == b'&').enumerate() {
        if at > 0 {
            out.extend_from_slice(b"&");
        }
        let mapped = form_urlencoded::parse(pair)
            .next()
            .filter(|(key, _)| key == name)
            .and_then(|(_, value)| map(&value));
        match mapped {
            Some(value) => {
                let mut pair = form_urlencoded::Serializer::new(String::new());
                out.extend_from_slice(pair.append_pair(name, &value).finish().as_bytes());
                is_changed = true;
            }
            None => out.extend_from_slice(pair),
        }
    }
    is_changed.then(|| out.to_vec())
}
