//! Where a client of the older transport sends what it has to say: the URL that the first event of
//! its stream names.

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
    /// One that only this agent knows, or that callers may not use by themselves, gets a mark: the
    /// target itself has invited who reads this stream to it.
    pub(super) fn public(&self, url: &[u8]) -> Option<Vec<u8>> {
        let Mapping { target, .. } = &self.mapping;
        let path = self.mapping.own_path(url);
        let path = path.and_then(|path| String::from_utf8(path).ok());
        match path {
            Some(path) if self.mapping.is_of_several() || !is_exposed(&target.exposed, &path) => {
                let sealed = self
                    .sealer
                    .path(&target.pin(), self.caller.as_deref(), &path);
                Some([self.mapping.prefix_of_one(), sealed].concat().into_bytes())
            }
            _ => self.mapping.location(url),
        }
    }
}
