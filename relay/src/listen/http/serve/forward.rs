//! One request: from the caller's head to the target's answer.
//! Long because all steps of one request stand in one file.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::HOST;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Extensions, HeaderMap, Method, Request, Response, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use tieline_hop::{Delivery, await_continue, cors, escape_path, events, headers};
use tieline_wire::Reason;

use super::body::{AnswerBody, Progress, RequestBody};
use super::destination::{Destination, no_target, seal_sessions};
use crate::auth::TokenRefusal;
use crate::listen::http::events::endpoint::Endpoint;
use crate::listen::http::events::stream::Events;
use crate::listen::http::frontend::rest::Rest;
use crate::listen::http::frontend::state::{Cut, State};
use crate::listen::http::gateway::Gateway;
use crate::listen::http::gateway::settings::Peer;
use crate::listen::http::gateway::settings::Settings;
use crate::listen::http::inbound::claims;
use crate::listen::http::inbound::forwarded::{Client, PeerName};
use crate::listen::http::inbound::route::{Named, Way, host, is_ours_anywhere, named, split};
use crate::listen::http::mapping::login;
use crate::listen::http::mapping::rewrite::Mapping;
use crate::listen::http::outbound::again::{Again, is_away, is_of_target};
use crate::listen::http::outbound::pool::{Connection, Failure, Lease, Pool};
use crate::listen::http::policy::audit_record::AuditRecord;
use crate::listen::http::policy::callers::{AdmittedCaller, Callers, leave_credential};
use crate::listen::http::policy::credentials;
use crate::listen::http::policy::origin::{self, Page};
use crate::listen::http::problem::close_after;
use crate::listen::http::problem::{self, Problem};
use crate::listen::http::target::Target;
use crate::listen::http::target_query::NoTarget;

/// Route look-ups for a request that was not sent yet, after its link went away.
const LOOKS_MAX: usize = 4;

/// State shared by the requests of one frontend connection.
pub(crate) struct Front<G: Gateway> {
    pub(crate) gateway: G,
    pub(crate) pool: Pool<G>,
    pub(crate) callers: Callers<G>,
    pub(crate) settings: Rc<Settings>,
    peer: Peer,
    peer_name: PeerName,
}

/// Outcome of sending a request over a new connection.
enum Attempt<G: Gateway> {
    Answered(Box<(Connection<G>, Response<Incoming>)>),
    /// No answer for this reason; the request may be sent once more.
    Failed(Box<Unanswered>, Reason),
}

/// A request without an answer that may be sent once more.
struct Unanswered {
    request: Request<RequestBody>,
    /// Whether a target may have received the request already.
    delivery: Delivery,
}

/// The request's authority, its meaning, and its caller.
pub(crate) struct Asked<'a> {
    /// Authority that the request names.
    pub(crate) authority: Option<&'a str>,
    named: Named<'a>,
    pub(crate) client: Client,
}

impl Asked<'_> {
    /// True if nothing hints at an undeclared proxy on this machine: behind such a proxy, all callers look
    /// local.
    fn is_direct(&self, headers: &HeaderMap) -> bool {
        let host = self.authority.and_then(host);
        host.is_some_and(is_ours_anywhere) && !claims::is_forwarded(headers)
    }
}

impl<G: Gateway> Front<G> {
    pub(crate) fn new(gateway: G, settings: Rc<Settings>, peer: Peer, is_http2: bool) -> Self {
        Self {
            pool: Pool::new(gateway.budget(), is_http2),
            gateway,
            callers: Callers::new(),
            settings,
            peer_name: PeerName::of(peer.address),
            peer,
        }
    }

    /// Answers one request, by its target or by the relay itself. `state` belongs to the HTTP/2 stream, or to
    /// the HTTP/1.1 connection.
    pub(crate) async fn answer(
        self: Rc<Self>,
        request: Request<Incoming>,
        state: Rc<State>,
    ) -> Response<AnswerBody<G>> {
        state.begin(!request.body().is_end_stream());
        let (mut parts, body) = request.into_parts();
        let is_http2 = parts.version == Version::HTTP_2;
        if is_http2 {
            // Over HTTP/1.1 the scanner has escaped the path.
            escape_path(&mut parts.uri);
        }
        let rest = Rest::new(&parts, &body, &self.gateway, &state);
        let mut progress = Progress::new(&state).leaving(&rest);
        if !body.is_end_stream() {
            progress = progress.guarded(&self.gateway);
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
        origin::mark(response.headers_mut(), page);
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
        state: &Rc<State>,
        page: &mut Page,
        audit_record: &mut AuditRecord<G>,
    ) -> Result<Response<AnswerBody<G>>, Problem> {
        if !state.has_place(head_bytes(&parts)) {
            return Err(Problem::overload());
        }
        headers::check_request(&parts.method, &parts.uri, parts.version, &parts.headers)?;
        let asked = self.asked(&parts)?;
        audit_record.comes_from(asked.client.address);
        *page = self.page(&parts.headers, &asked);
        if *page == Page::Refused {
            return Err(origin::refusal());
        }
        if origin::is_preflight(&parts.method, &parts.headers) {
            audit_record.forget();
            return Ok(own(origin::preflight(&parts.headers), state));
        }
        let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
        let way = split(asked.named, path);
        let is_metadata = way.as_ref().is_some_and(Way::is_well_known);
        if way == Some(Way::Health) {
            audit_record.forget();
            return Ok(own(problem::alive(), state));
        }
        state.enter(self.gateway.arrive(asked.client.address)?);
        let takes_tokens = self.settings.takes_tokens;
        let headers = &parts.headers;
        let (admitted, is_new) = self.callers.admit(&self.gateway, headers, takes_tokens)?;
        if is_new {
            state.wake_driver();
        }
        audit_record.is_of(&admitted);
        let caller = &admitted.caller;
        state.identify(|pass| self.gateway.identify(pass, caller))?;
        if is_metadata {
            Problem::check_metadata(&parts.method)?;
        }
        // Without tokens, only local callers may list tunnels: remote callers must know a tunnel's name.
        let is_local = || asked.client.is_this_machine() && asked.is_direct(&parts.headers);
        let may_list = || self.gateway.subject(caller).is_some() || is_local();
        if let Some(Way::Tunnels { after }) = way
            && parts.method == Method::GET
            && may_list()
        {
            let listing = self.gateway.list(caller, after).await;
            let public = self.public_urls(&asked, &parts.headers);
            return Ok(own(listing.into_response(&public), state));
        }
        let named = self.named(way, caller)?;
        audit_record.leads_to(named.word());
        let mut destination = self.destination(&parts, &asked, &admitted, named).await?;
        destination.mapping.check_worker(&parts.headers)?;
        audit_record.leads_to(destination.mapping.target.tunnel.as_str());
        let client = asked.client;
        let asking = (&parts.method, &parts.headers);
        let body = self
            .body_for(&destination.mapping, asking, body, state)
            .await?;
        let request = self.prepare(parts, body, &mut destination, client)?;
        audit_record.searched();
        let (connection, answer) = self
            .ask(request, &mut destination, &admitted, state)
            .await?;
        // The target may be another one now: the agent may have left during the exchange.
        audit_record.leads_to(destination.mapping.target.tunnel.as_str());
        state.head_arrived();
        if destination.is_metadata() && login::is_document(&answer) {
            let passing = self.pass_document(answer, connection, destination, admitted, state);
            return Box::pin(passing).await;
        }
        self.pass(answer, connection, destination, admitted, state)
    }

    fn asked<'a>(&self, parts: &'a Parts) -> Result<Asked<'a>, Problem> {
        // `check_request` has refused a request whose two authorities differ.
        let authority = match parts.uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => match parts.headers.get(HOST).map(|host| host.to_str()) {
                Some(Ok(host)) => Some(host).filter(|host| !host.is_empty()),
                Some(Err(_)) => return Err(Problem::bad_request("the Host header is not text")),
                None => None,
            },
        };
        let settings = &self.settings;
        let Peer { address, https } = self.peer;
        let client = Client::of(&parts.headers, address, https, &settings.trusted_proxies);
        let domain = settings.domain.as_deref();
        let is_local = client.is_this_machine();
        let named = named(authority.unwrap_or_default(), domain, is_local);
        if named == Named::Other {
            return Err(Problem::misdirected());
        }
        Ok(Asked {
            authority,
            named,
            client,
        })
    }

    fn page(&self, headers: &HeaderMap, asked: &Asked<'_>) -> Page {
        let authority = asked.authority.unwrap_or_default();
        let is_known = self.settings.domain.is_some();
        let https = asked.client.https;
        let origins = &self.settings.origins;
        let is_here = asked.client.is_this_machine();
        // Remote callers of a relay that takes tokens are not checked: a browser adds only cookies by
        // itself, and those belong to the target.
        let is_ambient = is_here || !self.settings.takes_tokens;
        if is_ambient && origin::is_blind(headers, is_here, origins) {
            return Page::Refused;
        }
        origin::page(headers, authority, is_known, https, origins)
    }

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
            destination.mapping.public().cloned(),
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
        claims::drop_from_request(&mut parts.headers, client.is_trusted(), own);
        if self.settings.takes_tokens {
            leave_credential(&mut parts.headers, own);
        }
        let mapping = &destination.mapping;
        let (public, prefix) = (mapping.public().cloned(), mapping.prefix_of_one());
        client.tell(&mut parts.headers, &self.peer_name, public, prefix);
        destination.unseal(&mut parts.headers);
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

    /// Sends the request over a kept connection or a new one; afterwards `destination` has the target that
    /// answered.
    pub(crate) async fn exchange(
        &self,
        mut request: Request<RequestBody>,
        destination: &mut Destination,
        admitted: &Rc<AdmittedCaller<G>>,
        state: &Rc<State>,
    ) -> Result<(Connection<G>, Response<Incoming>), Problem> {
        let Destination {
            wanted, mapping, ..
        } = &*destination;
        mapping.address(request.headers_mut());
        let is_repeatable = request.method().is_idempotent() && request.body().is_end_stream();
        let now = self.gateway.now();
        let to = (&*mapping.target, wanted.dcc.as_ref());
        let kept = self.pool.take(admitted.key(), to, now, is_repeatable);
        let mut unanswered = Unanswered {
            request,
            delivery: Delivery::NotSent,
        };
        if let Some(mut connection) = kept {
            let again = Again::of(&mut unanswered.request);
            unanswered = match connection.send(unanswered.request).await {
                Ok(answer) => return Ok((connection, answer)),
                // The target closed the kept connection when the request came. This is normal after a
                // pause, and does not mean that the target processed the request.
                Err(failure) => {
                    let repeats = (again, is_repeatable);
                    Box::pin(self.unanswered(failure, connection, repeats, state)).await?
                }
            };
        }
        let Unanswered {
            request,
            mut delivery,
        } = unanswered;
        // Boxed, so that the future of a request over a kept connection stays small.
        let anew = self.exchange_anew(request, &mut delivery, destination, admitted, state);
        let outcome = Box::pin(anew).await;
        // If an earlier try may have reached a target, the answer must say so.
        outcome.map_err(|problem| problem.after(delivery))
    }

    /// Sends the request over new connections, to one agent of the tunnel after the other, while it may be
    /// sent once more. `delivery` becomes [`Delivery::Sent`] once a target may have received the request.
    async fn exchange_anew(
        &self,
        mut request: Request<RequestBody>,
        delivery: &mut Delivery,
        destination: &mut Destination,
        admitted: &Rc<AdmittedCaller<G>>,
        state: &Rc<State>,
    ) -> Result<(Connection<G>, Response<Incoming>), Problem> {
        let Destination {
            wanted,
            mapping,
            session,
            ..
        } = destination;
        let (caller, dcc) = (&admitted.caller, wanted.dcc.as_ref());
        let (mut tried, mut looks) = (Vec::new(), 0);
        let time_is_up = self.gateway.now() + self.settings.open_timeout;
        loop {
            if !self.gateway.is_current(caller) {
                return Err(Problem::token(TokenRefusal::Revoked));
            }
            let to = (&mapping.target, dcc);
            let reason = match self.attempt(request, to, admitted, state).await? {
                Attempt::Answered(answered) => return Ok(*answered),
                Attempt::Failed(unanswered, reason) => {
                    request = unanswered.request;
                    if unanswered.delivery == Delivery::Sent {
                        *delivery = Delivery::Sent;
                    }
                    reason
                }
            };
            let refused = || no_target(NoTarget::Refused(reason), &wanted.selector);
            let before = Rc::clone(&mapping.target);
            if is_away(reason) && looks < LOOKS_MAX {
                // The link went away during the request: its agent may come back within the grace period.
                looks += 1;
                mapping.target = self.find(wanted, admitted, Some(&before)).await?;
                session.check(&mapping.target)?;
                mapping.check_exposed(wanted)?;
            } else if is_of_target(reason)
                && wanted.binding.is_none()
                && self.gateway.now() < time_is_up
            {
                // The targets of the other agents may accept the request; each is tried once.
                tried.push(before);
                let other = self.gateway.other(caller, wanted, &tried);
                mapping.target = other.ok_or_else(refused)?;
                let is_fit = session.check(&mapping.target).is_ok();
                if !is_fit || mapping.check_exposed(wanted).is_err() {
                    return Err(refused());
                }
            } else {
                return Err(refused());
            }
            mapping.address(request.headers_mut());
        }
    }

    /// Sends the request over one new connection.
    async fn attempt(
        &self,
        mut request: Request<RequestBody>,
        (target, dcc): (&Rc<Target>, Option<&Arc<str>>),
        admitted: &Rc<AdmittedCaller<G>>,
        state: &Rc<State>,
    ) -> Result<Attempt<G>, Problem> {
        let is_repeatable = request.method().is_idempotent() && request.body().is_end_stream();
        let again = Again::of(&mut request);
        let (gateway, timeout) = (&self.gateway, self.settings.open_timeout);
        let opening = Connection::open(gateway, admitted, (target, dcc), timeout, &self.pool);
        let mut connection = match opening.await {
            Ok(connection) => connection,
            Err(reason) => {
                let delivery = Delivery::NotSent;
                let unanswered = Box::new(Unanswered { request, delivery });
                return Ok(Attempt::Failed(unanswered, reason));
            }
        };
        match connection.send(request).await {
            Ok(answer) => Ok(Attempt::Answered(Box::new((connection, answer)))),
            Err(failure) => {
                let reason = connection.end_reason(&failure)?;
                let repeats = (again, is_repeatable);
                let failed = self.unanswered(failure, connection, repeats, state);
                Ok(Attempt::Failed(Box::new(Box::pin(failed).await?), reason))
            }
        }
    }

    /// A failed request for another try, if it `is_repeatable` or its target received none of it.
    async fn unanswered(
        &self,
        failure: Failure,
        connection: Connection<G>,
        (again, is_repeatable): (Again, bool),
        state: &Rc<State>,
    ) -> Result<Unanswered, Problem> {
        let problem = match failure {
            Failure::Unsent(request) => {
                let (request, delivery) = (*request, Delivery::NotSent);
                return Ok(Unanswered { request, delivery });
            }
            Failure::Broken(problem) => return Err(problem),
            Failure::Silent(problem) => problem,
        };
        let delivery = if connection.is_not_sent() {
            Delivery::NotSent
        } else if is_repeatable {
            Delivery::Sent
        } else if again.is_whole() && connection.is_unreached(&self.gateway).await {
            Delivery::NotSent
        } else {
            return Err(problem);
        };
        drop(connection);
        let request = again.into_request(state).await.ok_or(problem)?;
        Ok(Unanswered { request, delivery })
    }

    fn pass(
        self: &Rc<Self>,
        answer: Response<Incoming>,
        connection: Connection<G>,
        destination: Destination,
        admitted: Rc<AdmittedCaller<G>>,
        state: &Rc<State>,
    ) -> Result<Response<AnswerBody<G>>, Problem> {
        let (mut parts, body) = answer.into_parts();
        let checked = headers::check_answer(parts.status, &parts.headers);
        checked.map_err(Problem::target_invalid)?;
        let length = body.size_hint().exact();
        let mapping = destination.mapping;
        fields_for_caller(&mut parts.headers, length, &mapping);
        let (sealer, subject) = (
            self.gateway.sealer(),
            self.gateway.subject(&admitted.caller),
        );
        if mapping.is_of_several() {
            seal_sessions(&mut parts.headers, sealer, &mapping.target, subject);
        }
        let is_stream = events::is_event_stream(&parts.headers);
        let is_plain = events::Coding::of(&parts.headers) == Some(events::Coding::Plain);
        let mapped = match is_stream && destination.is_get && length != Some(0) {
            true => {
                Some(events::Events::begin(&mut parts.headers).map_err(Problem::target_invalid)?)
            }
            false => None,
        };
        if is_stream && destination.is_head {
            // Same head as for GET. If `begin` fails, GET would be refused, and the head stays as it is.
            let _refused = events::Events::begin(&mut parts.headers);
        }
        // The length of a mapped stream is unknown.
        let length = length.filter(|_| mapped.is_none());
        let is_open = is_stream && is_plain && length.is_none();
        let events = (is_open || mapped.is_some()).then(|| {
            let endpoint = Endpoint {
                mapping,
                sealer: Rc::clone(sealer),
                caller: subject.map(str::to_owned),
            };
            let mapped = mapped.map(|events| (events, endpoint));
            let quiet_max = self.settings.sse_keepalive;
            Events::new(self.gateway.clone(), quiet_max, mapped)
        });
        // Set for hyper's server, which chooses the version of the answer by the caller.
        parts.version = Version::HTTP_11;
        let is_delimited = length.is_some() || destination.version != Version::HTTP_10;
        let cut = if is_delimited {
            Cut::Visible
        } else {
            Cut::Hidden
        };
        let lease = Lease::new(Rc::clone(self), connection, admitted);
        let body = AnswerBody::target(body, events, lease, cut, Rc::clone(state));
        Ok(Response::from_parts(parts, body))
    }
}

/// Makes a target's answer head fit for the caller; `length` is that of the body, if known.
pub(crate) fn fields_for_caller(headers: &mut HeaderMap, length: Option<u64>, mapping: &Mapping) {
    headers::for_caller(headers, length);
    claims::drop_from_answer(headers);
    cors::drop_permissions(headers);
    mapping.apply(headers);
}

/// Bytes of a request's head, plus 32 per field as in RFC 9113, section 6.5.2.
fn head_bytes(parts: &Parts) -> u64 {
    let fields = parts.headers.iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + 32);
    let path = parts.uri.path_and_query().map_or(0, |it| it.as_str().len());
    (path + fields.sum::<usize>()) as u64
}

/// Wraps an answer of the relay itself.
fn own<G: Gateway>(response: Response<Bytes>, state: &Rc<State>) -> Response<AnswerBody<G>> {
    response.map(|body| AnswerBody::own(body, Rc::clone(state)))
}
