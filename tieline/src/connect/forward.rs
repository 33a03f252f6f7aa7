//! Forwards one request, from the caller's head to the relay's answer; a request for a WebSocket goes the same way, up
//! to its `101`.

use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{
    Extensions, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, response,
};
use http_body::Body;
use hyper::body::Incoming;
use tieline_hop::events::{Events, ask_for_plain, is_event_stream};
use tieline_hop::headers::{
    check_answer, check_request_or_upgrade, check_switch, expects_continue, for_caller,
    kept_extensions, subprotocols, switch_to_websocket,
};
use tieline_hop::{
    Delivery, Sent, Tries, Unanswered, await_continue, close_after, copy_head, exchange,
};
use tokio::time::{Instant, sleep};

use super::caller::{ConnectionState, Progress, RequestBody};
use super::connection::{Connection, Failure};
use super::cors;
use super::credential::Credential;
use super::event::Hook;
use super::headers::for_relay;
use super::origin::{self, Hosts, Origins};
use super::pool::{Lease, Pool};
use super::problem::Problem;
use super::rewrite::{self, Endpoint};
use super::token_demand::TokenDemand;
use super::trouble::TroubleReporter;
use super::upgraded::Upgraded;
use tieline_agent::transport::SUBPROTOCOL_AGENT;

/// Longest wait for the relay's `100 Continue` before a request body is sent without it.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// Attempts to send one request, if the relay closes each connection before receiving the request.
const TRIES_MAX: usize = 3;

/// How long an unreachable relay is dialled again for one request: a restart takes less.
const AWAY_GRACE: Duration = Duration::from_secs(3);
/// Pause between two dials of an unreachable relay.
const AWAY_PAUSE: Duration = Duration::from_millis(100);

/// An answer's body on its way to the caller.
pub(super) type AnswerBody = tieline_hop::AnswerBody<ConnectionState, Lease, Events<Endpoint>>;

/// State that all requests share.
pub(super) struct Front {
    pub(super) pool: Rc<Pool>,
    pub(super) host: HeaderValue,
    pub(super) credential: Option<Credential>,
    pub(super) token_demand: TokenDemand,
    pub(super) origins: Origins,
    pub(super) trouble: TroubleReporter,
    pub(super) hosts: Hosts,
    pub(super) hook: Hook,
}

impl Front {
    /// Answers one request that arrived at the address `local`, with the relay's answer or the proxy's own.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        local: IpAddr,
        state: Rc<ConnectionState>,
    ) -> Response<AnswerBody> {
        let has_body = !request.body().is_end_stream();
        state.begin(has_body);
        // The scanner holds back the bytes after a request with `Upgrade` and without a body.
        let is_held = request.headers().contains_key(UPGRADE) && !has_body;
        let mut page = None;
        let served = self.serve(request, local, &mut page, &state).await;
        let mut answer = served.unwrap_or_else(|problem| {
            tracing::debug!(?problem, "request not forwarded");
            if let Some(event) = self.trouble.failed(&problem) {
                self.hook.tell(&event);
            }
            problem
                .into_response()
                .map(|body| AnswerBody::own(body, Rc::clone(&state)))
        });
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return answer;
        }
        if is_held {
            state.stay_http();
        }
        if let Some(page) = &page {
            cors::allow(answer.headers_mut(), page);
        }
        if state.unread.get() {
            // hyper closes the connection after this answer and would not say so (RFC 9112, section 9.6).
            close_after(answer.headers_mut());
        }
        answer
    }

    /// Checks and forwards a request. `page` is set to the origin of the web page that sent it, if any.
    async fn serve(
        &self,
        request: Request<Incoming>,
        local: IpAddr,
        page: &mut Option<HeaderValue>,
        state: &Rc<ConnectionState>,
    ) -> Result<Response<AnswerBody>, Problem> {
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        let (version, has_body) = (request.version(), !request.body().is_end_stream());
        let is_upgrade = check_request_or_upgrade(method, uri, version, headers, has_body)?;
        let (origin, host) = origin::check(uri, headers, local, &self.origins, &self.hosts)?;
        *page = origin;
        if page.is_some()
            && let Some(answer) = cors::preflight(method, headers)
        {
            return Ok(answer.map(|body| AnswerBody::own(body, Rc::clone(state))));
        }
        // To a relay on this machine, every agent behind this proxy would look local, and a page's request would not
        // look like one of a page.
        if is_upgrade && subprotocols(headers).any(|it| it == SUBPROTOCOL_AGENT) {
            return Err(Problem::link_refused());
        }
        self.forward(request, &host, is_upgrade, state).await
    }

    /// Forwards a request of a caller that knows the proxy as `host`.
    async fn forward(
        &self,
        request: Request<Incoming>,
        host: &str,
        is_upgrade: bool,
        state: &Rc<ConnectionState>,
    ) -> Result<Response<AnswerBody>, Problem> {
        let version = request.version();
        let asked = request.uri().path().to_owned();
        let is_get = request.method() == Method::GET;
        let credential = self.credential().await;
        let has_token = credential.is_some();
        let mut request = self.prepare(request, (host, credential), state);
        if is_upgrade {
            switch_to_websocket(request.headers_mut());
        }
        let mut tries = RelayTries {
            front: self,
            state,
            opened: 0,
        };
        let (connection, answer) = exchange(&mut tries, request).await?;
        let (mut parts, body) = answer.into_parts();
        let is_switch = is_upgrade && parts.status == StatusCode::SWITCHING_PROTOCOLS;
        let checked = match is_switch {
            true => check_switch(&parts.headers),
            false => check_answer(parts.status, &parts.headers),
        };
        checked.map_err(Problem::relay_invalid)?;
        self.note(&parts, has_token).await;
        let length = body.size_hint().exact();
        for_caller(&mut parts.headers, length);
        rewrite::apply(&mut parts.headers, &self.pool.relay, host, &asked);
        // hyper's server chooses the version for the caller, whatever version the relay's answer has.
        parts.version = Version::HTTP_11;
        parts.extensions = kept_extensions(&parts.extensions);
        if is_switch {
            return switch(parts, connection, state).await;
        }
        let events = match is_get && is_event_stream(&parts.headers) && length != Some(0) {
            true => {
                let relay = self.pool.relay.clone();
                let endpoint = Endpoint { relay, asked };
                Some(Events::begin(&mut parts.headers, endpoint).map_err(Problem::relay_invalid)?)
            }
            false => None,
        };
        let lease = Lease::new(Rc::clone(&self.pool), connection, ());
        let body = AnswerBody::passed(body, events, lease, version, Rc::clone(state));
        Ok(Response::from_parts(parts, body))
    }

    /// Notes what the head of the relay's answer says about the relay and the token, and reports changes.
    async fn note(&self, answer: &response::Parts, has_token: bool) {
        if answer.status == StatusCode::UNAUTHORIZED
            && let Some(credential) = &self.credential
        {
            self.token_demand.refused().await;
            if let Some(event) = credential.refused() {
                self.hook.tell(&event);
            }
        }
        let (status, headers) = (answer.status, &answer.headers);
        let news = self.trouble.answered(status, headers, has_token);
        news.for_each(|event| self.hook.tell(&event));
    }

    /// The credentials to send to the relay, if there are any and the relay asks for them.
    async fn credential(&self) -> Option<HeaderValue> {
        let credential = self.credential.as_ref()?;
        if !self
            .token_demand
            .asks(&self.pool.relay, &self.pool.dial)
            .await
        {
            return None;
        }
        let (value, event) = credential.current();
        if let Some(event) = event {
            self.hook.tell(&event);
        }
        Some(value)
    }

    fn prepare(
        &self,
        request: Request<Incoming>,
        (host, credential): (&str, Option<HeaderValue>),
        state: &Rc<ConnectionState>,
    ) -> Request<RequestBody> {
        let (mut parts, body) = request.into_parts();
        ask_for_plain(&parts.method, &mut parts.headers);
        rewrite::read(&mut parts.headers, &self.pool.relay, host);
        let length = body.size_hint().exact();
        for_relay(
            &mut parts.headers,
            parts.version,
            &self.host,
            credential,
            length,
        );
        let body = RequestBody::new(Some(body), Progress(Rc::clone(state)));
        parts.version = Version::HTTP_11;
        let path = parts.uri.path_and_query().cloned();
        parts.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        parts.extensions = Extensions::new();
        let mut request = Request::from_parts(parts, body);
        if expects_continue(request.headers()) {
            // The timeout starts when the body is first polled.
            await_continue(
                &mut request,
                Box::pin(async { sleep(CONTINUE_TIMEOUT).await }),
            );
        }
        request
    }
}

/// Passes the head of the relay's `101` on, and keeps the relay's connection for the bytes that follow.
async fn switch(
    mut parts: response::Parts,
    connection: Connection,
    state: &Rc<ConnectionState>,
) -> Result<Response<AnswerBody>, Problem> {
    parts.headers.remove(CONTENT_LENGTH);
    switch_to_websocket(&mut parts.headers);
    let switched = connection.switched().await;
    let (stream, ahead) = switched.ok_or_else(|| Problem::relay_closed(Delivery::Sent))?;
    state.upgraded.replace(Some(Upgraded::new(stream, ahead)));
    let body = AnswerBody::own(Bytes::new(), Rc::clone(state));
    Ok(Response::from_parts(parts, body))
}

/// Tries to send one request to the relay.
struct RelayTries<'a> {
    front: &'a Front,
    state: &'a Rc<ConnectionState>,
    /// Number of connections opened for the request.
    opened: usize,
}

impl Tries for RelayTries<'_> {
    type Progress = Progress;
    type Connection = Connection;
    type Problem = Problem;
    type Copy = Option<Parts>;

    fn take(&mut self, is_repeatable: bool) -> Option<Connection> {
        self.front.pool.take(is_repeatable)
    }

    /// Dials the relay; dials an unreachable one again for `AWAY_GRACE`, since it may be restarting.
    async fn open(&mut self, _request: &mut Request<RequestBody>) -> Result<Connection, Problem> {
        if self.opened == TRIES_MAX {
            return Err(Problem::relay_closed(Delivery::NotSent));
        }
        self.opened += 1;
        let deadline = Instant::now() + AWAY_GRACE;
        loop {
            match self.front.pool.open().await {
                Err(problem) if problem.may_pass() && Instant::now() < deadline => {
                    tracing::debug!(?problem, "relay unreachable, dialling again");
                    sleep(AWAY_PAUSE).await;
                }
                opened => return opened,
            }
        }
    }

    fn copy(&self, request: &mut Request<RequestBody>, is_repeatable: bool) -> Option<Parts> {
        is_repeatable.then(|| copy_head(request))
    }

    fn send(
        &self,
        connection: &mut Connection,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, Failure>> {
        connection.send(request)
    }

    async fn again(
        &mut self,
        failure: Failure,
        sent: Sent<Connection, Option<Parts>>,
    ) -> Result<Unanswered<Progress>, Problem> {
        let (request, delivery) = match failure {
            Failure::Unsent(request) => (*request, Delivery::NotSent),
            // The relay closed the kept connection without an answer. This is common after a pause, and the
            // request is safe to repeat.
            Failure::Silent(problem) if sent.was_kept => {
                let body = RequestBody::new(None, Progress(Rc::clone(self.state)));
                let request = Request::from_parts(sent.copy.ok_or(problem)?, body);
                (request, Delivery::Sent)
            }
            Failure::Silent(problem) | Failure::Broken(problem) => return Err(problem),
        };
        Ok(Unanswered { request, delivery })
    }

    fn perhaps_sent(problem: Problem) -> Problem {
        problem.delivered(Delivery::Sent)
    }
}
