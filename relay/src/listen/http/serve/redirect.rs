//! Redirects requests in clear text to the relay's own `https` URL, where the operator wants that, and refuses
//! WebSockets in clear text.
//!
//! Nothing else is read of such a request: a token in it is neither checked nor passed on.

use bytes::Bytes;
use http::header::LOCATION;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Response, StatusCode};
use tieline_wire::TunnelId;

use super::Front;
use super::context::RequestContext;
use crate::config::PublicUrl;
use crate::listen::http::gateway::Gateway;
use crate::listen::http::inbound::url::HostMeaning;
use crate::listen::http::problem::Problem;

impl<G: Gateway> Front<G> {
    /// Refuses a request for a WebSocket in clear text: browsers and clients of WebSocket follow no redirect.
    ///
    /// # Errors
    /// The answer names the `wss` URL to use; a request for a foreign host gets none.
    pub(super) fn check_encrypted(&self, parts: &Parts) -> Result<(), Problem> {
        let Some(base) = &self.settings.redirect else {
            return Ok(());
        };
        let context = self.context(parts)?;
        if context.client.https {
            return Ok(());
        }
        let domain = self.settings.domain.as_deref();
        let own = own_base(base, domain, context.host_meaning);
        Err(Problem::https_required(&own))
    }

    /// The redirect to the same URL under `https`; `None` for a request that is served.
    ///
    /// Leads to the relay's configured names alone, whatever `Host` says: a forged one must not lead elsewhere.
    pub(super) fn redirect(
        &self,
        parts: &Parts,
        context: &RequestContext<'_>,
    ) -> Option<Response<Bytes>> {
        let base = self.settings.redirect.as_ref()?;
        if context.client.https {
            return None;
        }
        let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let domain = self.settings.domain.as_deref();
        let location = https_url(base, domain, context.host_meaning, path);
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
        // The path was parsed, and the rest comes from the settings: the text is a valid value.
        let location = HeaderValue::from_str(&location).ok()?;
        response.headers_mut().insert(LOCATION, location);
        Some(response)
    }
}

/// The URL of `path` under `base`, or under the tunnel's own name below `domain`.
fn https_url(base: &PublicUrl, domain: Option<&str>, host: HostMeaning<'_>, path: &str) -> String {
    // `OPTIONS *` has no path.
    let path = if path.starts_with('/') { path } else { "/" };
    format!("{}{path}", own_base(base, domain, host))
}

/// The relay's own URL, or that of the tunnel's own name below `domain`.
fn own_base(base: &PublicUrl, domain: Option<&str>, host: HostMeaning<'_>) -> PublicUrl {
    let tunnel = match host {
        HostMeaning::Tunnel(label) => TunnelId::parse(label).ok(),
        HostMeaning::Relay | HostMeaning::Other => None,
    };
    match tunnel.zip(domain) {
        Some((tunnel, domain)) => base.with_host(&format!("{tunnel}.{domain}")),
        None => base.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_to_a_configured_name_alone() {
        let url = |base: &str, domain, host, path| {
            https_url(&PublicUrl::parse(base).unwrap(), domain, host, path)
        };
        let (relay, domain) = ("https://relay.example", Some("relay.example"));
        for (host, path, wanted) in [
            (
                HostMeaning::Relay,
                "/w/maya/mcp?a=1",
                "https://relay.example/w/maya/mcp?a=1",
            ),
            (
                HostMeaning::Tunnel("Maya"),
                "/mcp",
                "https://maya.relay.example/mcp",
            ),
            // Not a tunnel's name.
            (
                HostMeaning::Tunnel("a_b"),
                "/mcp",
                "https://relay.example/mcp",
            ),
            (HostMeaning::Relay, "*", "https://relay.example/"),
            (
                HostMeaning::Relay,
                "//evil.example/",
                "https://relay.example//evil.example/",
            ),
        ] {
            assert_eq!(url(relay, domain, host, path), wanted, "{host:?} {path}");
        }
        let other_port = url(
            "https://r.example:8443",
            domain,
            HostMeaning::Tunnel("a"),
            "/",
        );
        assert_eq!(other_port, "https://a.relay.example:8443/");
        let without = url("https://r.example", None, HostMeaning::Relay, "/x");
        assert_eq!(without, "https://r.example/x");
    }
}
