//! Endpoints of the older HTTP+SSE transport: the URL in an `endpoint` event, to which the client sends its
//! messages.

use std::rc::Rc;

use tieline_hop::events;

use crate::listen::http::gateway::marks::{MarkKey, MarkKind};
use crate::listen::http::inbound::exposure::is_exposed;
use crate::listen::http::mapping::rewrite::Mapping;

/// Data for mapping the endpoints in one stream.
pub(crate) struct Endpoint {
    pub(crate) mapping: Mapping,
    pub(crate) mark_key: Rc<MarkKey>,
    /// Token subject of the stream's caller.
    pub(crate) caller: Option<String>,
}

impl events::Endpoint for Endpoint {
    /// The result is always a path: clients refuse an endpoint with another origin than the stream's, and only clients
    /// know that origin.
    ///
    /// If several agents serve the URL, or if the path is not exposed, the endpoint gets a mark: the target has
    /// invited the reader of this stream to it.
    fn for_caller(&self, url: &[u8]) -> Option<Vec<u8>> {
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
                self.mark_key
                    .mark_path(MarkKind::Path, &target.binding(), caller, &path)
            }
        };
        Some([prefix, public].concat().into_bytes())
    }
}
