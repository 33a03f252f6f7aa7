//! Where a client of the older transport sends what it has to say: the URL that an `endpoint` event
//! of its stream names.

use std::rc::Rc;

use super::exposure::is_exposed;
use super::rewrite::Mapping;
use super::seal::Sealer;

/// How to tell the caller of a stream where its endpoint is.
pub(super) struct Endpoint {
    pub(super) mapping: Mapping,
    pub(super) sealer: Rc<Sealer>,
    /// Whose stream it is.
    pub(super) caller: Option<String>,
}

impl Endpoint {
    /// The public form of a stream's endpoint; `None` if it can stay.
    ///
    /// It is a path in any case: clients refuse an endpoint of another origin than their stream's,
    /// and only they know what that is.
    ///
    /// One that only this agent knows, or that callers may not use by themselves, gets a mark: the
    /// target itself has invited who reads this stream to it.
    pub(super) fn public(&self, url: &[u8]) -> Option<Vec<u8>> {
        let Mapping { target, .. } = &self.mapping;
        if url.is_empty() {
            return None;
        }
        let path = self.mapping.own_path(url)?;
        let Ok(path) = String::from_utf8(path) else {
            return self.mapping.location(url);
        };
        let prefix = self.mapping.prefix_of_one();
        let is_open = !self.mapping.is_of_several() && is_exposed(&target.exposed, &path);
        let public = match is_open {
            true => path,
            false => {
                let caller = self.caller.as_deref();
                self.sealer.path(&target.pin(), caller, &path)
            }
        };
        Some([prefix, public].concat().into_bytes())
    }
}
