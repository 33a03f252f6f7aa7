//! A trial registration that takes no name from any agent: its key is new and thrown away, so no agent has
//! the name that is derived from it. An agent that runs on this machine keeps its tunnels.

use std::time::Duration;

use tieline_wire::{
    Event, Granted, LinkEnd, Moment, Mux, Refusal, RefusalReason, Register, Scheme, SessionEnd,
    Token,
};
use tokio::time::{Instant, timeout};

use super::check::Check;
use super::clock::Evidence;
use super::words;
use crate::advice::{advice, advice_on_end};
use crate::token_show::Validity;
use tieline_agent::config::{Config, TargetConfig};
use tieline_agent::error::words as words_of;
use tieline_agent::identity::Identity;
use tieline_agent::server_kind;
use tieline_agent::transport::{Connection, Talk, client_certificate_problem};

/// Longest time for the whole trial; a provider that the relay asks has 5 s.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(15);

/// Limit on registrations in a trial, so that they do not use up the relay's limit per minute.
const ASKED_MAX: usize = 16;

/// The target's address in a trial registration: no caller is led there, but a relay refuses an empty
/// address.
const AUTHORITY: &str = "localhost";

const AGENT_VERSION: &str = concat!("tieline/", env!("CARGO_PKG_VERSION"), " (diag)");

/// Result of a trial: the relay answered each registration, or it did not.
pub(super) type Trial = Result<Answered, NoAnswer>;

/// The relay's version, and its answers to `asked`, in the same order.
pub(super) struct Answered {
    relay: String,
    answers: Vec<Result<Granted, Refusal>>,
    asked: Vec<TrialRequest>,
}

/// Why the handshake failed, or the link ended; with the relay's reason, if it gave one.
pub(super) struct NoAnswer {
    why: String,
    reason: Option<LinkEnd>,
}

/// What one trial registration asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TrialRequest {
    dcc: String,
    /// Start of the derived name. A token that allows the tunnel's own name by a prefix allows this name,
    /// too.
    label: String,
    /// True if the tunnel's real name is derived from the label and the agent's key as well.
    is_derived: bool,
}

/// One registration for each target that differs in what a token can limit.
fn asked(config: &Config) -> Vec<TrialRequest> {
    let of_target = |it: &TargetConfig| TrialRequest {
        dcc: it.dcc.clone(),
        label: match &it.name {
            Some(name) => name.to_string(),
            None => it.label(),
        },
        is_derived: it.name.is_none(),
    };
    let mut asked: Vec<TrialRequest> = config.targets.iter().map(of_target).collect();
    asked.sort_unstable();
    asked.dedup();
    asked.truncate(ASKED_MAX);
    if asked.is_empty() {
        asked.push(TrialRequest {
            dcc: config.dcc.clone(),
            label: "diag".to_owned(),
            is_derived: true,
        });
    }
    asked
}

/// The messages that register `asked`.
fn registrations(asked: &[TrialRequest], token: &str) -> Vec<Register> {
    let all = (0..).zip(asked).map(|(request, it)| Register {
        request,
        name: None,
        label: it.label.clone(),
        scheme: Scheme::Tcp,
        authority: AUTHORITY.to_owned(),
        base_path: String::new(),
        dcc: it.dcc.clone(),
        capabilities: Vec::new(),
        token: Token::new(token.to_owned()),
        expose_all: false,
    });
    all.collect()
}

/// Registers what [`asked`] returns, and withdraws each registration that the relay grants.
pub(super) async fn run(config: &Config, token: &str, connection: Connection) -> Trial {
    let identity = Identity::throw_away().map_err(|error| no_answer(error.to_string()))?;
    let asked = asked(config);
    let exporter = connection.exporter();
    let end = End {
        mux: connection.mux(),
        talk: Talk::new(connection),
        started_at: Instant::now(),
        identity: &identity,
        exporter,
        relay_name: config.relay.name(),
        registers: registrations(&asked, token),
        asked,
        relay: String::new(),
        answers: Vec::new(),
    };
    timeout(TRIAL_TIMEOUT, end.talk())
        .await
        .unwrap_or_else(|_| {
            let seconds = TRIAL_TIMEOUT.as_secs();
            let why = format!("the relay did not answer within {seconds} s");
            Err(no_answer(why))
        })
}

const fn no_answer(why: String) -> NoAnswer {
    NoAnswer { why, reason: None }
}

/// The agent's end of the trial link.
struct End<'a> {
    talk: Talk,
    mux: Mux,
    started_at: Instant,
    identity: &'a Identity,
    /// Exporter of the TLS connection that the link is in.
    exporter: Option<[u8; 32]>,
    relay_name: String,
    asked: Vec<TrialRequest>,
    registers: Vec<Register>,
    /// The relay's version, from its hello.
    relay: String,
    /// The relay's answers to `registers` so far.
    answers: Vec<Result<Granted, Refusal>>,
}

impl End<'_> {
    /// Talks to the relay until it has answered each registration, or the link has ended.
    async fn talk(mut self) -> Trial {
        loop {
            let now = self.now();
            let sent = self.talk.send(now, &mut self.mux).await;
            sent.map_err(|error| no_answer(format!("the link broke: {error}")))?;
            if self.answers.len() == self.registers.len() {
                self.talk.say_farewell().await;
                return Ok(Answered {
                    relay: self.relay,
                    answers: self.answers,
                    asked: self.asked,
                });
            }
            let why = match self.talk.hear().await {
                Ok(true) => None,
                Ok(false) => Some("the connection was closed".to_owned()),
                Err(error) => Some(
                    client_certificate_problem(&error)
                        .unwrap_or_else(|| format!("the link broke: {error}")),
                ),
            };
            if let Some(why) = why {
                return Err(no_answer(why));
            }
            while let Some(event) = self.event()? {
                self.handle(event)?;
            }
        }
    }

    /// The next event of what has arrived.
    fn event(&mut self) -> Result<Option<Event>, NoAnswer> {
        let now = self.now();
        let event = self.talk.event(now, &mut self.mux);
        event.map_err(|error| broken(error, self.talk.first(), &self.relay_name))
    }

    /// Handles one event of the link.
    ///
    /// # Errors
    /// The relay's reason, if the relay ends the link.
    fn handle(&mut self, event: Event) -> Result<(), NoAnswer> {
        match event {
            Event::RelayHello(hello) => {
                self.relay.clone_from(&hello.relay_version);
                let name = self.relay_name.clone();
                let exporter = self.exporter.as_ref();
                let hello = self
                    .identity
                    .hello(&hello, name, AGENT_VERSION, (0, 1), exporter);
                self.mux.hello(&hello);
                self.registers.iter().for_each(|it| self.mux.register(it));
            }
            Event::RegisterAck(ack) => {
                if let Ok(granted) = &ack.outcome {
                    self.mux.unregister(&granted.tunnel);
                }
                self.answers.push(ack.outcome);
            }
            Event::GoAway(away) => {
                return Err(NoAnswer {
                    why: away.message,
                    reason: Some(away.reason),
                });
            }
            // No caller knows the name; a session that comes anyway is reset.
            Event::Open { session, .. } => self.mux.reset(session, SessionEnd::ShuttingDown),
            _ => {}
        }
        Ok(())
    }

    fn now(&self) -> Moment {
        let elapsed = self.started_at.elapsed().as_micros();
        Moment::from_micros(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }
}

/// Why a trial failed whose other side, at `address`, broke the protocol; `first` is the beginning of what it sent.
fn broken(error: tieline_wire::Error, first: &[u8], address: &str) -> NoAnswer {
    NoAnswer {
        why: match error.reason {
            LinkEnd::Preface => server_kind::describe(first, address),
            _ => error.detail,
        },
        reason: Some(error.reason),
    }
}

/// Turns a trial's result into a check, and into evidence of the relay's clock.
pub(super) fn judge(trial: Trial, config: &Config, token: Option<&Validity>) -> (Check, Evidence) {
    let mut evidence = Evidence::default();
    let answered = match trial {
        Ok(answered) => answered,
        Err(NoAnswer { why, reason }) => {
            let (text, advice) = match reason {
                Some(reason) => (words_of(&reason, &why), advice_on_end(reason)),
                None if config.relay.transport().is_websocket() => (why, ON_CUT_WEBSOCKET),
                None => (
                    why,
                    "is that the relay's port for agents, and not the one for HTTP or callers?",
                ),
            };
            return (Check::failed("auth", text, advice), evidence);
        }
    };
    let (relay, mut answers) = (answered.relay, answered.answers);
    // A token may allow a target's given name but not the name that this trial made up: no failure.
    let mut asked = answered.asked.iter();
    answers.retain(|answer| {
        let is_derived = asked.next().is_some_and(|it| it.is_derived);
        let refused = answer.as_ref().err();
        is_derived || refused.is_none_or(|it| it.reason != RefusalReason::NameNotAllowed)
    });
    for granted in answers.iter().flatten() {
        evidence.urls.clone_from(&granted.urls);
        evidence.left = Some(u64::from(granted.expires_in_s)).filter(|left| *left > 0);
    }
    if let Some(refusal) = answers.iter().find_map(|it| it.as_ref().err()) {
        evidence.said_expired = refusal.reason == RefusalReason::TokenExpired;
        if let Some(text) = limits_of(refusal.reason, config) {
            let own = token.map(words).unwrap_or_default();
            return (
                Check::ok("auth", format!("{relay} knows this token: {text}; {own}")),
                evidence,
            );
        }
        let own = token.map_or_else(|| "no token file is given".to_owned(), words);
        let text = format!("{relay} refuses: {} ({own})", refusal.message);
        let check = Check::failed("auth", text, advice(refusal.reason));
        return (check, evidence);
    }
    let mut text = format!("{relay} takes an agent");
    match token {
        Some(token) => text.push_str(&format!(" with this token; {}", words(token))),
        None => text.push_str(" without a token"),
    }
    if config.targets.iter().any(|it| it.name.is_some()) {
        // Not tried, because registering a name takes it over from the agent that has it.
        text.push_str("; whether it allows the names that are asked for shows when serving");
    }
    let check = match token {
        // Accepted only within the leeway for clocks that differ.
        Some(token) if token.has_expired => {
            Check::warning("auth", text, advice(RefusalReason::TokenExpired))
        }
        _ => Check::ok("auth", text),
    };
    (check, evidence)
}

/// Explains why a refused token may still be good, if the trial asked for nothing that the token could
/// allow: the trial had no kind of application, or not the tunnel's own name.
fn limits_of(reason: RefusalReason, config: &Config) -> Option<&'static str> {
    let is_named = !config.targets.is_empty() && config.targets.iter().all(|it| it.name.is_some());
    match reason {
        RefusalReason::DccNotAllowed if config.targets.is_empty() && config.dcc.is_empty() => {
            Some("it is for certain kinds of application only, so give --dcc KIND to try one")
        }
        RefusalReason::NameNotAllowed if config.targets.is_empty() || is_named => Some(
            "it allows certain names only, which are not tried; whether it allows the one that \
             --to NAME=TARGET asks for shows when serving",
        ),
        _ => None,
    }
}

const ON_CUT_WEBSOCKET: &str = "the relay or a server in front of it ended the WebSocket: try again, and ask the relay's operator";

#[cfg(test)]
mod tests {
    use super::super::check::Outcome;
    use super::*;

    fn refused(reason: RefusalReason) -> Trial {
        Ok(Answered {
            relay: "relay/1".to_owned(),
            answers: vec![Err(Refusal::new(reason, "no"))],
            asked: asked(&config()),
        })
    }

    fn config() -> Config {
        Config::new("tcp://127.0.0.1:9001", "127.0.0.1:1").unwrap()
    }

    #[test]
    fn a_good_token_is_not_called_bad_where_nothing_was_asked_for_that_it_limits() {
        let bare = Config::of("tcp://127.0.0.1:9001", Vec::new()).unwrap();
        let named = config().with_name("maya").unwrap();
        let outcome = |reason, config: &Config| judge(refused(reason), config, None).0.outcome;
        assert_eq!(outcome(RefusalReason::DccNotAllowed, &bare), Outcome::Ok);
        assert_eq!(outcome(RefusalReason::NameNotAllowed, &bare), Outcome::Ok);
        assert_eq!(outcome(RefusalReason::NameNotAllowed, &named), Outcome::Ok);
        assert_eq!(
            outcome(RefusalReason::NameNotAllowed, &config()),
            Outcome::Failed
        );
        assert_eq!(
            outcome(RefusalReason::DccNotAllowed, &config()),
            Outcome::Failed
        );
        let mut asked = bare.clone();
        asked.dcc = "maya".to_owned();
        assert_eq!(
            outcome(RefusalReason::DccNotAllowed, &asked),
            Outcome::Failed
        );
        assert_eq!(outcome(RefusalReason::BadToken, &bare), Outcome::Failed);
    }

    #[test]
    fn a_relay_takes_the_form_of_what_is_registered_on_trial() {
        let bare = Config::of("tcp://127.0.0.1:9001", Vec::new()).unwrap();
        let web = Config::new("tcp://127.0.0.1:9001", "http://127.0.0.1:1/mcp").unwrap();
        for config in [bare, config(), web, config().with_name("maya").unwrap()] {
            for register in registrations(&asked(&config), "token") {
                assert_eq!(register.check(), Ok(()), "{register:?}");
            }
        }
    }

    #[test]
    fn every_refusal_comes_with_advice() {
        for reason in RefusalReason::ALL {
            let (check, _) = judge(refused(*reason), &config(), None);
            assert_eq!(check.outcome, Outcome::Failed);
            assert!(check.detail.contains("no token file is given"), "{check}");
        }
        let (_, evidence) = judge(refused(RefusalReason::TokenExpired), &config(), None);
        assert!(evidence.said_expired);
    }

    #[test]
    fn what_is_no_relay_is_told_from_a_relay_that_refuses() {
        for reason in [None, Some(LinkEnd::Preface)] {
            let why = "it spoke HTTP".to_owned();
            let (check, _) = judge(Err(NoAnswer { why, reason }), &config(), None);
            let line = check.to_string();
            assert!(line.contains("port for agents"), "{line}");
        }
        let over_websocket = Config::new("https://relay.invalid", "127.0.0.1:1").unwrap();
        let trial = Err(no_answer("the link broke".to_owned()));
        let line = judge(trial, &over_websocket, None).0.to_string();
        assert!(line.contains("ended the WebSocket"), "{line}");
        assert!(!line.contains("port for agents"), "{line}");
    }

    #[test]
    fn what_the_relay_says_and_the_advice_stand_once_each() {
        let reason = Some(LinkEnd::RelayName);
        let why = LinkEnd::RelayName.to_string();
        let (check, _) = judge(Err(NoAnswer { why, reason }), &config(), None);
        let line = check.to_string();
        let said = LinkEnd::RelayName.to_string();
        for text in [&*said, "dial the relay's own name"] {
            assert_eq!(line.matches(text).count(), 1, "{line}");
        }
    }

    #[test]
    fn a_name_that_is_asked_for_is_not_tried() {
        let trial = || {
            Ok(Answered {
                relay: "relay/1".to_owned(),
                answers: Vec::new(),
                asked: Vec::new(),
            })
        };
        let (check, _) = judge(trial(), &config().with_name("maya").unwrap(), None);
        assert!(check.detail.contains("shows when serving"), "{check}");
        let (check, _) = judge(trial(), &config(), None);
        assert!(!check.detail.contains("shows when serving"), "{check}");
        // Accepted although expired: the relay allows for clocks that differ.
        let over = Validity {
            expiry: Some("17 s ago, accepted until noon".to_owned()),
            has_expired: true,
            since: None,
            until: None,
        };
        let (check, _) = judge(trial(), &config(), Some(&over));
        assert_eq!(check.outcome, Outcome::Warning);
        let line = check.to_string();
        assert!(line.contains("expired 17 s ago, accepted until"), "{line}");
        assert!(line.contains("fresh token"), "{line}");
    }
}
