//! What a caller may reach, as the relay tells it.

use bytes::Bytes;
use http::Response;
use serde::Serialize;

use super::problem;
use crate::registry::TunnelInfo;

/// Some of the tunnels that a caller may reach, in order of their names.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Listing {
    pub(crate) tunnels: Vec<Listed>,
    /// Behind which name there are more.
    pub(crate) next: Option<String>,
}

/// A tunnel, as its callers see it.
#[derive(Debug, Serialize)]
pub(crate) struct Listed {
    tunnel_id: String,
    dcc: String,
    capabilities: Vec<String>,
    /// Whether an agent serves it.
    online: bool,
    /// Its path at the relay.
    path: String,
    target_scheme: &'static str,
}

impl Listed {
    /// A tunnel as it was last described.
    pub(crate) fn new(tunnel: &str, info: &TunnelInfo, online: bool) -> Self {
        Self {
            tunnel_id: tunnel.to_owned(),
            dcc: info.dcc.clone(),
            capabilities: info.capabilities.clone(),
            online,
            path: format!("/w/{tunnel}{}", info.base_path),
            target_scheme: info.scheme_word(),
        }
    }
}

impl Listing {
    /// The answer for the caller.
    pub(super) fn into_response(self) -> Response<Bytes> {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        problem::json(Bytes::from(body))
    }
}
