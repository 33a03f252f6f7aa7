//! Sends a request and gets the head of its answer: over a kept connection or a new one, to one agent or the next.

use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tieline_hop::Delivery;
use tieline_wire::SessionEnd;

use super::destination::{Destination, no_target};
use super::front::Front;
use crate::auth::TokenRefusal;
use crate::listen::http::frontend::state::State;
use crate::listen::http::gateway::Gateway;
use crate::listen::http::outbound::pool::{Connection, Failure};
use crate::listen::http::outbound::reasons::{is_away, is_of_target};
use crate::listen::http::outbound::request::{Again, RequestBody};
use crate::listen::http::policy::callers::AdmittedCaller;
use crate::listen::http::problem::Problem;
use crate::listen::http::target::Target;
use crate::listen::http::target_query::NoTarget;

/// Route look-ups for a request that was not sent yet, after its link went away.
const LOOKS_MAX: usize = 4;

/// Outcome of sending a request over a new connection.
enum Attempt<G: Gateway> {
    Answered(Box<(Connection<G>, Response<Incoming>)>),
    /// No answer for this reason; the request may be sent once more.
    Failed(Box<Unanswered>, SessionEnd),
}

/// A request without an answer that may be sent once more.
struct Unanswered {
    request: Request<RequestBody>,
    /// Whether a target may have received the request already.
    delivery: Delivery,
}

impl<G: Gateway> Front<G> {
    /// Sends the request over a kept connection or a new one; afterwards `destination` has the target that
    /// answered.
    pub(super) async fn exchange(
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
        let to = (&*mapping.target, wanted.dcc.as_ref());
        let kept = self.pool.take(admitted.key(), to, is_repeatable);
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
}
