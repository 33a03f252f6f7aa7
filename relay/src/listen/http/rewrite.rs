//! Maps what a target says about its own addresses back to the tunnel's public URL: redirects,
//! cookie paths and where its metadata is. Everything works on bytes, because header values need
//! not be UTF-8.

use std::rc::Rc;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_LOCATION, LOCATION, SET_COOKIE, WWW_AUTHENTICATE};
use tieline_hop::rewrite::{metadata, split_authority, values};

use super::exposure::is_exposed;
use super::problem::Problem;
use super::route::split_well_known;
use super::target::{Origin, Target, default_port};
use super::wanted::Wanted;

/// How one request's URL at the relay relates to the target's.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) target: Rc<Target>,
    /// `/w/<tunnel>` as the caller wrote it, since cookie paths are compared byte by byte; nothing
    /// where the host names the tunnel.
    pub(super) prefix: String,
    /// Path and query that the target was asked for.
    pub(super) path: String,
    /// True if the caller used no path behind the prefix, not even `/`.
    pub(super) bare: bool,
    /// The relay's authority as the caller knows it; `None` if the caller did not say.
    pub(super) public: Option<Bytes>,
    /// Whether the caller came by TLS.
    pub(super) https: bool,
    /// Whether the URL names any tunnel of a kind.
    pub(super) is_any: bool,
}

impl Mapping {
    /// Whether callers may ask the target for that path.
    pub(super) fn check_exposed(&self, wanted: &Wanted) -> Result<(), Problem> {
        if wanted.is_invited || is_exposed(&self.target.exposed, &self.path) {
            return Ok(());
        }
        let url = [&self.prefix[..], &self.target.base_path].concat();
        Err(Problem::not_exposed(&url))
    }

    /// Whether the same URL may lead to another agent next time.
    pub(super) fn is_of_several(&self) -> bool {
        self.is_any || self.target.is_shared
    }

    /// The prefix under which this very tunnel is reached.
    pub(super) fn prefix_of_one(&self) -> String {
        match self.is_any {
            true => [&self.prefix, "/", self.target.tunnel.as_str()].concat(),
            false => self.prefix.clone(),
        }
    }

    /// Rewrites an answer's headers.
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        for name in [LOCATION, CONTENT_LOCATION] {
            values(headers, name, |value| self.location(value));
        }
        values(headers, SET_COOKIE, |value| self.cookie(value));
        values(headers, WWW_AUTHENTICATE, |value| {
            metadata(value, |url| self.metadata(url))
        });
    }

    /// The public form of a URI reference; `None` if it can stay.
    pub(super) fn location(&self, value: &[u8]) -> Option<Vec<u8>> {
        match Reference::of(value) {
            Reference::Network(rest) => self.absolute(rest, b"", self.target.https),
            Reference::Absolute { https, rest } => self.absolute(rest, self.scheme(), https),
            Reference::Path => {
                (!self.prefix.is_empty()).then(|| [self.prefix.as_bytes(), value].concat())
            }
            Reference::Relative => self.relative(value),
            Reference::Other => None,
        }
    }

    /// Path and query on the target that a URI reference in its answer means; `None` if it means
    /// somebody else.
    pub(super) fn own_path(&self, value: &[u8]) -> Option<Vec<u8>> {
        let end = value.iter().position(|b| *b == b'#');
        let value = &value[..end.unwrap_or(value.len())];
        match Reference::of(value) {
            Reference::Network(rest) => self.own(rest, self.target.https).map(rooted),
            Reference::Absolute { https, rest } => self.own(rest, https).map(rooted),
            Reference::Path => Some(value.to_vec()),
            Reference::Relative => {
                let (path, query) = value.split_at(path_len(value));
                Some([&self.resolved(path), query].concat())
            }
            Reference::Other => None,
        }
    }

    fn scheme(&self) -> &'static [u8] {
        if self.https { b"https:" } else { b"http:" }
    }

    /// Maps `authority/path`, what follows a scheme and `//`, if it is the target's.
    fn absolute(&self, rest: &[u8], scheme: &[u8], https: bool) -> Option<Vec<u8>> {
        let path = rooted(self.own(rest, https)?);
        Some([&self.start(scheme), self.prefix.as_bytes(), &path].concat())
    }

    /// The part behind the authority, if that is the target's.
    fn own<'a>(&self, rest: &'a [u8], https: bool) -> Option<&'a [u8]> {
        let (authority, path) = split_authority(rest);
        let origin = Origin::parse(authority, default_port(https))?;
        origin.is_same(&self.target.origin).then_some(path)
    }

    /// What stands in front of the path in a public URL.
    fn start(&self, scheme: &[u8]) -> Vec<u8> {
        match &self.public {
            Some(public) => [scheme, b"//", public].concat(),
            None => Vec::new(),
        }
    }

    /// The public form of the URL of metadata; `None` if it can stay. Clients look for it at the
    /// host's root, with the tunnel's path behind the well-known one (RFC 9728, section 3.1).
    fn metadata(&self, url: &[u8]) -> Option<Vec<u8>> {
        let text = str::from_utf8(url).ok()?;
        let (scheme, rest) = text.split_once("://")?;
        let https = scheme.eq_ignore_ascii_case("https");
        let path = rest.find('/').map_or("", |at| &rest[at..]);
        let (well_known, resource) = split_well_known(path);
        if well_known.is_empty() {
            return self.location(url);
        }
        let authority = &rest.as_bytes()[..rest.len() - path.len()];
        let origin = Origin::parse(authority, default_port(https))?;
        let parts = [
            well_known.as_bytes(),
            self.prefix.as_bytes(),
            resource.as_bytes(),
        ];
        origin
            .is_same(&self.target.origin)
            .then(|| [self.start(self.scheme()), parts.concat()].concat())
    }

    /// Resolves a relative path where the caller, who sees a longer path than the target, would
    /// come to another result.
    fn relative(&self, value: &[u8]) -> Option<Vec<u8>> {
        let (path, suffix) = value.split_at(path_len(value));
        let climbs = path.split(|b| *b == b'/').any(|segment| segment == b"..");
        if path.is_empty() || !(climbs || self.bare) {
            return None;
        }
        Some([self.prefix.as_bytes(), &self.resolved(path), suffix].concat())
    }

    /// A relative path as the target means it.
    fn resolved(&self, path: &[u8]) -> Vec<u8> {
        let base = self.path.split('?').next().unwrap_or_default().as_bytes();
        let directory_end = base.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        without_dots(&[&base[..directory_end], path].concat())
    }

    /// The public form of a cookie (RFC 6265, section 4.1); `None` if it can stay.
    fn cookie(&self, value: &[u8]) -> Option<Vec<u8>> {
        // Cookies of one of several tunnels are not for the others.
        let prefix = self.prefix_of_one();
        let mut parts = value.split(|b| *b == b';');
        let mut mapped = parts.next()?.to_vec();
        let mut changed = false;
        for part in parts {
            let mut name_and_value = part.splitn(2, |b| *b == b'=');
            let name = name_and_value.next().unwrap_or_default().trim_ascii();
            let attribute = name_and_value.next().unwrap_or_default().trim_ascii();
            let is_path = name.eq_ignore_ascii_case(b"path") && attribute.starts_with(b"/");
            if is_path && !prefix.is_empty() {
                // The prefix alone also matches the tunnel's bare URL; with a slash behind it,
                // it would not (RFC 6265, section 5.1.4).
                let path = if attribute == b"/" { b"" } else { attribute };
                mapped.extend_from_slice(b"; Path=");
                mapped.extend_from_slice(prefix.as_bytes());
                mapped.extend_from_slice(path);
                changed = true;
            } else if name.eq_ignore_ascii_case(b"domain") && self.is_targets(attribute) {
                changed = true;
            } else {
                mapped.push(b';');
                mapped.extend_from_slice(part);
            }
        }
        changed.then_some(mapped)
    }

    fn is_targets(&self, domain: &[u8]) -> bool {
        let domain = domain.strip_prefix(b".").unwrap_or(domain);
        let origin = Origin {
            host: domain.to_ascii_lowercase(),
            port: self.target.origin.port,
        };
        origin.is_same(&self.target.origin)
    }
}

/// The forms of a URI reference (RFC 3986, section 4.1).
enum Reference<'a> {
    /// `//authority/path`: what is behind the slashes.
    Network(&'a [u8]),
    /// The same behind `http:` or `https:`.
    Absolute { https: bool, rest: &'a [u8] },
    /// `/path`
    Path,
    /// Relative to where it was found.
    Relative,
    /// With a scheme that is not HTTP's.
    Other,
}

impl<'a> Reference<'a> {
    fn of(value: &'a [u8]) -> Self {
        if let Some(rest) = value.strip_prefix(b"//") {
            return Self::Network(rest);
        }
        if value.starts_with(b"/") {
            return Self::Path;
        }
        let delimiter = value.iter().position(|b| b":/?#".contains(b));
        let Some(colon) = delimiter.filter(|at| value[*at] == b':') else {
            return Self::Relative;
        };
        let (scheme, rest) = (&value[..colon], &value[colon + 1..]);
        let https = scheme.eq_ignore_ascii_case(b"https");
        match rest.strip_prefix(b"//") {
            Some(rest) if https || scheme.eq_ignore_ascii_case(b"http") => {
                Self::Absolute { https, rest }
            }
            _ => Self::Other,
        }
    }
}

/// Length of the path that a reference begins with.
fn path_len(value: &[u8]) -> usize {
    let end = value.iter().position(|b| b"?#".contains(b));
    end.unwrap_or(value.len())
}

/// What stands behind an authority, as a path with its query.
fn rooted(path: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if path.starts_with(b"/") { b"" } else { b"/" };
    [slash, path].concat()
}

/// Removes `.` and `..` from an absolute path (RFC 3986, section 5.2.4).
fn without_dots(path: &[u8]) -> Vec<u8> {
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut parts = path.split(|b| *b == b'/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            b".." => {
                segments.pop();
            }
            b"." => {}
            other => segments.push(other),
        }
        if last && matches!(part, b"." | b"..") {
            segments.push(b"");
        }
    }
    segments
        .iter()
        .flat_map(|segment| [b"/", *segment].concat())
        .collect()
}

#[cfg(test)]
#[path = "tests/rewrite.rs"]
mod tests;
