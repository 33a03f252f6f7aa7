//! Sends a request and gets the head of its answer: over a kept connection or a new one, to one agent or the next.

use std::rc::Rc;
use std::time::Instant;

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tieline_hop::{Delivery, Sent, Tries, Unanswered};
use tieline_wire::SessionEnd;

use super::Front;
use super::destination::{Destination, no_target};
use crate::auth::TokenRefusal;
use crate::listen::http::frontend::state::FrontendState;
use crate::listen::http::gateway::Gateway;
use crate::listen::http::outbound::pool::{Connection, Failure};
use crate::listen::http::outbound::reasons::{is_away, is_of_target};
use crate::listen::http::outbound::request::{Progress, RepeatableRequest, RequestBody};
use crate::listen::http::policy::caller_name;
use crate::listen::http::policy::callers::AdmittedCaller;
use crate::listen::http::problem::Problem;
use crate::listen::http::target::Target;
use crate::listen::http::target_query::NoTarget;

/// Route look-ups for a request after its link went away.
const LOOKS_MAX: usize = 4;

/// Route look-ups for a request that no target has received, within the time for opening a session: all links of an
/// agent, 64 at most, may go away together. A request that may itself end its agent has [`LOOKS_MAX`].
const LOOKS_UNSENT_MAX: usize = 64;

impl<G: Gateway> Front<G> {
    /// Sends the request over a kept connection or a new one; afterwards `destination` has the target that
    /// answered.
    pub(super) async fn exchange(
        &self,
        mut request: Request<RequestBody>,
        destination: &mut Destination,
        admitted: &Rc<AdmittedCaller<G>>,
        state: &Rc<FrontendState>,
    ) -> Result<(Connection<G>, Response<Incoming>), Problem> {
        self.address(destination, admitted, request.headers_mut());
        let mut tries = TargetTries {
            front: self,
            destination,
            admitted,
            state,
            reason: None,
            tried: Vec::new(),
            looks: 0,
            may_have_acted: false,
            time_is_up: None,
        };
        tieline_hop::exchange(&mut tries, request).await
    }

    /// Addresses a request to the target of `destination`, and names its caller to the agent of a program.
    fn address(
        &self,
        destination: &Destination,
        admitted: &AdmittedCaller<G>,
        headers: &mut HeaderMap,
    ) {
        let target = &destination.mapping.target;
        let subject = self.gateway.subject(&admitted.caller);
        destination.mapping.address(headers);
        caller_name::name_to(target, subject, destination.caller_address, headers);
    }
}

/// Tries to send one request: over a kept connection, then to one agent of the tunnel after the other.
struct TargetTries<'a, G: Gateway> {
    front: &'a Front<G>,
    destination: &'a mut Destination,
    admitted: &'a Rc<AdmittedCaller<G>>,
    state: &'a Rc<FrontendState>,
    /// Why the last try over a new connection failed.
    reason: Option<SessionEnd>,
    /// Targets that took no connection.
    tried: Vec<Rc<Target>>,
    /// Number of route look-ups.
    looks: usize,
    /// Whether a target may have received the request.
    may_have_acted: bool,
    /// When no other agent is asked any more; set by the first try over a new connection.
    time_is_up: Option<Instant>,
}

impl<G: Gateway> TargetTries<'_, G> {
    /// Chooses the target of the next try, after one that failed for `reason`.
    async fn choose(&mut self, reason: SessionEnd) -> Result<(), Problem> {
        let (front, admitted) = (self.front, self.admitted);
        let Destination {
            wanted,
            mapping,
            session,
            ..
        } = &mut *self.destination;
        let refused = || no_target(NoTarget::Refused(reason), &wanted.selector);
        let before = Rc::clone(&mapping.target);
        let is_in_time = self.time_is_up.is_none_or(|end| front.gateway.now() < end);
        let looks_max = match is_in_time && !self.may_have_acted {
            true => LOOKS_UNSENT_MAX,
            false => LOOKS_MAX,
        };
        if is_away(reason) && self.looks < looks_max {
            // The link went away during the request: its agent may come back within the grace period.
            self.looks += 1;
            mapping.target = front.find(wanted, admitted, Some(&before)).await?;
            session.check(&mapping.target)?;
            mapping.check_exposed(wanted)
        } else if is_of_target(reason) && wanted.binding.is_none() && is_in_time {
            // The targets of the other agents may accept the request; each is tried once.
            self.tried.push(before);
            let other = front.gateway.other(&admitted.caller, wanted, &self.tried);
            mapping.target = other.ok_or_else(refused)?;
            let takes_session = session.check(&mapping.target).is_ok();
            if !takes_session || mapping.check_exposed(wanted).is_err() {
                return Err(refused());
            }
            Ok(())
        } else {
            Err(refused())
        }
    }
}

impl<G: Gateway> Tries for TargetTries<'_, G> {
    type Progress = Progress;
    type Connection = Connection<G>;
    type Problem = Problem;
    type Copy = RepeatableRequest;

    fn take(&mut self, is_repeatable: bool) -> Option<Connection<G>> {
        let (wanted, mapping) = (&self.destination.wanted, &self.destination.mapping);
        let to = (&*mapping.target, wanted.dcc.as_ref());
        self.front.pool.take(self.admitted.key, to, is_repeatable)
    }

    async fn open(&mut self, request: &mut Request<RequestBody>) -> Result<Connection<G>, Problem> {
        let (front, admitted) = (self.front, self.admitted);
        let timeout = front.settings.open_timeout;
        if self.time_is_up.is_none() {
            self.time_is_up = Some(front.gateway.now() + timeout);
        }
        loop {
            if let Some(reason) = self.reason.take() {
                self.choose(reason).await?;
                front.address(self.destination, admitted, request.headers_mut());
            }
            if !front.gateway.is_current(&admitted.caller) {
                return Err(Problem::token(TokenRefusal::Revoked));
            }
            let (wanted, mapping) = (&self.destination.wanted, &self.destination.mapping);
            let to = (&mapping.target, wanted.dcc.as_ref());
            let opening = Connection::open(&front.gateway, admitted, to, timeout, &front.pool);
            match opening.await {
                Ok(connection) => return Ok(connection),
                Err(reason) => self.reason = Some(reason),
            }
        }
    }

    fn copy(&self, request: &mut Request<RequestBody>, _is_repeatable: bool) -> RepeatableRequest {
        RepeatableRequest::of(request)
    }

    fn send(
        &self,
        connection: &mut Connection<G>,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, Failure>> {
        connection.send(request)
    }

    /// The request is sent again if it is repeatable, or if its target received none of it.
    async fn again(
        &mut self,
        failure: Failure,
        sent: Sent<Connection<G>, RepeatableRequest>,
    ) -> Result<Unanswered<Progress>, Problem> {
        let Sent {
            connection,
            copy,
            is_repeatable,
            was_kept,
        } = sent;
        if !was_kept {
            self.reason = Some(connection.end_reason(&failure)?);
        }
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
        } else if copy.is_whole() && connection.is_unreached(&self.front.gateway).await {
            Delivery::NotSent
        } else {
            return Err(problem);
        };
        drop(connection);
        self.may_have_acted |= delivery == Delivery::Sent;
        let request = copy.into_request(self.state).await.ok_or(problem)?;
        Ok(Unanswered { request, delivery })
    }

    fn perhaps_sent(problem: Problem) -> Problem {
        problem.delivered(Delivery::Sent)
    }
}
