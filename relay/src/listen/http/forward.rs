//! One request: from the caller's head to the target's answer.

use std::rc::Rc;

use bytes::Bytes;
use http::header::HOST;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Extensions, Method, Request, Response, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use tieline_wire::{Reason, TunnelId};

use super::body::{AnswerBody, RequestBody, await_continue};
use super::caller::{Cut, State};
use super::pool::{Connection, Failure, Lease, Pool};
use super::problem::Problem;
use super::rewrite::{Mapping, Target};
use super::{Gateway, Settings, headers, route};

/// What the requests of one frontend connection share.
pub(super) struct Front<G: Gateway> {
    pub(super) gateway: G,
    pub(super) pool: Pool,
    settings: Settings,
    state: Rc<State>,
}

/// Where a request goes, and how its URL at the relay relates to the target's.
struct Destination {
    tunnel: TunnelId,
    target: Rc<Target>,
    prefix: String,
    path: PathAndQuery,
    bare: bool,
    public: Option<Bytes>,
    version: Version,
}

impl<G: Gateway> Front<G> {
    pub(super) fn new(gateway: G, settings: Settings, state: Rc<State>) -> Self {
        Self {
            gateway,
            pool: Pool::default(),
            settings,
            state,
        }
    }

    /// Answers one request, by its target or by the relay itself.
    pub(super) async fn answer(
        self: Rc<Self>,
        request: Request<Incoming>,
    ) -> Response<AnswerBody<G>> {
        self.state.begin(!request.body().is_end_stream());
        let (response, word) = match self.forward(request).await {
            Ok(response) => (response, None),
            Err(problem) => {
                let word = problem.word;
                let own = |body| AnswerBody::own(body, Rc::clone(&self.state));
                (problem.into_response().map(own), Some(word))
            }
        };
        self.gateway.answered(response.status(), word);
        response
    }

    async fn forward(
        self: &Rc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<AnswerBody<G>>, Problem> {
        headers::check_request(request.method(), request.version(), request.headers())?;
        let destination = self.destination(&request)?;
        let request = self.prepare(request, &destination);
        let (connection, answer) = self.exchange(request, &destination).await?;
        self.state.head_arrived();
        self.pass(answer, connection, &destination)
    }

    fn destination(&self, request: &Request<Incoming>) -> Result<Destination, Problem> {
        let uri = request.uri();
        let path = uri.path_and_query().map_or("", PathAndQuery::as_str);
        let route = route::split(path).ok_or_else(Problem::not_found)?;
        let refused = |reason| Problem::session(reason, route.tunnel, false);
        let tunnel = TunnelId::parse(route.tunnel).map_err(|_| refused(Reason::UnknownTunnel))?;
        let target = self.gateway.find(&tunnel).map_err(refused)?;
        let slash = if route.rest.starts_with('/') { "" } else { "/" };
        let path = PathAndQuery::from_maybe_shared(Bytes::from([slash, route.rest].concat()))
            .map_err(|_| Problem::bad_request("the path is not valid"))?;
        // Named in the request line, it overrides the header (RFC 9112, section 3.2.2).
        let public = match uri.authority() {
            Some(authority) => Some(Bytes::copy_from_slice(authority.as_str().as_bytes())),
            None => request
                .headers()
                .get(HOST)
                .map(|host| Bytes::copy_from_slice(host.as_bytes())),
        };
        Ok(Destination {
            bare: !route.rest.starts_with('/'),
            prefix: route.prefix.to_owned(),
            public: public.filter(|host| !host.is_empty()),
            version: request.version(),
            tunnel,
            target,
            path,
        })
    }

    fn prepare(
        &self,
        request: Request<Incoming>,
        destination: &Destination,
    ) -> Request<RequestBody> {
        let (mut parts, body) = request.into_parts();
        let length = body.size_hint().exact();
        headers::for_target(
            &mut parts.headers,
            parts.version,
            &destination.target.host,
            length,
        );
        parts.version = Version::HTTP_11;
        parts.uri = Uri::from(destination.path.clone());
        parts.extensions = Extensions::new();
        let expects_continue = headers::expects_continue(&parts.headers);
        let body = RequestBody::new(Some(body), Rc::clone(&self.state));
        let mut request = Request::from_parts(parts, body);
        if expects_continue {
            let (gateway, timeout) = (self.gateway.clone(), self.settings.continue_timeout);
            // Counts from when the body is first asked for.
            await_continue(&mut request, async move { gateway.sleep(timeout).await });
        }
        request
    }

    /// Sends the request over the kept connection or a new one.
    async fn exchange(
        &self,
        mut request: Request<RequestBody>,
        destination: &Destination,
    ) -> Result<(Connection, Response<Incoming>), Problem> {
        let Destination { tunnel, target, .. } = destination;
        let is_repeatable = is_idempotent(request.method()) && request.body().is_end_stream();
        let kept = self
            .pool
            .take(tunnel, target, self.gateway.now(), is_repeatable);
        if let Some(mut connection) = kept {
            let copy = is_repeatable.then(|| copy(&request));
            request = match connection.send(request).await {
                Ok(answer) => return Ok((connection, answer)),
                Err(Failure::Unsent(request)) => *request,
                // The target closed the connection as the request came: to be expected after a
                // pause, and no sign that it did anything.
                Err(Failure::Silent(problem)) => {
                    let body = RequestBody::new(None, Rc::clone(&self.state));
                    Request::from_parts(copy.ok_or(problem)?, body)
                }
                Err(Failure::Broken(problem)) => return Err(problem),
            };
        }
        let refused = |reason| Problem::session(reason, tunnel.as_str(), false);
        let timeout = self.settings.open_timeout;
        let opening = Connection::open(&self.gateway, tunnel.clone(), target.generation, timeout);
        let mut connection = opening.await.map_err(refused)?;
        match connection.send(request).await {
            Ok(answer) => Ok((connection, answer)),
            Err(Failure::Unsent(_)) => Err(connection.lost()),
            Err(Failure::Silent(problem) | Failure::Broken(problem)) => Err(problem),
        }
    }

    fn pass(
        self: &Rc<Self>,
        answer: Response<Incoming>,
        connection: Connection,
        destination: &Destination,
    ) -> Result<Response<AnswerBody<G>>, Problem> {
        let (mut parts, body) = answer.into_parts();
        headers::check_answer(parts.status, &parts.headers)?;
        let length = body.size_hint().exact();
        headers::for_caller(&mut parts.headers, length);
        let mapping = Mapping {
            target: &destination.target,
            prefix: &destination.prefix,
            path: destination.path.as_str(),
            bare: destination.bare,
            public: destination.public.as_deref(),
            https: self.settings.https,
        };
        mapping.apply(&mut parts.headers);
        // What hyper's server makes of it depends on the caller, not on the target.
        parts.version = Version::HTTP_11;
        let is_delimited = length.is_some() || destination.version != Version::HTTP_10;
        let cut = if is_delimited {
            Cut::Visible
        } else {
            Cut::Hidden
        };
        let lease = Lease::new(Rc::clone(self), connection);
        let body = AnswerBody::target(body, lease, cut, Rc::clone(&self.state));
        Ok(Response::from_parts(parts, body))
    }
}

/// The head once more, for a second try.
fn copy(request: &Request<RequestBody>) -> Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = request.method().clone();
    parts.uri = request.uri().clone();
    parts.headers = request.headers().clone();
    parts
}

/// RFC 9110, section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}
