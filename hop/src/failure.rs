//! Requests without an answer: the [`Failure`], the [`Fault`] behind it, and whether the next hop may have
//! received the request ([`Delivery`]). Also the copy of a head for a retry, and how long an idle connection may
//! be reused. The request itself is sent in `tries`.

use std::time::Duration;

use http::Request;
use http::request::Parts;
use hyper::client::conn::TrySendError;

use crate::informational::TOO_MANY_INFORMATIONAL;
use crate::refusal::Refusal;
use crate::track::Track;

/// Subtracted from the idle timeout that the other side announces, to cover the network delay.
const IDLE_MARGIN: Duration = Duration::from_secs(1);

/// Why a request got no answer; `P` is the problem that the caller is told.
pub enum Failure<B, P> {
    /// The request was not sent; this returns it.
    Unsent(Box<Request<B>>),
    /// The connection ended before any byte of an answer.
    Silent(P),
    /// The answer cannot be passed on, or the caller's body failed.
    Broken(P),
}

/// The fault that left a request without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The caller's request.
    Request(Refusal),
    /// The answer is not valid HTTP/1.1; carries the rule that it breaks.
    Malformed(&'static str),
    /// The connection ended.
    Closed,
}

/// Whether the next hop may have received an unanswered request; callers are told [`Delivery::word`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The next hop may have received the request, and may have acted on it.
    Sent,
    /// The next hop has not received the request: sending it again is harmless.
    NotSent,
}

impl Delivery {
    /// Value of the field `request` in the JSON of an error answer.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::NotSent => "not_sent",
        }
    }
}

impl<B, P> Failure<B, P> {
    /// Reads hyper's `error` about the request whose `track` this is.
    pub(crate) fn of(
        mut error: TrySendError<Request<B>>,
        track: &Track,
        problem: impl FnOnce(Fault) -> P,
    ) -> Self {
        if let Some(request) = error.take_message() {
            return Self::Unsent(Box::new(request));
        }
        if track.request_failed.get() {
            let refusal = Refusal::bad_request("the request's body is malformed or broke off");
            return Self::Broken(problem(Fault::Request(refusal)));
        }
        if track.informational.is_exceeded() {
            return Self::Broken(problem(Fault::Malformed(TOO_MANY_INFORMATIONAL)));
        }
        let error = error.into_error();
        let problem = problem(match error.is_parse() {
            true => Fault::Malformed(broken_rule(&error)),
            false => Fault::Closed,
        });
        // The end of the connection counts as a read.
        match track.reads.get() > u64::from(error.is_incomplete_message()) {
            true => Self::Broken(problem),
            false => Self::Silent(problem),
        }
    }
}

/// Rule broken by an answer that hyper's parser refused.
fn broken_rule(error: &hyper::Error) -> &'static str {
    if error.is_parse_too_large() {
        return "its head is longer than 64 KiB or has more than 100 fields";
    }
    if error.is_parse_status() {
        return "its status is not a number of three digits";
    }
    // hyper tells these apart only in the text of its error.
    match &*error.to_string() {
        "invalid HTTP header parsed" => "a line of its head is not a field of HTTP",
        "invalid content-length parsed" => "its Content-Length is not one number",
        "invalid HTTP version parsed" => "it does not begin as HTTP/1.1 does",
        "unexpected transfer-encoding parsed" => "it is HTTP/1.0 and has a Transfer-Encoding",
        _ => "it is not HTTP/1.1",
    }
}

/// Copy of a request's head, for a retry.
pub fn copy_head<B>(request: &Request<B>) -> Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = request.method().clone();
    parts.uri = request.uri().clone();
    parts.headers = request.headers().clone();
    parts
}

/// How long an idle connection may be reused: `limit`, or less if the `idle_timeout` that the
/// other side announced is shorter.
pub(crate) fn reusable_for(idle_timeout: Option<Duration>, limit: Duration) -> Duration {
    idle_timeout.map_or(limit, |idle_timeout| {
        idle_timeout.saturating_sub(IDLE_MARGIN).min(limit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_reused_for_less_than_the_server_announced() {
        let [limit, second] = [60, 1].map(Duration::from_secs);
        assert_eq!(reusable_for(None, limit), limit);
        assert_eq!(reusable_for(Some(5 * second), limit), 4 * second);
        assert_eq!(reusable_for(Some(100 * second), limit), limit);
        assert_eq!(reusable_for(Some(Duration::ZERO), limit), Duration::ZERO);
    }
}
