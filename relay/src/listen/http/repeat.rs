//! Which requests may be sent once more, and when that is worth it.

use http::request::Parts;
use http::{Method, Request};
use tieline_wire::Reason;

use super::body::RequestBody;

/// Reasons for which a session was not opened, and that pass when the agent comes back.
pub(super) fn is_away(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::TunnelOffline
            | Reason::Kicked
            | Reason::LinkLost
            | Reason::Stale
            | Reason::Superseded
    )
}

/// The head once more, for a second try.
pub(super) fn copy(request: &Request<RequestBody>) -> Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = request.method().clone();
    parts.uri = request.uri().clone();
    parts.headers = request.headers().clone();
    parts
}

/// RFC 9110, section 9.2.2.
pub(super) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}
