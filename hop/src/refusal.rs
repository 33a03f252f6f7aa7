//! A hop's own answers, and its refusals: why it does not pass a request on.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

/// Why a request is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The answer's status.
    pub status: StatusCode,
    /// Error code: one stable word that scripts match on.
    pub word: &'static str,
    /// Message for people: one sentence.
    pub why: &'static str,
}

impl Refusal {
    /// The request cannot be passed on in any form.
    pub(crate) const fn bad_request(why: &'static str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            word: "bad_request",
            why,
        }
    }

    /// The request asks for a protocol feature that no hop supports.
    pub(crate) const fn unsupported(word: &'static str, why: &'static str) -> Self {
        Self {
            status: StatusCode::NOT_IMPLEMENTED,
            word,
            why,
        }
    }
}

/// A hop's own answer in JSON. It forbids caching: a cache may keep a 404 by default (RFC 9110, section 15.1), and
/// would hide a server that comes later.
#[must_use]
pub fn json_answer(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::NOT_IMPLEMENTED {
        // Recipients may disagree on where a request with an unknown coding ends (RFC 9112, section 11.2).
        close_after(headers);
    }
    response
}

/// Adds `Connection: close`: an HTTP/1.1 connection ends after this answer.
pub fn close_after(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
}
