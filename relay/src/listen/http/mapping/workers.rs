//! Service workers of a tunnel's pages. A worker controls all pages below the directory of its script; under
//! the relay's own host name, these could be pages of other tunnels.

use http::HeaderMap;
use http::HeaderName;

use super::login;
use super::reference::path_len;
use super::rewrite::Mapping;
use crate::listen::http::inbound::exposure::climbs;
use crate::listen::http::problem::Problem;

/// Header field in a browser's request for a worker's script (Service Workers, section 6.2).
const SERVICE_WORKER: HeaderName = HeaderName::from_static("service-worker");

impl Mapping {
    /// Refuses the script of a worker that would control other tunnels' pages: the directory of `/w/<tunnel>`
    /// is `/w/`, and several tunnels share the paths below a kind.
    pub(crate) fn check_worker(&self, headers: &HeaderMap) -> Result<(), Problem> {
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

    /// The widened scope for a script of this tunnel, mapped from the scope `wanted` by the target; `None`
    /// if the scope must stay below the script's own directory.
    pub(crate) fn worker_scope(&self, wanted: &[u8]) -> Option<Vec<u8>> {
        if self.prefix.is_empty() {
            return Some(wanted.to_vec());
        }
        let path = self.own_path(wanted).filter(|_| !self.is_any)?;
        let path = &path[..path_len(&path)];
        let is_below = path.starts_with(b"/") && str::from_utf8(path).is_ok_and(|it| !climbs(it));
        is_below.then(|| [self.prefix.as_bytes(), path].concat())
    }
}
