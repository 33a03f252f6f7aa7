//! State of the relay and the token as recent requests found them, for the terminal that runs `tieline
//! connect`. An unreachable relay or a refused token is reported when the trouble begins and when it ends,
//! not for each request. A wait for a proxy that refuses the login is reported again when it grows.

use std::cell::RefCell;
use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, StatusCode};
use tokio::time::Instant;

use super::event::ConnectEvent;
use super::problem::Problem;
use crate::outbound::tunnels::ListErrorKind;

/// Shortest time between two reports that the same kind of trouble begins.
const TELL_PAUSE: Duration = Duration::from_secs(10);

/// Factor by which the wait for a proxy must be longer than the reported one to be reported as well.
///
/// More than the random part of the waits, a quarter, and less than the growth from one wait to the next, of which the
/// smallest is from 375 s to 900 s.
const WAIT_GROWTH: f64 = 1.5;

/// Whether callers now get answers from the relay, and whether the relay accepts the token.
#[derive(Debug, Default)]
pub(super) struct TroubleReporter(RefCell<Troubles>);

#[derive(Debug, Default)]
struct Troubles {
    relay: Trouble,
    token: Trouble,
    /// The longest wait for a proxy since the start of the relay's trouble was last reported; `None` if the report's own
    /// is not known.
    login_wait: Option<Duration>,
}

impl Troubles {
    /// Records that the relay is away, and a proxy on the way is not asked for `login_wait`; true if it is to be reported.
    fn relay_away(&mut self, login_wait: Duration) -> bool {
        let begins = self.relay.begins();
        let has_grown = match self.login_wait {
            Some(told) if !begins => login_wait > told.mul_f64(WAIT_GROWTH),
            // The report that comes now, or the one of the check at the start, has it.
            _ => false,
        };
        if begins || has_grown || self.login_wait.is_none() {
            self.login_wait = Some(login_wait);
        }
        if has_grown {
            self.relay.told();
        }
        begins || has_grown
    }
}

/// State of one kind of trouble.
#[derive(Debug, Default)]
struct Trouble {
    /// `None`: no trouble. `Some(reported)`: trouble, and whether its start was reported.
    now: Option<bool>,
    told_at: Option<Instant>,
}

impl Trouble {
    /// Records that the trouble is present; true if its start is to be reported.
    fn begins(&mut self) -> bool {
        if self.now.is_some() {
            return false;
        }
        let now = Instant::now();
        let is_due = |at: Instant| now.duration_since(at) >= TELL_PAUSE;
        let is_told = self.told_at.is_none_or(is_due);
        if is_told {
            self.told_at = Some(now);
        }
        self.now = Some(is_told);
        is_told
    }

    /// Records that the trouble, which is present, is reported now.
    fn told(&mut self) {
        self.now = Some(true);
        self.told_at = Some(Instant::now());
    }

    /// Records that the trouble is over; true if its end is to be reported, because its start was.
    fn ends(&mut self) -> bool {
        self.now.take() == Some(true)
    }
}

impl TroubleReporter {
    /// Records that the check at the start has reported `why`, so that its start is not reported again.
    pub(super) fn told(&self, why: ListErrorKind) {
        let mut it = self.0.borrow_mut();
        match why {
            ListErrorKind::Away => {
                it.login_wait = None;
                it.relay.begins()
            }
            ListErrorKind::NeedsToken | ListErrorKind::BadToken | ListErrorKind::NoScope => {
                it.token.begins()
            }
            ListErrorKind::NoRelay
            | ListErrorKind::AdminPort
            | ListErrorKind::Hidden
            | ListErrorKind::Other => false,
        };
    }

    /// Records a request without an answer from the relay; returns the event to report, if any.
    pub(super) fn failed(&self, problem: &Problem) -> Option<ConnectEvent> {
        let mut it = self.0.borrow_mut();
        (problem.is_relay_away() && it.relay_away(problem.login_wait)).then(|| {
            ConnectEvent::RelayAway {
                message: problem.message.clone(),
            }
        })
    }

    /// Records an answer from the relay or a target behind it; returns the events to report. `has_token`:
    /// the request carried the token of the file.
    pub(super) fn answered(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        has_token: bool,
    ) -> impl Iterator<Item = ConnectEvent> + use<> {
        let mut it = self.0.borrow_mut();
        let back = it.relay.ends().then_some(ConnectEvent::RelayBack);
        let token = match refusal(status, headers) {
            Some(reason) => it
                .token
                .begins()
                .then_some(ConnectEvent::TokenRefused { reason, has_token }),
            None if is_past_the_check(status, headers) => {
                it.token.ends().then_some(ConnectEvent::TokenTaken)
            }
            None => None,
        };
        back.into_iter().chain(token)
    }
}

/// Why the relay itself, not a target behind it, refuses a caller. A target's challenge has more parameters
/// than `error`, and a target's answers seldom say `no-store`.
fn refusal(status: StatusCode, headers: &HeaderMap) -> Option<&'static str> {
    if !is(headers, &CACHE_CONTROL, "no-store") {
        return None;
    }
    let is_challenged = |text| is(headers, &WWW_AUTHENTICATE, text);
    match status {
        StatusCode::UNAUTHORIZED if is_challenged("Bearer") => Some("unauthorized"),
        StatusCode::UNAUTHORIZED if is_challenged("Bearer error=\"invalid_token\"") => {
            Some("invalid_token")
        }
        StatusCode::FORBIDDEN if is_challenged("Bearer error=\"insufficient_scope\"") => {
            Some("insufficient_scope")
        }
        _ => None,
    }
}

/// True if an answer shows that the relay has accepted the request's token: a target's answer, or an error that the
/// relay finds only after the check of the token.
///
/// The relay answers health checks, unreadable requests, foreign hosts, rate limits and lack of memory before the
/// check, and a 503 may say that it cannot check tokens. Other answers from status 500 on may come from a reverse proxy
/// in front of the relay.
fn is_past_the_check(status: StatusCode, headers: &HeaderMap) -> bool {
    let is_relays =
        is(headers, &CACHE_CONTROL, "no-store") && is(headers, &CONTENT_TYPE, "application/json");
    match is_relays {
        true => matches!(
            status,
            StatusCode::NOT_FOUND | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT
        ),
        false => !status.is_server_error(),
    }
}

/// True if the field `name` has this one value.
fn is(headers: &HeaderMap, name: &HeaderName, text: &str) -> bool {
    let mut values = headers.get_all(name).iter();
    values.next().is_some_and(|it| it == text) && values.next().is_none()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn answer(
        trouble: &TroubleReporter,
        status: u16,
        challenge: Option<&'static str>,
    ) -> Vec<&'static str> {
        let no_store = (CACHE_CONTROL, "no-store");
        let challenge = challenge.map(|it| (WWW_AUTHENTICATE, it));
        let headers: Vec<_> = [no_store].into_iter().chain(challenge).collect();
        events(trouble, status, &headers)
    }

    /// The events of an answer with these headers.
    fn events(
        trouble: &TroubleReporter,
        status: u16,
        headers: &[(HeaderName, &'static str)],
    ) -> Vec<&'static str> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
            .collect();
        let status = StatusCode::from_u16(status).unwrap();
        trouble
            .answered(status, &headers, true)
            .map(|event| match event {
                ConnectEvent::RelayBack => "back",
                ConnectEvent::TokenRefused { reason, .. } => reason,
                ConnectEvent::TokenTaken => "taken",
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn fail(trouble: &TroubleReporter) -> bool {
        let problem = Problem::relay_unreachable("it is away".to_owned());
        trouble.failed(&problem).is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_is_told_when_it_begins_and_when_it_is_over() {
        let trouble = TroubleReporter::default();
        assert!(answer(&trouble, 200, None).is_empty());
        assert!(fail(&trouble) && !fail(&trouble));
        assert_eq!(answer(&trouble, 404, None), ["back"]);
        assert!(answer(&trouble, 200, None).is_empty());
        // Trouble that comes and goes within TELL_PAUSE does not fill the terminal.
        for _ in 0..3 {
            assert!(!fail(&trouble));
            assert!(answer(&trouble, 200, None).is_empty());
        }
        tokio::time::advance(TELL_PAUSE).await;
        assert!(fail(&trouble));
        assert_eq!(answer(&trouble, 200, None), ["back"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_a_proxy_is_told_again_when_it_grows() {
        let away = |trouble: &TroubleReporter, wait_s| {
            let wait = Duration::from_secs(wait_s);
            let problem = Problem::proxy_login(format!("in {wait_s} s"), wait);
            trouble.failed(&problem).is_some()
        };
        let trouble = TroubleReporter::default();
        // A refusal, what is left of its wait, those of logins that were under way, and the next tries.
        let waits = [
            (31, true),
            (30, false),
            (350, true),
            (349, false),
            (1, false),
            (0, false),
            (900, true),
            (1125, false),
        ];
        for (wait_s, is_told) in waits {
            assert_eq!(away(&trouble, wait_s), is_told, "{wait_s} s");
        }
        assert_eq!(answer(&trouble, 200, None), ["back"]);
        tokio::time::advance(TELL_PAUSE).await;
        assert!(away(&trouble, 31), "another trouble has its own report");
        // The first problem may name no wait.
        let trouble = TroubleReporter::default();
        assert!(fail(&trouble) && away(&trouble, 31) && !fail(&trouble));

        // The check at the start has told the wait that the first request finds.
        let trouble = TroubleReporter::default();
        trouble.told(ListErrorKind::Away);
        assert!(!away(&trouble, 31) && away(&trouble, 350) && !away(&trouble, 349));
        assert_eq!(answer(&trouble, 200, None), ["back"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_token_is_the_relays_word_and_not_a_targets() {
        let trouble = TroubleReporter::default();
        let bad = Some("Bearer error=\"invalid_token\"");
        assert_eq!(answer(&trouble, 401, bad), ["invalid_token"]);
        assert!(answer(&trouble, 401, bad).is_empty());
        assert_eq!(answer(&trouble, 200, None), ["taken"]);
        let targets = Some("Bearer error=\"invalid_token\", resource_metadata=\"https://t\"");
        tokio::time::advance(TELL_PAUSE).await;
        assert!(answer(&trouble, 401, targets).is_empty());
        assert_eq!(answer(&trouble, 401, Some("Bearer")), ["unauthorized"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_from_before_the_check_does_not_say_that_the_token_is_taken() {
        let json = [
            (CACHE_CONTROL, "no-store"),
            (CONTENT_TYPE, "application/json"),
        ];
        let page = [(CONTENT_TYPE, "text/html")];
        // `json` marks the relay's own answers; the pages of 502 and 503 come from a reverse proxy in front of it.
        for (status, headers, is_taken) in [
            (200, &json[..], false),
            (400, &json, false),
            (421, &json, false),
            (429, &json, false),
            (503, &json, false),
            (502, &page, false),
            (503, &page, false),
            (404, &json, true),
            (502, &json, true),
            (504, &json, true),
            (200, &page, true),
            (403, &page, true),
            (200, &json[1..], true),
        ] {
            let trouble = TroubleReporter::default();
            assert_eq!(answer(&trouble, 401, Some("Bearer")), ["unauthorized"]);
            let events = events(&trouble, status, headers);
            assert_eq!(
                events == ["taken"],
                is_taken,
                "{status} {headers:?}: {events:?}"
            );
        }
    }
}
