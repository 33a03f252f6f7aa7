//! The list of tunnels that a caller may reach.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Serialize;
use tieline_hop::json_answer;
use tieline_wire::TunnelId;

use crate::directory::{PublicUrls, path_of_tunnel};
use crate::registry::TunnelInfo;

/// One page of the tunnels that a caller may reach, sorted by name.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Listing {
    pub(crate) tunnels: Vec<Listed>,
    /// Last name of this page, if there are further tunnels.
    pub(crate) next: Option<String>,
}

/// A tunnel in the list.
#[derive(Debug, Serialize)]
pub(crate) struct Listed {
    tunnel_id: String,
    dcc: String,
    capabilities: Vec<String>,
    /// Whether an agent serves the tunnel.
    online: bool,
    /// Path of the tunnel at the relay.
    path: String,
    /// URLs of the tunnel, best first; filled in for the answer.
    urls: Vec<String>,
    target_scheme: &'static str,
    #[serde(skip)]
    tunnel: TunnelId,
    #[serde(skip)]
    base_path: String,
}

impl Listed {
    /// A tunnel with its last registration.
    pub(crate) fn new(tunnel: &TunnelId, info: &TunnelInfo, online: bool) -> Self {
        Self {
            tunnel_id: tunnel.to_string(),
            tunnel: tunnel.clone(),
            base_path: info.base_path.clone(),
            urls: Vec::new(),
            dcc: info.dcc.clone(),
            capabilities: info.capabilities.clone(),
            online,
            path: path_of_tunnel(tunnel) + &info.base_path,
            target_scheme: info.scheme_word(),
        }
    }
}

impl Listing {
    /// The JSON answer to the caller.
    pub(crate) fn into_response(mut self, public: &PublicUrls) -> Response<Bytes> {
        for it in &mut self.tunnels {
            it.urls = public.of_tunnel(&it.tunnel, &it.base_path, None);
        }
        let body = serde_json::to_vec(&self).unwrap_or_default();
        json_answer(StatusCode::OK, Bytes::from(body))
    }
}
