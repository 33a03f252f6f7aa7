//! Why a hop answers a request by itself.

use http::StatusCode;

/// Why a request is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The answer's status.
    pub status: StatusCode,
    /// One stable word; scripts match on it.
    pub word: &'static str,
    /// One sentence for people.
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

    /// The request asks for something that no hop of ours speaks.
    pub(crate) const fn unsupported(word: &'static str, why: &'static str) -> Self {
        Self {
            status: StatusCode::NOT_IMPLEMENTED,
            word,
            why,
        }
    }
}
