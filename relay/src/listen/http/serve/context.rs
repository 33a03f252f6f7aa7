//! What a request asks for, by its head alone: the authority that it names, and who sends it.

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, Method};

use super::Front;
use crate::directory::PublicUrls;
use crate::listen::http::gateway::Gateway;
use crate::listen::http::gateway::settings::Peer;
use crate::listen::http::inbound::forwarded::Client;
use crate::listen::http::inbound::proxy_fields;
use crate::listen::http::inbound::url::{HostMeaning, host, host_meaning, is_ours_anywhere};
use crate::listen::http::policy::origin::{self, Page};
use crate::listen::http::problem::Problem;

/// The request's authority, its meaning, and its caller.
pub(super) struct RequestContext<'a> {
    /// Authority that the request names.
    pub(super) authority: Option<&'a str>,
    pub(super) host_meaning: HostMeaning<'a>,
    pub(super) client: Client,
}

impl<G: Gateway> Front<G> {
    /// Reads a request's authority, its meaning, and its caller.
    pub(super) fn context<'a>(&self, parts: &'a Parts) -> Result<RequestContext<'a>, Problem> {
        // `check_request_or_upgrade` has refused a request whose two authorities differ.
        let authority = match parts.uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => match parts.headers.get(HOST).map(|host| host.to_str()) {
                Some(Ok(host)) => Some(host).filter(|host| !host.is_empty()),
                Some(Err(_)) => return Err(Problem::bad_request("the Host header is not text")),
                None => None,
            },
        };
        let settings = &self.settings;
        let Peer { source, https } = self.peer;
        let client = Client::of(&parts.headers, source, https, &settings.trusted_proxies);
        let domain = settings.domain.as_deref();
        let is_local = client.is_this_machine();
        let host_meaning = match host_meaning(authority.unwrap_or_default(), domain, is_local) {
            HostMeaning::Other if self.is_public_host(authority) => HostMeaning::Relay,
            HostMeaning::Other => return Err(Problem::misdirected()),
            known => known,
        };
        Ok(RequestContext {
            authority,
            host_meaning,
            client,
        })
    }

    /// Whether the host is that of `public_url`, which the operator says is the relay's.
    fn is_public_host(&self, authority: Option<&str>) -> bool {
        let public = self.settings.public_url.as_ref();
        public.is_some_and(|url| authority.and_then(host).is_some_and(|it| url.has_host(it)))
    }

    /// The web page behind a request, for CORS.
    pub(super) fn page(&self, headers: &HeaderMap, context: &RequestContext<'_>) -> Page {
        let authority = context.authority.unwrap_or_default();
        let is_known = self.settings.domain.is_some();
        let https = context.client.https;
        let origins = &self.settings.origins;
        let is_here = context.client.is_this_machine();
        // Remote callers of a relay that takes tokens are not checked: a browser adds only cookies by
        // itself, and those belong to the target.
        let is_ambient = is_here || !self.settings.takes_tokens;
        if is_ambient && origin::is_blind(headers, is_here, origins) {
            return Page::Refused;
        }
        origin::page(headers, authority, is_known, https, origins)
    }

    /// Whether the caller may list tunnels with this request, a GET or HEAD. Without tokens, only local callers may:
    /// remote callers must know a tunnel's name. A local request must also name a host of this machine, and have no
    /// field that a proxy adds: behind an undeclared proxy on this machine, all callers look local.
    pub(super) fn may_list(
        &self,
        caller: &G::Caller,
        context: &RequestContext<'_>,
        parts: &Parts,
    ) -> bool {
        let is_direct = || {
            let host = context.authority.and_then(host);
            host.is_some_and(is_ours_anywhere) && !proxy_fields::is_forwarded(&parts.headers)
        };
        let is_known = self.gateway.subject(caller).is_some();
        matches!(parts.method, Method::GET | Method::HEAD)
            && (is_known || (context.client.is_this_machine() && is_direct()))
    }

    /// Base of the URLs in answers to this caller.
    pub(super) fn public_urls(
        &self,
        context: &RequestContext<'_>,
        headers: &HeaderMap,
    ) -> PublicUrls {
        let settings = &self.settings;
        let outer = context.client.host(headers);
        let authority = outer.and_then(|host| str::from_utf8(host).ok());
        let authority = authority.or(context.authority);
        PublicUrls::for_request(
            settings.public_url.as_ref(),
            settings.domain.as_deref(),
            context.client.https,
            authority,
        )
    }
}
