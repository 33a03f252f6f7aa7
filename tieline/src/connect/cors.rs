//! CORS: tells a browser that a page may use the proxy. The page's origin was checked before, and
//! the relay never sees it, so the proxy answers.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use tieline_hop::cors;

/// How long a browser may cache a preflight answer, in seconds.
const MAX_AGE_SECONDS: HeaderValue = HeaderValue::from_static("600");

/// Answer to a browser's CORS preflight request, before [`allow`]; `None` if the request is not a preflight.
pub(super) fn preflight(method: &Method, headers: &HeaderMap) -> Option<Response<Bytes>> {
    let asked = headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
    if *method != Method::OPTIONS {
        return None;
    }
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let answer = response.headers_mut();
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, asked.clone());
    if let Some(names) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    answer.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS);
    Some(response)
}

/// Allows a page of `origin` to read an answer.
pub(super) fn allow(headers: &mut HeaderMap, origin: &HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    cors::expose(headers);
    cors::vary(headers, &["Origin"]);
}
