//! Finds out whether the relay asks callers for a token. A relay that does not ask gets no token,
//! because another server that answers at its address could use the token.

use http::header::WWW_AUTHENTICATE;
use http::response::Parts;
use http::{Method, StatusCode};
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};

use crate::outbound::RelayOrigin;
use crate::outbound::dial::Dial;
use crate::outbound::request::Question;

/// Path that a relay always answers itself: with 401 if it asks callers for a token.
const PATH: &str = "/tunnels";

/// How long the relay's answer is reused: after a restart the relay may have another `caller_auth`.
const HOLDS: Duration = Duration::from_secs(60);

/// How long the answer is reused after the relay has refused a request with 401.
const HOLDS_REFUSED: Duration = Duration::from_secs(1);

/// Cached answer to the question whether the relay asks callers for a token.
#[derive(Debug, Default)]
pub(super) struct TokenDemand(Mutex<Option<CachedAnswer>>);

#[derive(Clone, Copy, Debug)]
struct CachedAnswer {
    is_asked_for: bool,
    since: Instant,
    /// How long the answer is reused.
    holds: Duration,
}

impl TokenDemand {
    /// True if the relay asks for a token. Without a fresh answer in the cache, asks the relay over a new
    /// connection, without a token. If the relay gives no clear answer, the last one holds; at first, false.
    pub(super) async fn asks(&self, relay: &RelayOrigin, dial: &Dial) -> bool {
        let mut known = self.0.lock().await;
        let now = Instant::now();
        if let Some(known) = &*known
            && now.duration_since(known.since) < known.holds
        {
            return known.is_asked_for;
        }
        let question = Question {
            method: Method::GET,
            authority: &relay.authority(),
            path: PATH,
            authorization: None,
        };
        match question.ask_over(dial, false).await {
            Ok((head, _)) if is_sure(head.status) => {
                let is_asked_for = asks_for_bearer(&head);
                *known = Some(CachedAnswer {
                    is_asked_for,
                    since: now,
                    holds: HOLDS,
                });
                is_asked_for
            }
            outcome => {
                let why = outcome.map(|(head, _)| head.status.to_string());
                tracing::debug!(?why, "the relay does not say whether it asks for a token");
                known.is_some_and(|known| known.is_asked_for)
            }
        }
    }

    /// Shortens how long the cached answer is reused, because a request was refused with 401.
    pub(super) async fn refused(&self) {
        if let Some(known) = &mut *self.0.lock().await {
            known.holds = HOLDS_REFUSED;
        }
    }
}

/// Whether this status answers the question: an overloaded or failing relay does not.
fn is_sure(status: StatusCode) -> bool {
    !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS
}

/// True for a 401 answer with a Bearer challenge (RFC 6750, section 3).
fn asks_for_bearer(head: &Parts) -> bool {
    let mut challenges = head.headers.get_all(WWW_AUTHENTICATE).iter();
    let is_bearer = |text: &str| {
        let scheme = text.split_whitespace().next().unwrap_or_default();
        scheme.trim_end_matches(',').eq_ignore_ascii_case("bearer")
    };
    head.status == StatusCode::UNAUTHORIZED
        && challenges.any(|value| value.to_str().is_ok_and(is_bearer))
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    #[test]
    fn only_a_challenge_for_a_bearer_token_asks_for_one() {
        for (status, challenge, expected) in [
            (401, "Bearer", true),
            (401, "bearer realm=\"x\"", true),
            (401, "Basic realm=\"proxy\"", false),
            (401, "", false),
            (403, "Bearer", false),
            (200, "Bearer", false),
        ] {
            let mut answer = Response::builder().status(status);
            if !challenge.is_empty() {
                answer = answer.header(WWW_AUTHENTICATE, challenge);
            }
            let (head, ()) = answer.body(()).unwrap().into_parts();
            assert_eq!(asks_for_bearer(&head), expected, "{status} {challenge}");
        }
    }
}
