//! Finds one agent's target for a request, by its URL, its MCP session id and a mark in its path.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::Entry;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use tieline_wire::{SessionEnd, TunnelId};

use super::Front;
use super::context::RequestContext;
use crate::directory::TunnelSelector;
use crate::listen::http::gateway::Gateway;
use crate::listen::http::gateway::marks::{MarkKey, MarkKind};
use crate::listen::http::inbound::url::{UrlMeaning, UrlParts};
use crate::listen::http::mapping::login::{self, Login};
use crate::listen::http::mapping::relay_names::RelayNames;
use crate::listen::http::mapping::rewrite::Mapping;
use crate::listen::http::policy::callers::AdmittedCaller;
use crate::listen::http::problem::Problem;
use crate::listen::http::target::Target;
use crate::listen::http::target_query::{NoTarget, TargetQuery};

/// Session id of MCP's Streamable HTTP transport, since revision 2025-03-26.
const MCP_SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// What a request's URL asks for.
pub(super) struct Requested<'a> {
    selector: TunnelSelector,
    /// Kind of application in the URL, if there is one.
    dcc: Option<&'a str>,
    pub(super) url: UrlParts<'a>,
    /// The segment after the kind, if it could name a tunnel but no tunnel of that kind; for the error answer.
    or_tunnel: Option<TunnelId>,
}

impl<'a> Requested<'a> {
    fn new(selector: TunnelSelector, url: UrlParts<'a>) -> Self {
        Self {
            selector,
            dcc: None,
            url,
            or_tunnel: None,
        }
    }
}

/// Where a request goes, and how its answer is rewritten.
pub(super) struct Destination {
    pub(super) wanted: TargetQuery,
    pub(super) mapping: Mapping,
    pub(super) path: PathAndQuery,
    pub(super) version: Version,
    /// True for GET: an event stream in the answer may name an endpoint of the older transport.
    pub(super) is_get: bool,
    /// True for HEAD: the answer has the same head as an answer to GET.
    pub(super) is_head: bool,
    /// MCP session id of the request.
    pub(super) session: McpSession,
    /// Address of the caller.
    pub(super) caller_address: IpAddr,
    /// Further paths on the target where the requested metadata may be.
    pub(super) places: Vec<PathAndQuery>,
}

impl Destination {
    /// Whether the request is for metadata of the target, which may contain URLs.
    pub(super) fn is_metadata(&self) -> bool {
        self.is_get && login::is_metadata(&self.mapping.path)
    }

    /// Restores the target's own MCP session id in the request.
    pub(super) fn restore_session(&self, headers: &mut HeaderMap) {
        if let McpSession::Marked(id) = &self.session {
            headers.insert(MCP_SESSION, id.clone());
        }
    }
}

impl<G: Gateway> Front<G> {
    /// Interprets the URL's meaning for `caller`.
    pub(super) fn requested<'a>(
        &self,
        meaning: Option<UrlMeaning<'a>>,
        caller: &G::Caller,
    ) -> Result<Requested<'a>, Problem> {
        let id = |url: &UrlParts<'_>| TunnelId::parse(url.tunnel).ok();
        match meaning {
            Some(UrlMeaning::Tunnel(url)) => match id(&url) {
                Some(tunnel) => Ok(Requested::new(TunnelSelector::Tunnel(tunnel), url)),
                None => Err(Problem::not_delivered(
                    SessionEnd::UnknownTunnel,
                    url.tunnel,
                )),
            },
            Some(UrlMeaning::Kind { dcc, any, tunnel }) => {
                let tunnel = tunnel.and_then(|url| Some((id(&url)?, url)));
                match tunnel {
                    Some((tunnel, url)) if self.gateway.is_kind(caller, &tunnel, dcc) => {
                        Ok(Requested {
                            dcc: Some(dcc),
                            ..Requested::new(TunnelSelector::Tunnel(tunnel), url)
                        })
                    }
                    other => Ok(Requested {
                        dcc: Some(dcc),
                        or_tunnel: other.map(|(tunnel, _)| tunnel),
                        ..Requested::new(TunnelSelector::Kind(dcc.to_owned()), any)
                    }),
                }
            }
            Some(UrlMeaning::Health | UrlMeaning::Tunnels { .. } | UrlMeaning::Agent) | None => {
                Err(Problem::not_found())
            }
        }
    }

    /// Finds the request's target; waits for an agent that is briefly offline.
    pub(super) async fn destination(
        &self,
        parts: &Parts,
        context: &RequestContext<'_>,
        admitted: &AdmittedCaller<G>,
        requested: Requested<'_>,
    ) -> Result<Destination, Problem> {
        let url = requested.url;
        let subject = self.gateway.subject(&admitted.caller);
        let (mut wanted, session, login_origin) =
            self.wanted(parts, requested.selector, &url, subject)?;
        wanted.dcc = requested.dcc.map(Arc::from);
        let is_any = matches!(wanted.selector, TunnelSelector::Kind(_));
        if is_any && matches!(session, McpSession::Unmarked) {
            return Err(Problem::session_gone());
        }
        let target = self.find(&wanted, admitted, None).await?;
        session.check(&target)?;
        let mut mapping = Mapping {
            target,
            prefix: url.prefix.to_owned(),
            path: wanted.path.clone(),
            bare: wanted.is_invited || !url.rest.starts_with('/'),
            ours: self.ours(&parts.headers, context),
            https: context.client.https,
            is_any,
            referer: None,
            login_origin,
        };
        if let Err(problem) = mapping.check_exposed(&wanted) {
            return Err(match requested.or_tunnel {
                Some(tunnel) => self.unknown(tunnel, admitted).await,
                None => problem,
            });
        }
        if let Some((path, query)) = wanted.path.split_once('?')
            && let Some(query) = mapping.with_resource(query.as_bytes())
        {
            wanted.path = [path, "?", &String::from_utf8_lossy(&query)].concat();
            mapping.path = wanted.path.clone();
        }
        let path = PathAndQuery::from_maybe_shared(Bytes::from(wanted.path.clone()))
            .map_err(|_| Problem::bad_request("the path is not valid"))?;
        Ok(Destination {
            wanted,
            mapping,
            path,
            version: parts.version,
            is_get: parts.method == Method::GET,
            is_head: parts.method == Method::HEAD,
            session,
            caller_address: context.client.address,
            places: match parts.method == Method::GET {
                true => login::places(&url),
                false => Vec::new(),
            },
        })
    }

    /// The relay's names that this request shows.
    fn ours(&self, headers: &HeaderMap, context: &RequestContext<'_>) -> RelayNames {
        let inner = context.authority.map(str::as_bytes);
        let outer = context.client.host(headers);
        RelayNames {
            public: outer.or(inner).map(Bytes::copy_from_slice),
            inner: outer.and(inner).map(Bytes::copy_from_slice),
            public_authority: self.settings.public_authority.clone(),
            domain: self.settings.domain.clone(),
        }
    }

    /// Error for a path below a kind, whose first segment names a tunnel of another kind or an unknown tunnel.
    async fn unknown(&self, tunnel: TunnelId, admitted: &AdmittedCaller<G>) -> Problem {
        let wanted = TargetQuery {
            selector: TunnelSelector::Tunnel(tunnel),
            dcc: None,
            binding: None,
            path: String::new(),
            is_invited: false,
        };
        match self.find(&wanted, admitted, None).await {
            Err(problem) => problem,
            // The tunnel exists, but is of another kind.
            Ok(_) => no_target(
                NoTarget::Refused(SessionEnd::UnknownTunnel),
                &wanted.selector,
            ),
        }
    }

    /// Search criteria of the request, its MCP session id, and the target's origin from a login mark.
    fn wanted(
        &self,
        parts: &Parts,
        selector: TunnelSelector,
        url: &UrlParts<'_>,
        subject: Option<&str>,
    ) -> Result<(TargetQuery, McpSession, Option<String>), Problem> {
        let mark_key = self.gateway.mark_key();
        let path = url.path();
        let (mut binding, mut session) = (None, McpSession::None);
        if let Some(value) = parts.headers.get(MCP_SESSION) {
            session = McpSession::Unmarked;
            let marked = value.to_str().ok();
            if let Some((to, id)) = marked.and_then(|it| mark_key.check_session(subject, it))
                && let Ok(id) = HeaderValue::from_str(id)
            {
                (binding, session) = (Some(to), McpSession::Marked(id));
            }
        }
        // POST only: a client of the older transport sends its messages to the endpoint by POST.
        let invited = match &selector {
            TunnelSelector::Tunnel(tunnel) if parts.method == Method::POST => {
                mark_key.check_path(MarkKind::Path, tunnel, subject, &path)
            }
            _ => None,
        };
        let login = match &selector {
            TunnelSelector::Tunnel(tunnel) => Login::of(mark_key, tunnel, &path),
            TunnelSelector::Kind(_) => None,
        };
        let is_invited = invited.is_some() || login.is_some();
        let mut origin = None;
        let path = match (invited, login) {
            // The MCP session and the endpoint belong to different agents.
            (Some((to, _)), _) if binding.as_ref().is_some_and(|binding| *binding != to) => {
                return Err(Problem::session_gone());
            }
            (Some((to, path)), _) => {
                binding = Some(to);
                path.to_owned()
            }
            (None, Some(login)) => {
                binding = binding.or(login.binding);
                origin = login.origin;
                login.path
            }
            (None, None) => path,
        };
        let wanted = TargetQuery {
            selector,
            dcc: None,
            binding,
            path,
            is_invited,
        };
        Ok((wanted, session, origin))
    }

    /// The target for the request.
    pub(super) async fn find(
        &self,
        wanted: &TargetQuery,
        admitted: &AdmittedCaller<G>,
        stale: Option<&Target>,
    ) -> Result<Rc<Target>, Problem> {
        let kept = |tunnel: &TunnelId, agent| self.pool.keeps(tunnel, agent, admitted.key);
        let found = self
            .gateway
            .find(&admitted.caller, wanted, stale, kept)
            .await;
        found.map_err(|why| no_target(why, &wanted.selector))
    }
}

/// MCP session id of a request.
pub(super) enum McpSession {
    None,
    /// The target's own session id, from an id that the relay has marked.
    Marked(HeaderValue),
    /// An id that the relay has not marked, or not for this caller.
    Unmarked,
}

impl McpSession {
    /// Refuses an unmarked id at a tunnel with several agents, since it leads to none of them.
    pub(super) fn check(&self, target: &Target) -> Result<(), Problem> {
        match self {
            Self::Unmarked if target.is_shared => Err(Problem::session_gone()),
            _ => Ok(()),
        }
    }
}

/// The answer to a request without a target.
pub(super) fn no_target(why: NoTarget, selector: &TunnelSelector) -> Problem {
    match (why, selector) {
        (NoTarget::AgentGone, _) => Problem::session_gone(),
        (NoTarget::Stopping, _) => Problem::stopping(),
        (NoTarget::Refused(SessionEnd::UnknownTunnel), TunnelSelector::Kind(kind)) => {
            Problem::no_such_kind(kind)
        }
        (NoTarget::Refused(reason), TunnelSelector::Kind(kind)) => {
            Problem::not_delivered(reason, kind)
        }
        (NoTarget::Refused(reason), TunnelSelector::Tunnel(tunnel)) => {
            Problem::not_delivered(reason, tunnel.as_str())
        }
    }
}

/// Marks the MCP session ids in an answer, so that later requests with them go to the same agent.
pub(super) fn mark_sessions(
    headers: &mut HeaderMap,
    mark_key: &MarkKey,
    target: &Target,
    subject: Option<&str>,
) {
    let Entry::Occupied(mut ids) = headers.entry(MCP_SESSION) else {
        return;
    };
    for id in ids.iter_mut() {
        let marked = id.to_str().ok();
        let marked = marked.map(|it| mark_key.mark_session(&target.binding(), subject, it));
        if let Some(Ok(marked)) = marked.map(|it| HeaderValue::from_str(&it)) {
            *id = marked;
        }
    }
}
