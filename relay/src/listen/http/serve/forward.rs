//! One request: from the caller's head to the target's answer.

use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Extensions, HeaderMap, Method, Request, Response, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use tieline_hop::{await_continue, close_after, escape_path, events, headers};

use super::Front;
use super::destination::Destination;
use super::metadata::is_document;
use super::pass::AnswerBody;
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
        let mut audit_record = AuditRecord::begin(&self.gateway, &parts, self.peer.address.ip());
        let served = self.serve(parts, body, &state, &mut page, &mut audit_record);
        let (mut response, word) = match served.await {
            Ok(response) => (response, None),
            Err(problem) => {
                let word = problem.word;
                (own(problem.into_response(), &state), Some(word))
            }
        };
        origin::add_cors(response.headers_mut(), page);
        if self.gateway.is_draining() && !is_http2 {
            close_after(response.headers_mut());
        }
        rest.settle(&mut response, &self.gateway, &state).await;
        self.gateway.answered(response.status(), word);
        audit_record.note(response.status(), word);
        response
    }

    /// Routes and forwards a request. `page` is set to the web page behind the request, for CORS.
    async fn serve(
        self: &Rc<Self>,
        parts: Parts,
        body: RequestBody,
        state: &Rc<FrontendState>,
        page: &mut Page,
        audit_record: &mut AuditRecord<G>,
    ) -> Result<Response<AnswerBody<G>>, Problem> {
        if !state.has_place(head_bytes(&parts)) {
            return Err(Problem::overload());
        }
        headers::check_request(&parts.method, &parts.uri, parts.version, &parts.headers)?;
        let context = self.context(&parts)?;
        audit_record.comes_from(context.client.address);
        *page = self.page(&parts.headers, &context);
        if *page == Page::Refused {
            return Err(origin::refusal());
        }
        let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
        let meaning = split(context.host_meaning, path);
        let answer = for_any_caller(&parts, meaning.as_ref());
        if let Some(answer) = answer.or_else(|| self.redirect(&parts, &context)) {
            audit_record.forget();
            return Ok(own(answer, state));
        }
        let admitted = self.admit(&parts.headers, context.client.address, state, audit_record)?;
        let caller = &admitted.caller;
        if meaning.as_ref().is_some_and(UrlMeaning::is_well_known) {
            Problem::check_metadata(&parts.method)?;
        }
        if let Some(UrlMeaning::Tunnels { after }) = meaning
            && parts.method == Method::GET
            && self.may_list(caller, &context, &parts.headers)
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
        let head = (&parts.method, &parts.headers);
        let body = self
            .body_for(&destination.mapping, head, body, state)
            .await?;
        let request = self.prepare(parts, body, &mut destination, client)?;
        audit_record.searched();
        let (connection, answer) = self
            .ask(request, &mut destination, &admitted, state)
            .await?;
        // The target may be another one now: the agent may have left during the exchange.
        audit_record.leads_to(destination.mapping.target.tunnel.as_str());
        state.is_answering.set(true);
        if destination.is_metadata() && is_document(&answer) {
            let passing = self.pass_document(answer, connection, destination, admitted, state);
            return Box::pin(passing).await;
        }
        self.pass(answer, connection, destination, admitted, state)
    }

    /// Admits the sender of a request from `address` within its limits, and names it in the audit record.
    fn admit(
        &self,
        headers: &HeaderMap,
        address: IpAddr,
        state: &FrontendState,
        audit_record: &mut AuditRecord<G>,
    ) -> Result<Rc<AdmittedCaller<G>>, Problem> {
        state.enter(self.gateway.arrive(address)?);
        let takes_tokens = self.settings.takes_tokens;
        let (admitted, is_new) = self.callers.admit(&self.gateway, headers, takes_tokens)?;
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

/// The answer to a CORS preflight or a health check, which any caller gets.
fn for_any_caller(parts: &Parts, meaning: Option<&UrlMeaning<'_>>) -> Option<Response<Bytes>> {
    if origin::is_preflight(&parts.method, &parts.headers) {
        return Some(origin::preflight(&parts.headers));
    }
    (meaning == Some(&UrlMeaning::Health)).then(problem::alive)
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
