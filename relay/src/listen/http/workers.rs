//! Service workers of a tunnel's pages. A worker answers for all pages below the path of its script, and
//! under the relay's own name other tunnels' pages lie there too.

use http::HeaderMap;
use http::HeaderName;

use super::exposure::climbs;
use super::login;
use super::problem::Problem;
use super::reference::path_len;
use super::rewrite::Mapping;

/// Said by a browser that asks for a worker's script (Service Workers, section 6.2).
const SERVICE_WORKER: HeaderName = HeaderName::from_static("service-worker");

/// How far up a script lets its worker answer.
pub(super) const SERVICE_WORKER_ALLOWED: HeaderName =
    HeaderName::from_static("service-worker-allowed");

impl Mapping {
    /// Refuses the script of a worker that would answer for other tunnels: the directory of `/w/<tunnel>`
    /// is `/w/`, and what lies below a kind is of several.
    pub(super) fn check_worker(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let is_wide = self.bare || self.is_any || login::is_metadata(&self.path);
        if self.prefix.is_empty() || !is_wide || !headers.contains_key(SERVICE_WORKER) {
            return Ok(());
        }
        Err(Problem::forbidden(
            "service_worker_refused",
            "a service worker from this URL would answer for other tunnels; load its script from below \
             /w/<tunnel>/",
        ))
    }

    /// The scope that a script of this tunnel may have in place of the one that the target names; `None`
    /// if it may have no other than below its own path.
    pub(super) fn worker_scope(&self, named: &[u8]) -> Option<Vec<u8>> {
        if self.prefix.is_empty() {
            return Some(named.to_vec());
        }
        let path = self.own_path(named).filter(|_| !self.is_any)?;
        let path = &path[..path_len(&path)];
        let is_below = path.starts_with(b"/") && str::from_utf8(path).is_ok_and(|it| !climbs(it));
        is_below.then(|| [self.prefix.as_bytes(), path].concat())
    }
}
