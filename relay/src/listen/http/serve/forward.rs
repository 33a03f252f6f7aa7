//! One request: from the caller's head to the target's answer. A request for a WebSocket goes the same way up to its
//! answer.

use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Extensions, HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use tieline_hop::{await_continue, close_after, escape_path, events, headers};

use super::Front;
use super::context::RequestContext;
use super::destination::Destination;
use super::metadata::is_document;
use super::pass::AnswerBody;
use super::upgrade::{check_complete, is_of_payload};
use crate::listen::http::frontend::state::FrontendState;
use crate::listen::http::frontend::unread_body::UnreadBody;
use crate::listen::http::gateway::Gateway;
use crate::listen::http::inbound::forwarded::Client;
use crate::listen::http::inbound::proxy_fields;
use crate::listen::http::inbound::url::{UrlMeaning, split};
use crate::listen::http::mapping::login;
use crate::listen::http::outbound::request::{Progress, RequestBody};
use crate::listen::http::policy::audit_record::AuditRecord;
use crate::listen::http::policy::callers::{AdmittedCaller, leave_credential};
use crate::listen::http::policy::credentials;
use crate::listen::http::policy::origin::{self, Page};
use crate::listen::http::problem::{self, Problem};

/// Beginning of the path at which a CA looks for the answer to a challenge (RFC 8555, section 8.3).
const ACME_PATH: &str = "/.well-known/acme-challenge/";

impl<G: Gateway> Front<G> {
    /// Answers one request, by its target or by the relay itself. `state` belongs to the HTTP/2 stream, or to
    /// the HTTP/1.1 connection.
    pub(crate) async fn answer(
        self: Rc<Self>,
        request: Request<Incoming>,
        state: Rc<FrontendState>,
    ) -> Response<AnswerBody<G>> {
        state.begin(!request.body().is_end_stream());
        let (mut parts, body) = request.into_parts();
        let is_http2 = parts.version == Version::HTTP_2;
        let is_head = parts.method == Method::HEAD;
        // The scanner holds back the bytes after a request with `Upgrade` and without a body.
        let is_held = !is_http2 && parts.headers.contains_key(UPGRADE) && body.is_end_stream();
        if is_http2 {
            // Over HTTP/1.1 the scanner has escaped the path.
            escape_path(&mut parts.uri);
        }
        let rest = UnreadBody::new(&parts, &body, &self.gateway, &state);
        let mut progress = Progress::new(&state);
        progress.rest = Some(Rc::clone(&rest));
        if !body.is_end_stream() {
            progress.guard(&self.gateway);
        }
        let body = RequestBody::new(Some(body), progress);
        let mut page = Page::Own;
        let mut audit_record =
            AuditRecord::begin(&self.gateway, &parts, self.peer.source.address().ip());
        let served = self.serve(parts, body, &state, &mut page, &mut audit_record);
        let (mut response, word) = match served.await {
            Ok(response) => (response, None),
            Err(problem) => {
                let word = problem.word;
                (own(problem.into_response(), &state), Some(word))
            }
        };
        let is_switch = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if !is_switch {
            origin::add_cors(response.headers_mut(), page);
        }
        if is_head {
            leave_body_out(&mut response);
        }
        if self.gateway.is_draining() && !is_http2 && !is_switch {
            close_after(response.headers_mut());
        }
        rest.settle(&mut response, &self.gateway, &state).await;
        self.gateway.answered(response.status(), word);
        audit_record.note(response.status(), word);
        if is_held && !is_switch {
            state.stay_http();
        }
        response
    }

    /// Routes and forwards a request. `page` is set to the web page behind the request, for CORS.
    async fn serve(
        self: &Rc<Self>,
        mut parts: Parts,
        body: RequestBody,
        state: &Rc<FrontendState>,
        page: &mut Page,
        audit_record: &mut AuditRecord<G>,
    ) -> Result<Response<AnswerBody<G>>, Problem> {
        let is_upgrade = check(&parts, &body, state)?;
        if let Some(answer) = self.for_ca(&parts, audit_record) {
            return Ok(own(answer, state));
        }
        let token = self.take_token(&mut parts, is_upgrade)?;
        let context = self.context(&parts)?;
        audit_record.comes_from(context.client.address);
        *page = self.page(&parts.headers, &context);
        page.check()?;
        let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
        let meaning = split(context.host_meaning, path);
        if let Some(answer) = self.for_any_caller(&parts, meaning.as_ref(), &context, is_upgrade)? {
            audit_record.forget();
            return Ok(own(answer, state));
        }
        let from = (&parts.headers, token.as_deref());
        let admitted = self.admit(from, context.client.address, state, audit_record)?;
        let caller = &admitted.caller;
        if meaning.as_ref().is_some_and(UrlMeaning::is_well_known) {
            Problem::check_metadata(&parts.method)?;
        }
        if let Some(UrlMeaning::Tunnels { after }) = meaning
            && self.may_list(caller, &context, &parts)
        {
            let listing = self.gateway.list(caller, after).await;
            let public = self.public_urls(&context, &parts.headers);
            return Ok(own(listing.into_response(&public), state));
        }
        let requested = self.requested(meaning, caller)?;
        audit_record.leads_to(requested.url.tunnel);
        let mut destination = self
            .destination(&parts, &context, &admitted, requested)
            .await?;
        destination.mapping.check_worker(&parts.headers)?;
        audit_record.leads_to(destination.mapping.target.tunnel.as_str());
        let client = context.client;
        if is_upgrade && is_of_payload(&destination) {
            let answer = self.payload(&parts.headers, &destination, &admitted, client, state)?;
            return Ok(own(answer, state));
        }
        check_complete(&parts, &destination)?;
        let head = (&parts.method, &parts.headers);
        let mapping = &destination.mapping;
        let body = self.body_for(mapping, head, body, state).await?;
        let request = self.prepare(parts, body, &mut destination, client, is_upgrade)?;
        audit_record.searched();
        let (connection, answer) = self
            .ask(request, &mut destination, &admitted, state)
            .await?;
        // The target may be another one now: the agent may have left during the exchange.
        audit_record.leads_to(destination.mapping.target.tunnel.as_str());
        state.is_answering.set(true);
        if is_upgrade && answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let passing = self.switch(answer, connection, &destination, &admitted, client, state);
            return Box::pin(passing).await;
        }
        if destination.is_metadata() && is_document(&answer) {
            let passing = self.pass_document(answer, connection, destination, admitted, state);
            return Box::pin(passing).await;
        }
        self.pass(answer, connection, destination, admitted, state)
    }

    /// The answer to a CA that checks a name (HTTP-01), whatever host it names; `None` for other requests.
    fn for_ca(&self, parts: &Parts, audit_record: &mut AuditRecord<G>) -> Option<Response<Bytes>> {
        let challenges = self.settings.challenges.as_ref()?;
        let token = parts.uri.path().strip_prefix(ACME_PATH)?;
        let is_read = matches!(parts.method, Method::GET | Method::HEAD);
        let text = challenges.text(token).filter(|_| is_read)?;
        audit_record.forget();
        Some(problem::challenge(text))
    }

    /// The answer that does not depend on the caller: to a CORS preflight, a health check or an agent, the refusal of a
    /// relay that stops, or a redirect.
    fn for_any_caller(
        &self,
        parts: &Parts,
        meaning: Option<&UrlMeaning<'_>>,
        context: &RequestContext<'_>,
        is_upgrade: bool,
    ) -> Result<Option<Response<Bytes>>, Problem> {
        if origin::is_preflight(&parts.method, &parts.headers) {
            return Ok(Some(origin::preflight(&parts.headers)));
        }
        if is_upgrade && self.gateway.is_draining() {
            return Err(Problem::draining());
        }
        match meaning {
            Some(UrlMeaning::Health) => Ok(Some(problem::alive())),
            Some(UrlMeaning::Agent) => self.link(parts, context, is_upgrade).map(Some),
            // Where requests in clear text are redirected, `take_token` has refused this one if it came in clear text.
            _ if is_upgrade => Ok(None),
            _ => Ok(self.redirect(parts, context)),
        }
    }

    /// Admits the sender of a request from `address` within its limits, and names it in the audit record. `elsewhere`
    /// is a token in another place than `Authorization`.
    fn admit(
        &self,
        (headers, elsewhere): (&HeaderMap, Option<&str>),
        address: IpAddr,
        state: &FrontendState,
        audit_record: &mut AuditRecord<G>,
    ) -> Result<Rc<AdmittedCaller<G>>, Problem> {
        state.enter(self.gateway.arrive(address)?);
        let takes_tokens = self.settings.takes_tokens;
        let (admitted, is_new) =
            self.callers
                .admit(&self.gateway, (headers, elsewhere), takes_tokens)?;
        if is_new {
            state.wake_driver();
        }
        audit_record.is_of(&admitted);
        state.identify(|pass| self.gateway.identify(pass, &admitted.caller))?;
        Ok(admitted)
    }

    /// The request as its target gets it.
    fn prepare(
        &self,
        mut parts: Parts,
        body: RequestBody,
        destination: &mut Destination,
        client: Client,
        is_upgrade: bool,
    ) -> Result<Request<RequestBody>, Problem> {
        // Before all other steps, because they copy values from these fields to other fields.
        let (path, name) = (
            destination.path.clone(),
            destination.mapping.ours.public.clone(),
        );
        let (method, headers) = (&parts.method, &mut parts.headers);
        let path = credentials::keep_back(&self.gateway, method, headers, path, name)?;
        let length = body.size_hint().exact();
        headers::for_next_hop(&mut parts.headers, parts.version, length);
        events::ask_for_plain(&parts.method, &mut parts.headers);
        if destination.is_metadata() {
            login::ask_for_whole(&mut parts.headers);
        }
        destination.mapping.read(&mut parts.headers);
        let own = self.settings.target_authorization.as_ref();
        proxy_fields::drop_from_request(&mut parts.headers, client.is_trusted, own);
        if self.settings.takes_tokens {
            leave_credential(&mut parts.headers, own);
        }
        let mapping = &destination.mapping;
        let (public, prefix) = (mapping.ours.public.clone(), mapping.prefix_of_one());
        client.add_to(&mut parts.headers, &self.peer_name, public, prefix);
        destination.restore_session(&mut parts.headers);
        if is_upgrade {
            headers::switch_to_websocket(&mut parts.headers);
        }
        parts.version = Version::HTTP_11;
        parts.uri = Uri::from(path);
        parts.extensions = Extensions::new();
        let mut request = Request::from_parts(parts, body);
        if headers::expects_continue(request.headers()) {
            let (gateway, timeout) = (self.gateway.clone(), self.settings.continue_timeout);
            // The timeout starts when hyper first polls the body.
            let timeout = Box::pin(async move { gateway.sleep(timeout).await });
            await_continue(&mut request, timeout);
        }
        Ok(request)
    }
}

/// Refuses a request that cannot be passed on, or that there is no memory for; true if it asks for a WebSocket.
fn check(parts: &Parts, body: &RequestBody, state: &FrontendState) -> Result<bool, Problem> {
    if !state.has_place(head_bytes(parts)) {
        return Err(Problem::overload());
    }
    let Parts {
        method,
        uri,
        version,
        headers,
        ..
    } = parts;
    let has_body = !body.is_end_stream();
    let asks = headers::check_request_or_upgrade(method, uri, *version, headers, has_body)?;
    Ok(asks)
}

/// Bytes of a request's head, plus 32 per field as in RFC 9113, section 6.5.2.
fn head_bytes(parts: &Parts) -> u64 {
    let fields = parts.headers.iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + 32);
    let path = parts.uri.path_and_query().map_or(0, |it| it.as_str().len());
    (path + fields.sum::<usize>()) as u64
}

/// Wraps an answer of the relay itself.
fn own<G: Gateway>(
    response: Response<Bytes>,
    state: &Rc<FrontendState>,
) -> Response<AnswerBody<G>> {
    response.map(|body| AnswerBody::own(body, Rc::clone(state)))
}

/// Turns an answer of the relay itself into one to HEAD: the head of GET without its body (RFC 9110, section 9.3.2).
/// hyper leaves the body out over HTTP/1.1 only.
fn leave_body_out<G: Gateway>(response: &mut Response<AnswerBody<G>>) {
    let length = response.body_mut().empty_own();
    if length > 0 {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
}
