//! Refusals: a hop's own answers to requests that it does not pass on.

use http::StatusCode;

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
