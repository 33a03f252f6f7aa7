//! Requests for a target's OAuth metadata, and forms for its endpoints: the two bodies that are read as a whole,
//! because `mapping/login` maps URLs in them. Every request passes `body_for` and `ask`; other bodies are not read
//! there, and other requests go straight to `exchange`.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, ETAG};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use tieline_hop::{Delivery, Lend, copy_head, documents, headers};

use super::Front;
use super::destination::Destination;
use super::pass::AnswerBody;
use crate::listen::http::frontend::state::FrontendState;
use crate::listen::http::gateway::Gateway;
use crate::listen::http::mapping::rewrite::Mapping;
use crate::listen::http::outbound::pool::{Connection, Lease};
use crate::listen::http::outbound::request::{Progress, RequestBody};
use crate::listen::http::policy::callers::AdmittedCaller;
use crate::listen::http::problem::Problem;

/// Longest form that is read to map its `resource`, in bytes.
const FORM_BYTES_MAX: usize = 64 * 1024;

impl<G: Gateway> Front<G> {
    /// Sends the request; a request for metadata goes to each possible path until the target has the document.
    pub(super) async fn ask(
        &self,
        request: Request<RequestBody>,
        destination: &mut Destination,
        admitted: &Rc<AdmittedCaller<G>>,
        state: &Rc<FrontendState>,
    ) -> Result<(Connection<G>, Response<Incoming>), Problem> {
        let places = std::mem::take(&mut destination.places);
        if places.is_empty() {
            return self.exchange(request, destination, admitted, state).await;
        }
        // Boxed, so that the future of every other request stays small.
        Box::pin(self.ask_at(places, request, destination, admitted, state)).await
    }

    /// Sends a request for metadata, and repeats it at each of `places` until one succeeds.
    async fn ask_at(
        &self,
        places: Vec<PathAndQuery>,
        request: Request<RequestBody>,
        destination: &mut Destination,
        admitted: &Rc<AdmittedCaller<G>>,
        state: &Rc<FrontendState>,
    ) -> Result<(Connection<G>, Response<Incoming>), Problem> {
        let head = Request::from_parts(copy_head(&request), ());
        let first = self.exchange(request, destination, admitted, state).await?;
        if first.1.status().is_success() {
            return Ok(first);
        }
        for place in places {
            let mut parts = copy_head(&head);
            parts.uri = Uri::from(place);
            let request = Request::from_parts(parts, RequestBody::new(None, Progress::new(state)));
            let found = self.exchange(request, destination, admitted, state).await;
            if let Ok(found) = found
                && found.1.status().is_success()
            {
                return Ok(found);
            }
        }
        Ok(first)
    }

    /// Passes a metadata document on with its URLs mapped.
    pub(super) async fn pass_document(
        &self,
        answer: Response<Incoming>,
        connection: Connection<G>,
        destination: Destination,
        admitted: Rc<AdmittedCaller<G>>,
        state: &Rc<FrontendState>,
    ) -> Result<Response<AnswerBody<G>>, Problem> {
        let (mut parts, body) = answer.into_parts();
        let mapping = destination.mapping;
        self.adapt_head(&mut parts, None, &mapping, &admitted)?;
        let lease = Lease::new(Rc::clone(&self.pool), connection, admitted);
        let body = Limited::new(body, documents::DOCUMENT_BYTES_MAX);
        let body = body.collect().await.map_err(|error| {
            match error.downcast_ref::<LengthLimitError>() {
                Some(_) => Problem::target_invalid("its metadata is longer than 256 KiB"),
                None => Problem::target_closed(Delivery::Sent),
            }
        })?;
        lease.finish();
        let document = body.to_bytes();
        let mapped = mapping.document(self.gateway.mark_key(), &document);
        parts.headers.remove(CONTENT_LENGTH);
        if mapped.is_some() {
            // The ETag identifies the document that the target wrote (RFC 9110, section 8.8.3).
            parts.headers.remove(ETAG);
        }
        let body = AnswerBody::own(mapped.map_or(document, Bytes::from), Rc::clone(state));
        Ok(Response::from_parts(parts, body))
    }

    /// The body of a request; in a form for a target that does not know its public URL, `resource` is mapped to
    /// the target's own URL.
    pub(super) async fn body_for(
        &self,
        mapping: &Mapping,
        (method, headers): (&Method, &HeaderMap),
        body: RequestBody,
        state: &Rc<FrontendState>,
    ) -> Result<RequestBody, Problem> {
        if mapping.login_origin.is_none() || *method != Method::POST || !is_form(headers) {
            return Ok(body);
        }
        let body = Limited::new(body, FORM_BYTES_MAX).collect().await;
        let form = body
            .map_err(|_| Problem::bad_request("the form is longer than 64 KiB, or broke off"))?
            .to_bytes();
        let mapped = mapping.with_resource(&form).map_or(form, Bytes::from);
        Ok(RequestBody::again(mapped, None, Progress::new(state)))
    }
}

/// True if an answer is a JSON document that may contain URLs of the target.
pub(super) fn is_document(answer: &Response<Incoming>) -> bool {
    answer.status().is_success()
        && headers::is_json(answer.headers())
        && !answer.headers().contains_key(CONTENT_ENCODING)
}

fn is_form(headers: &HeaderMap) -> bool {
    let media_type = headers::media_type(headers);
    media_type.eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
        && !headers.contains_key(CONTENT_ENCODING)
}
