//! Whether the relay asks its callers for a token: one that does not would get a credential for
//! nothing, and what answers in its place could use it.

use http::header::WWW_AUTHENTICATE;
use http::response::Parts;
use http::{Method, StatusCode};
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};

use super::origin::RelayOrigin;
use super::tls::Tls;
use crate::web::Question;

/// What a relay answers itself, whatever tunnels there are: with 401 if it asks callers for a token.
const PATH: &str = "/tunnels";

/// How long an answer holds: a relay may be started anew with another `caller_auth`.
const HOLDS: Duration = Duration::from_secs(60);

/// The same once a request was refused for its credential, or for the lack of one.
const HOLDS_REFUSED: Duration = Duration::from_secs(1);

/// What is known of a relay.
#[derive(Debug, Default)]
pub(super) struct Asking(Mutex<Option<Known>>);

#[derive(Clone, Copy, Debug)]
struct Known {
    is_asked_for: bool,
    since: Instant,
    was_refused: bool,
}

impl Asking {
    /// True if the relay asks for a token. It is asked without one, over a connection of its own, where
    /// that is not known; while it does not say, what it said last holds, and at first that it does not.
    pub(super) async fn asks(&self, relay: &RelayOrigin, tls: Option<&Tls>) -> bool {
        let mut known = self.0.lock().await;
        let now = Instant::now();
        if let Some(known) = &*known {
            let holds = if known.was_refused {
                HOLDS_REFUSED
            } else {
                HOLDS
            };
            if now.duration_since(known.since) < holds {
                return known.is_asked_for;
            }
        }
        let question = Question {
            method: Method::GET,
            authority: &relay.authority(),
            path: PATH,
            authorization: None,
        };
        match question.ask_at(&relay.address, tls, false).await {
            Ok((head, _)) if is_sure(head.status) => {
                let is_asked_for = asks_for_bearer(&head);
                *known = Some(Known {
                    is_asked_for,
                    since: now,
                    was_refused: false,
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

    /// A request was refused with 401: the answer holds for less long.
    pub(super) async fn refused(&self) {
        if let Some(known) = &mut *self.0.lock().await {
            known.was_refused = true;
        }
    }
}

/// Whether a status says something: a relay that is too busy does not.
fn is_sure(status: StatusCode) -> bool {
    !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS
}

/// True for a relay's own refusal (RFC 6750, section 3).
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
