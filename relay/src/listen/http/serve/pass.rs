//! Passes a target's answer on to the caller: its head adapted, its body as it comes.

use std::rc::Rc;

use http::response::Parts;
use http::{Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use tieline_hop::{cors, events, headers};

use super::Front;
use super::destination::{Destination, mark_sessions};
use crate::listen::http::events::endpoint::Endpoint;
use crate::listen::http::events::stream::Events;
use crate::listen::http::frontend::state::FrontendState;
use crate::listen::http::gateway::Gateway;
use crate::listen::http::inbound::proxy_fields;
use crate::listen::http::mapping::rewrite::Mapping;
use crate::listen::http::outbound::pool::{Connection, Lease};
use crate::listen::http::policy::callers::AdmittedCaller;
use crate::listen::http::problem::Problem;

/// An answer's body on its way to the caller.
pub(super) type AnswerBody<G> = tieline_hop::AnswerBody<FrontendState, Lease<G>, Events<G>>;

impl<G: Gateway> Front<G> {
    /// The answer for the caller; its body lends the `connection` until its end.
    pub(super) fn pass(
        &self,
        answer: Response<Incoming>,
        connection: Connection<G>,
        destination: Destination,
        admitted: Rc<AdmittedCaller<G>>,
        state: &Rc<FrontendState>,
    ) -> Result<Response<AnswerBody<G>>, Problem> {
        let (mut parts, body) = answer.into_parts();
        let length = body.size_hint().exact();
        let mapping = destination.mapping;
        self.adapt_head(&mut parts, length, &mapping, &admitted)?;
        let is_stream = events::is_event_stream(&parts.headers);
        let is_plain = events::Coding::of(&parts.headers) == Some(events::Coding::Plain);
        let mapped = match is_stream && destination.is_get && length != Some(0) {
            true => {
                let endpoint = Endpoint {
                    mapping,
                    mark_key: Rc::clone(self.gateway.mark_key()),
                    caller: self.gateway.subject(&admitted.caller).map(str::to_owned),
                };
                let mapped = events::Events::begin(&mut parts.headers, endpoint);
                Some(mapped.map_err(Problem::target_invalid)?)
            }
            false => None,
        };
        if is_stream && destination.is_head {
            // Same head as for GET. If `begin` fails, GET would be refused, and the head stays as it is.
            let _refused = events::Events::begin(&mut parts.headers, ());
        }
        let is_open = is_stream && is_plain && length.is_none();
        let events = (is_open || mapped.is_some())
            .then(|| Events::new(self.gateway.clone(), self.settings.sse_keepalive, mapped));
        let lease = Lease::new(Rc::clone(&self.pool), connection, admitted);
        let body = AnswerBody::passed(body, events, lease, destination.version, Rc::clone(state));
        Ok(Response::from_parts(parts, body))
    }

    /// Checks a target's answer head and adapts it for the caller; `length` is that of the body, if known.
    pub(super) fn adapt_head(
        &self,
        parts: &mut Parts,
        length: Option<u64>,
        mapping: &Mapping,
        admitted: &AdmittedCaller<G>,
    ) -> Result<(), Problem> {
        headers::check_answer(parts.status, &parts.headers).map_err(Problem::target_invalid)?;
        self.adapt_fields(parts, length, mapping, admitted);
        Ok(())
    }

    /// Adapts the fields of a target's answer, which were checked.
    pub(super) fn adapt_fields(
        &self,
        parts: &mut Parts,
        length: Option<u64>,
        mapping: &Mapping,
        admitted: &AdmittedCaller<G>,
    ) {
        let headers = &mut parts.headers;
        headers::for_caller(headers, length);
        proxy_fields::drop_from_answer(headers);
        cors::drop_permissions(headers);
        mapping.apply(headers);
        if mapping.is_of_several() {
            let subject = self.gateway.subject(&admitted.caller);
            mark_sessions(headers, self.gateway.mark_key(), &mapping.target, subject);
        }
        // Set for hyper's server, which chooses the version of the answer by the caller.
        parts.version = Version::HTTP_11;
    }
}
