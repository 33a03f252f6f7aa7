//! Answers to requests for a WebSocket: for an agent's link, for the payload of a raw caller, or as the HTTP target
//! answers.
//!
//! Behind a `101` the connection leaves HTTP. What it becomes is kept in the [`Front`] until hyper has written the
//! answer.

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{
    CONTENT_LENGTH, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL,
};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode, response};
use hyper::body::Incoming;
use tieline_hop::{Delivery, headers};
use tieline_transport::websocket::handshake::SUBPROTOCOL_AGENT;

use super::Front;
use super::context::RequestContext;
use super::destination::Destination;
use super::pass::AnswerBody;
use crate::directory::TunnelSelector;
use crate::listen::http::frontend::state::FrontendState;
use crate::listen::http::gateway::Gateway;
use crate::listen::http::gateway::upgraded::{TargetConnection, Upgraded};
use crate::listen::http::inbound::forwarded::Client;
use crate::listen::http::inbound::proxy_fields;
use crate::listen::http::inbound::websocket::{self, BadHandshake};
use crate::listen::http::mapping::rewrite::Mapping;
use crate::listen::http::outbound::pool::Connection;
use crate::listen::http::policy::callers::AdmittedCaller;
use crate::listen::http::problem::Problem;
use crate::listen::proxied::Source;

impl<G: Gateway> Front<G> {
    /// Takes the caller's token out of a request for a WebSocket, where the relay takes tokens.
    ///
    /// # Errors
    /// The request is in clear text where such ones are refused; no token is read then.
    pub(super) fn take_token(
        &self,
        parts: &mut Parts,
        is_upgrade: bool,
    ) -> Result<Option<String>, Problem> {
        if !is_upgrade {
            return Ok(None);
        }
        self.check_encrypted(parts)?;
        let takes_token = self.settings.takes_tokens;
        Ok(takes_token.then(|| websocket::take_token(parts)).flatten())
    }

    /// Answers a request at the URL of agents' links. No token is needed, because the link's handshake proves who the
    /// agent is.
    pub(super) fn link(
        &self,
        parts: &Parts,
        context: &RequestContext<'_>,
        is_upgrade: bool,
    ) -> Result<Response<Bytes>, Problem> {
        let headers = &parts.headers;
        if !is_upgrade {
            return Err(Problem::upgrade_required(
                "this URL is for links of agents: `tieline serve --relay ws://…` or `wss://…`",
            ));
        }
        if self.settings.are_agents_certified {
            let why = "agents of this relay show certificates of their own, which they are not asked for here: dial \
                       tls:// or quic://";
            return Err(Problem::forbidden("client_certificate_required", why));
        }
        if headers.contains_key(ORIGIN) {
            let why = "no web page opens the link of an agent";
            return Err(Problem::forbidden("origin_not_allowed", why));
        }
        // Every agent behind an unknown proxy on this machine would look local, and so would agents behind a trusted
        // proxy that does not tell their address.
        let client = context.client;
        let address = SocketAddr::new(client.address, self.peer.source.address().port());
        let source = match client.is_proxied || proxy_fields::is_forwarded(headers) {
            true => Source::Announced(address),
            false => Source::Peer(address),
        };
        let is_hidden = client.address.is_loopback() && !source.is_this_machine();
        if is_hidden && self.settings.trusts_this_machine {
            let why = "this relay takes agents of its own machine only, and this request came through a proxy: its operator \
                       names the proxy in trusted_proxies, and the proxy tells the agent's address in X-Forwarded-For \
                       or in its PROXY protocol header; agents of this machine dial the relay itself";
            return Err(Problem::forbidden("unknown_proxy", why));
        }
        let accept = websocket::accept(headers).map_err(bad_handshake)?;
        if !websocket::offers(headers, SUBPROTOCOL_AGENT) {
            let why = "the link of an agent has the subprotocol `tieline.v1`, which this request does not offer";
            return Err(Problem::bad_request(why));
        }
        self.upgraded.replace(Some(Upgraded::Link { source }));
        let protocol = HeaderValue::from_static(SUBPROTOCOL_AGENT);
        Ok(switching(accept, Some(protocol)))
    }

    /// Answers a request for a WebSocket that carries payload.
    pub(super) fn payload(
        &self,
        headers: &HeaderMap,
        destination: &Destination,
        admitted: &AdmittedCaller<G>,
        client: Client,
        state: &FrontendState,
    ) -> Result<Response<Bytes>, Problem> {
        let accept = websocket::accept(headers).map_err(bad_handshake)?;
        self.upgraded.replace(Some(Upgraded::Caller {
            tunnel: destination.mapping.target.tunnel.clone(),
            caller: admitted.caller.clone(),
            address: client.address,
            pass: state.take_pass(),
        }));
        Ok(switching(accept, websocket::first_protocol(headers)))
    }

    /// Passes the head of a target's `101` on, and keeps the target's connection for the bytes that follow.
    pub(super) async fn switch(
        &self,
        answer: Response<Incoming>,
        connection: Connection<G>,
        destination: &Destination,
        admitted: &AdmittedCaller<G>,
        client: Client,
        state: &Rc<FrontendState>,
    ) -> Result<Response<AnswerBody<G>>, Problem> {
        let (mut parts, _) = answer.into_parts();
        let mapping = &destination.mapping;
        self.adapt_switch(&mut parts, mapping, admitted)?;
        let switched = connection.switched().await;
        let (stream, ahead) = switched.ok_or_else(|| Problem::target_closed(Delivery::Sent))?;
        self.upgraded
            .replace(Some(Upgraded::Target(TargetConnection {
                stream,
                ahead,
                tunnel: mapping.target.tunnel.clone(),
                address: client.address,
                caller: admitted.caller.clone(),
                pass: state.take_pass(),
            })));
        let body = AnswerBody::own(Bytes::new(), Rc::clone(state));
        Ok(Response::from_parts(parts, body))
    }

    fn adapt_switch(
        &self,
        parts: &mut response::Parts,
        mapping: &Mapping,
        admitted: &AdmittedCaller<G>,
    ) -> Result<(), Problem> {
        headers::check_switch(&parts.headers).map_err(Problem::target_invalid)?;
        self.adapt_fields(parts, None, mapping, admitted);
        parts.headers.remove(CONTENT_LENGTH);
        headers::switch_to_websocket(&mut parts.headers);
        parts.extensions = headers::kept_extensions(&parts.extensions);
        Ok(())
    }
}

/// Whether a WebSocket to this destination carries payload: the target takes bytes, and the URL names a tunnel alone.
pub(super) fn is_of_payload(destination: &Destination) -> bool {
    let wanted = &destination.wanted;
    let path = wanted.path.split('?').next();
    let is_bare = path == Some("/") && wanted.dcc.is_none() && !wanted.is_invited;
    is_bare
        && matches!(wanted.selector, TunnelSelector::Tunnel(_))
        && destination.mapping.target.is_tcp
}

/// Refuses a request for a WebSocket of payload that lost `Upgrade` or `Connection` on its way: a target of bytes would
/// take its head for payload. Called for requests that ask for no WebSocket.
pub(super) fn check_complete(parts: &Parts, destination: &Destination) -> Result<(), Problem> {
    let was_handshake =
        parts.method == Method::GET && parts.headers.contains_key(SEC_WEBSOCKET_KEY);
    if was_handshake && is_of_payload(destination) {
        let why = "this request has a Sec-WebSocket-Key but does not ask for a WebSocket: a server between client and relay \
                   removed the fields Upgrade and Connection, which it must pass on";
        return Err(Problem::upgrade_required(why));
    }
    Ok(())
}

/// The relay's own `101`.
fn switching(accept: HeaderValue, protocol: Option<HeaderValue>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = response.headers_mut();
    headers::switch_to_websocket(fields);
    fields.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol {
        fields.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    response
}

fn bad_handshake(why: BadHandshake) -> Problem {
    match why {
        BadHandshake::Version => {
            Problem::upgrade_required("the only supported version of WebSocket is 13")
        }
        BadHandshake::Key => {
            Problem::bad_request("a WebSocket's Sec-WebSocket-Key is 16 bytes in base64")
        }
    }
}
