//! The first steps with a child: its era shows in what it answers to `server/discover` and `initialize`.
//!
//! Owns the order of the two and the waits between them; it sends nothing. Neither order depends on the code of an
//! error, because servers answer unknown first requests in ways of their own (stdio.mdx, Backward Compatibility).

use std::time::{Duration, Instant};

use crate::client::Client;
use crate::greeting::Greeting;
use crate::headers::Era;
use crate::json::Object;
use crate::message::{Line, Message};
use crate::names::LEGACY_VERSION;
use crate::own;

/// Time in which a child must have answered: servers that are installed at their first start take many seconds.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Time after which a child counts as one that leaves `server/discover` unanswered, as some legacy servers do.
pub(crate) const DISCOVER_TIMEOUT: Duration = Duration::from_secs(3);

/// The two requests that a server of one of the eras answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// `server/discover`, which modern servers answer.
    Discover,
    /// `initialize`, which legacy servers answer.
    Initialize,
}

/// What is known of a child that starts.
#[derive(Debug)]
pub(crate) struct Opening {
    began: Instant,
    first: Probe,
    client: Client,
    /// The `initialize` request of a legacy caller, which goes to the child as it is.
    initialize: Option<Message>,
    discovered: Progress,
    initialized: Progress,
}

/// How far one of the two requests is.
#[derive(Debug)]
enum Progress {
    Unsent,
    Sent(Instant),
    Refused(Instant, Box<str>),
    Done(Instant, Greeting),
}

/// What is to be done next with a child that starts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Wait for an answer until this moment.
    Wait(Instant),
    /// Send this request.
    Send(Probe),
    /// Serve callers; [`Opening::finish`] has what the child said.
    Open(Era),
    /// Give the child up, which did not answer in time.
    Silent,
    /// Give the child up, which refuses both requests; the raw error of `initialize`.
    Refused(Box<str>),
}

impl Opening {
    /// The start of a child for `client`, whose era is likely `era`; `initialize` is the request of a legacy caller.
    pub(crate) fn new(now: Instant, era: Era, client: Client, initialize: Option<Message>) -> Self {
        Self {
            began: now,
            first: match era {
                Era::Legacy => Probe::Initialize,
                Era::Modern => Probe::Discover,
            },
            client,
            initialize,
            discovered: Progress::Unsent,
            initialized: Progress::Unsent,
        }
    }

    /// What is to be done at `now`.
    pub(crate) fn step(&self, now: Instant) -> Step {
        use Progress::{Done, Refused, Sent, Unsent};
        let deadline = self.began + START_TIMEOUT;
        match (&self.discovered, &self.initialized) {
            (_, Done(..)) => Step::Open(Era::Legacy),
            (Done(..), Unsent | Refused(..)) => Step::Open(Era::Modern),
            _ if now >= deadline => Step::Silent,
            // The child may speak both eras: what it makes of `initialize` decides.
            (Done(at, _), Sent(_)) => {
                wait_or(now, *at + DISCOVER_TIMEOUT, || Step::Open(Era::Modern))
            }
            (Unsent, Unsent) => Step::Send(self.first),
            (Sent(at), Unsent) => wait_or(now, *at + DISCOVER_TIMEOUT, || {
                Step::Send(Probe::Initialize)
            }),
            (Refused(..), Unsent) => Step::Send(Probe::Initialize),
            (Unsent, Refused(..)) => Step::Send(Probe::Discover),
            (Unsent | Sent(_) | Refused(..), Sent(_)) => Step::Wait(deadline),
            (Sent(at), Refused(refused, error)) => {
                let until = (*at).max(*refused) + DISCOVER_TIMEOUT;
                wait_or(now, until, || Step::Refused(error.clone()))
            }
            (Refused(..), Refused(_, error)) => Step::Refused(error.clone()),
        }
    }

    /// The line of `probe` with the id `number`; counts it as sent.
    pub(crate) fn send(&mut self, now: Instant, probe: Probe, number: u64) -> Line {
        *self.progress(probe) = Progress::Sent(now);
        match (probe, &self.initialize) {
            (Probe::Initialize, Some(message)) => message.with_id(&number.to_string()),
            (Probe::Initialize, None) => {
                let params = self.client.initialize_params(LEGACY_VERSION);
                own::request(number, "initialize", &params)
            }
            (Probe::Discover, _) => {
                let params = Object::new().raw("_meta", &self.client.meta_object());
                own::request(number, "server/discover", &params.end())
            }
        }
    }

    /// Takes the child's answer to `probe`: `Ok` with the raw result or `Err` with the raw error.
    pub(crate) fn answered(&mut self, now: Instant, probe: Probe, answer: Result<&str, &str>) {
        let era = match probe {
            Probe::Discover => Era::Modern,
            Probe::Initialize => Era::Legacy,
        };
        let unread = r#"{"code":-32603,"message":"the server's first answer is not an object"}"#;
        let greeting = answer.and_then(|result| Greeting::new(era, result).ok_or(unread));
        *self.progress(probe) = match greeting {
            Ok(greeting) => Progress::Done(now, greeting),
            Err(error) => Progress::Refused(now, error.into()),
        };
    }

    /// True if `initialize` is the request of a legacy caller, who goes on with the handshake.
    pub(crate) const fn is_forwarded(&self) -> bool {
        self.initialize.is_some()
    }

    /// Takes what the child said of itself, once [`Self::step`] says that it is open.
    pub(crate) fn finish(&mut self) -> Option<Greeting> {
        for progress in [&mut self.initialized, &mut self.discovered] {
            if let Progress::Done(_, greeting) = std::mem::replace(progress, Progress::Unsent) {
                return Some(greeting);
            }
        }
        None
    }

    const fn progress(&mut self, probe: Probe) -> &mut Progress {
        match probe {
            Probe::Discover => &mut self.discovered,
            Probe::Initialize => &mut self.initialized,
        }
    }
}

/// A wait until `until`, or what comes after it.
fn wait_or(now: Instant, until: Instant, after: impl FnOnce() -> Step) -> Step {
    match now < until {
        true => Step::Wait(until),
        false => after(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::first_moment;

    const RESULT: Result<&str, &str> = Ok(r#"{"capabilities":{}}"#);
    const ERROR: Result<&str, &str> = Err(r#"{"code":-32601,"message":"?"}"#);

    struct Trial {
        start: Instant,
        opening: Opening,
    }

    impl Trial {
        fn new(era: Era) -> Self {
            let start = first_moment();
            let client = Client::default();
            let opening = Opening::new(start, era, client, None);
            Self { start, opening }
        }

        fn step(&self, second: u64) -> Step {
            self.opening.step(self.start + Duration::from_secs(second))
        }

        fn send(&mut self, second: u64, probe: Probe) {
            let now = self.start + Duration::from_secs(second);
            assert_eq!(self.opening.step(now), Step::Send(probe));
            self.opening.send(now, probe, 1);
        }

        fn answered(&mut self, second: u64, probe: Probe, answer: Result<&str, &str>) {
            let now = self.start + Duration::from_secs(second);
            self.opening.answered(now, probe, answer);
        }
    }

    #[test]
    fn a_modern_server_opens_with_its_answer_to_discover() {
        let mut trial = Trial::new(Era::Modern);
        trial.send(0, Probe::Discover);
        trial.answered(1, Probe::Discover, RESULT);
        assert_eq!(trial.step(1), Step::Open(Era::Modern));
        assert_eq!(
            trial.opening.finish().map(|greeting| greeting.era()),
            Some(Era::Modern)
        );
    }

    #[test]
    fn a_legacy_server_that_refuses_discover_is_initialized() {
        let mut trial = Trial::new(Era::Modern);
        trial.send(0, Probe::Discover);
        trial.answered(1, Probe::Discover, ERROR);
        trial.send(1, Probe::Initialize);
        trial.answered(2, Probe::Initialize, RESULT);
        assert_eq!(trial.step(2), Step::Open(Era::Legacy));
    }

    #[test]
    fn silence_after_discover_leads_to_initialize() {
        let mut trial = Trial::new(Era::Modern);
        trial.send(0, Probe::Discover);
        assert_eq!(trial.step(2), Step::Wait(trial.start + DISCOVER_TIMEOUT));
        trial.send(3, Probe::Initialize);
        assert_eq!(trial.step(3), Step::Wait(trial.start + START_TIMEOUT));
        assert_eq!(trial.step(30), Step::Silent);
    }

    #[test]
    fn a_late_answer_to_discover_counts_if_initialize_is_refused() {
        let mut trial = Trial::new(Era::Modern);
        trial.send(0, Probe::Discover);
        trial.send(3, Probe::Initialize);
        trial.answered(9, Probe::Discover, RESULT);
        assert!(matches!(trial.step(9), Step::Wait(_)));
        trial.answered(10, Probe::Initialize, ERROR);
        assert_eq!(trial.step(10), Step::Open(Era::Modern));
    }

    #[test]
    fn a_server_that_answers_both_is_legacy_because_initialize_has_reached_it() {
        let mut trial = Trial::new(Era::Modern);
        trial.send(0, Probe::Discover);
        trial.send(3, Probe::Initialize);
        trial.answered(9, Probe::Discover, RESULT);
        trial.answered(9, Probe::Initialize, RESULT);
        assert_eq!(trial.step(9), Step::Open(Era::Legacy));
    }

    #[test]
    fn a_server_that_refuses_initialize_is_asked_to_discover() {
        let mut trial = Trial::new(Era::Legacy);
        trial.send(0, Probe::Initialize);
        trial.answered(1, Probe::Initialize, ERROR);
        trial.send(1, Probe::Discover);
        trial.answered(2, Probe::Discover, RESULT);
        assert_eq!(trial.step(2), Step::Open(Era::Modern));
    }

    #[test]
    fn a_server_that_refuses_both_is_given_up_with_its_error() {
        let mut trial = Trial::new(Era::Legacy);
        trial.send(0, Probe::Initialize);
        trial.answered(1, Probe::Initialize, ERROR);
        trial.send(1, Probe::Discover);
        assert!(matches!(trial.step(3), Step::Wait(_)));
        assert!(matches!(trial.step(4), Step::Refused(_)));
        trial.answered(2, Probe::Discover, ERROR);
        assert!(matches!(trial.step(2), Step::Refused(_)));
    }
}
