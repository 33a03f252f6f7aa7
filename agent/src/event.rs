//! What an agent reports while it runs: to a program as JSON, to a person as one line.
//! Long because each event stands beside its fields and its words.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::error::Error;
use crate::target::is_raw;

/// Something that happened to an agent's link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum AgentEvent {
    /// The relay is being dialled.
    Connecting {
        /// Which of the agent's links, from 0.
        link: u16,
        /// The relay.
        relay: String,
    },
    /// The tunnel is up: its URL works from now on.
    Registered {
        /// Which of the agent's links, from 0.
        link: u16,
        /// The tunnel's name.
        tunnel: String,
        /// The URL to give to callers; empty if the relay has no public HTTP listener.
        url: String,
        /// Every URL of the tunnel.
        urls: Vec<String>,
        /// The generation that the relay granted; as text in JSON, whose numbers end at 2^53.
        #[serde(serialize_with = "as_text")]
        generation: u64,
        /// The target that it leads to.
        target: String,
    },
    /// What one look at a target found, after its tunnel came up. Told by the program, not by the
    /// library.
    Target {
        /// The tunnel's name.
        tunnel: String,
        /// The target.
        target: String,
        /// What was seen, in one word.
        state: &'static str,
        /// Callers get what they came for.
        is_good: bool,
        /// What was seen, in a sentence that says what to do about it.
        message: String,
        /// What an MCP server calls itself.
        #[serde(skip_serializing_if = "Option::is_none")]
        server: Option<String>,
        /// Its version.
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<String>,
    },
    /// What callers of the relay need. Told by the program, not by the library.
    Callers {
        /// The tunnel that came up first.
        tunnel: String,
        /// Its URL.
        url: String,
        /// The relay's address for callers; empty where no URL tells it.
        relay: String,
        /// Whether the relay asks them for a token.
        token: CallerToken,
        /// What `tieline init` needs beside the tunnel's name; empty for the usual target.
        #[serde(skip)]
        init_flags: String,
    },
    /// A target no longer takes connections; told once until it does again.
    TargetAway {
        /// The target.
        target: String,
        /// What became of the connection, in one word.
        state: &'static str,
        /// What became of it and what callers get, in a sentence.
        message: String,
    },
    /// A target takes connections again.
    TargetBack {
        /// The target.
        target: String,
        /// For how long it did not, in seconds.
        away_s: u64,
    },
    /// The relay gives a target no tunnel, or takes it back, while the agent's other targets may have
    /// theirs.
    TunnelRefused {
        /// Which of the agent's links, from 0.
        link: u16,
        /// The tunnel's name.
        tunnel: String,
        /// The target.
        target: String,
        /// Why, in one word.
        reason: &'static str,
        /// Why, in a sentence.
        message: String,
        /// Asking again cannot help; otherwise it is asked for again.
        is_final: bool,
    },
    /// A tunnel may stay up for longer: the token's file had a fresh one, in time.
    Renewed {
        /// Which of the agent's links, from 0.
        link: u16,
        /// The tunnel's name.
        tunnel: String,
        /// The target that it leads to.
        target: String,
        /// For how long, in seconds; 0 is for ever.
        expires_in_s: u32,
    },
    /// A tunnel's permission will end, and the token's file has no fresh one yet.
    Ending {
        /// Which of the agent's links, from 0.
        link: u16,
        /// The tunnel's name.
        tunnel: String,
        /// The target that it leads to.
        target: String,
        /// When, in seconds from now.
        expires_in_s: u64,
        /// Why it is not renewed, in one word.
        reason: &'static str,
        /// Why it is not renewed, in a sentence.
        message: String,
    },
    /// The relay asks to move to a new link; sessions go on meanwhile.
    GoingAway {
        /// Which of the agent's links, from 0.
        link: u16,
        /// Why, in one word.
        reason: &'static str,
        /// What the relay adds.
        message: String,
    },
    /// A link ended or could not be made; it is dialled again.
    Disconnected {
        /// Which of the agent's links, from 0.
        link: u16,
        /// Why, in one word.
        reason: &'static str,
        /// Why, in a sentence.
        message: String,
        /// Wait before the next attempt, in milliseconds.
        retry_ms: u64,
    },
    /// The relay refused for good; the agent ends.
    Refused {
        /// Why, in one word.
        reason: &'static str,
        /// Why, in a sentence.
        message: String,
    },
    /// A newer run of this agent took over; this one ends.
    Superseded {
        /// Why, in a sentence.
        message: String,
    },
    /// A newer run of this agent took over; this one waits for its end.
    StandingBy,
    /// The agent failed and ends.
    Failed {
        /// Why, in one word.
        reason: &'static str,
        /// Why, in a sentence.
        message: String,
    },
    /// The agent was asked to stop, takes no more calls, and waits for those in flight.
    Stopping {
        /// Sessions that are open; those without a call in flight end at once.
        sessions: usize,
        /// For how long, in milliseconds.
        drain_ms: u64,
    },
    /// The agent was asked to stop and has.
    Stopped,
}

/// Whether a relay asks callers for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CallerToken {
    /// It does.
    Needed,
    /// It does not.
    NotNeeded,
    /// It could not be asked from here.
    Unknown,
}

fn as_text<S: serde::Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

impl AgentEvent {
    /// The last event of an agent that ended with `error`.
    pub(crate) fn ended_by(error: &Error) -> Self {
        let (reason, message) = (error.word(), error.to_string());
        match error {
            Error::Superseded { .. } => Self::Superseded { message },
            Error::Refused { .. } | Error::Link { .. } if error.is_final() => {
                Self::Refused { reason, message }
            }
            _ => Self::Failed { reason, message },
        }
    }
}

impl fmt::Display for AgentEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting { relay, .. } => write!(f, "connecting to {relay}"),
            Self::Registered { tunnel, target, .. } if is_raw(target) => {
                write!(f, "registered  {tunnel}  raw TCP")
            }
            Self::Registered { tunnel, url, .. } if url.is_empty() => {
                write!(f, "registered  {tunnel}")
            }
            Self::Registered {
                tunnel, url, urls, ..
            } => {
                write!(f, "registered  {tunnel}  {url}")?;
                // Where DNS does not lead the tunnel's own name to the relay.
                let mut others = urls.iter().filter(|it| *it != url);
                others.try_for_each(|other| write!(f, "  or {other}"))
            }
            Self::Target { message, .. } => write!(f, "target      {message}"),
            Self::Callers {
                tunnel,
                url,
                relay,
                token,
                init_flags,
            } => match token {
                CallerToken::Needed => write!(
                    f,
                    "callers     need a token of this relay. On a caller's machine: tieline connect \
                     --relay {relay} --token-file FILE, then tieline init --tunnel {tunnel}{init_flags}"
                ),
                CallerToken::NotNeeded => {
                    write!(
                        f,
                        "callers     need no token: tieline init --url {url}{init_flags}"
                    )
                }
                CallerToken::Unknown => write!(
                    f,
                    "callers     tieline init --url {url}{init_flags} (whether this relay asks callers for \
                     a token could not be found out from here)"
                ),
            },
            Self::TargetAway {
                target, message, ..
            } => write!(f, "target      {target} {message}"),
            Self::TargetBack { target, .. } => write!(f, "target      {target} is back"),
            Self::TunnelRefused {
                tunnel,
                target,
                message,
                is_final,
                ..
            } => {
                write!(f, "refused     {tunnel}  {message}  -> {target}")?;
                f.write_str(if *is_final { "" } else { "  (tried again)" })
            }
            Self::Renewed {
                tunnel,
                expires_in_s,
                ..
            } => write!(
                f,
                "{tunnel} may stay up for another {}",
                Span((*expires_in_s).into())
            ),
            Self::Ending {
                tunnel,
                expires_in_s,
                message,
                ..
            } => {
                let left = Span(*expires_in_s);
                write!(f, "the permission for {tunnel} ends in {left}: {message}")
            }
            Self::GoingAway { reason, .. } => {
                write!(
                    f,
                    "the relay asks for a new link ({reason}); running sessions go on"
                )
            }
            Self::Disconnected {
                message, retry_ms, ..
            } => {
                write!(f, "disconnected: {message}; next attempt in ")?;
                write!(f, "{}.{} s", retry_ms / 1_000, retry_ms % 1_000 / 100)
            }
            Self::Refused { message, .. }
            | Self::Superseded { message }
            | Self::Failed { message, .. } => f.write_str(message),
            Self::StandingBy => {
                f.write_str("another run of this agent took over; waiting for its end")
            }
            Self::Stopping { drain_ms, .. } => write!(
                f,
                "stopping: calls in flight have {} s to finish; the same signal again ends them",
                drain_ms.div_ceil(1_000)
            ),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

/// Seconds, in words for people.
pub(crate) struct Span(pub(crate) u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (minutes, seconds) = (self.0 / 60, self.0 % 60);
        match (minutes / 60, minutes % 60) {
            (0, 0) => write!(f, "{seconds} s"),
            (0, minutes) => write!(f, "{minutes} min {seconds} s"),
            (hours, minutes) => write!(f, "{hours} h {minutes} min"),
        }
    }
}

/// A caller's function that is told every event.
///
/// It runs inside the agent's tasks, so it must not block: hand long work to a channel.
#[derive(Clone, Default)]
pub(crate) struct EventHook(Option<Arc<Hook>>);

type Hook = dyn Fn(&AgentEvent) + Send + Sync;

impl EventHook {
    pub(crate) fn new(hook: impl Fn(&AgentEvent) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    pub(crate) fn tell(&self, event: &AgentEvent) {
        tracing::debug!(?event, "agent");
        if let Some(hook) = &self.0 {
            hook(event);
        }
    }
}

impl fmt::Debug for EventHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "EventHook(set)"
        } else {
            "EventHook(none)"
        })
    }
}

#[cfg(test)]
mod tests {
    use tieline_wire::Reason;

    use super::*;

    #[test]
    fn an_event_is_one_flat_json_object() {
        let event = AgentEvent::Registered {
            link: 0,
            tunnel: "maya-1".to_owned(),
            url: "http://r/w/maya-1".to_owned(),
            urls: vec!["http://r/w/maya-1".to_owned()],
            generation: 7,
            target: "127.0.0.1:1".to_owned(),
        };
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"event":"registered","link":0,"tunnel":"maya-1","url":"http://r/w/maya-1","urls":["http://r/w/maya-1"],"generation":"7","target":"127.0.0.1:1"}"#
        );
        let event = AgentEvent::Disconnected {
            link: 0,
            reason: "link_lost",
            message: "cut".to_owned(),
            retry_ms: 1_250,
        };
        assert_eq!(
            event.to_string(),
            "disconnected: cut; next attempt in 1.2 s"
        );
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"event":"disconnected","link":0,"reason":"link_lost","message":"cut","retry_ms":1250}"#
        );
    }

    #[test]
    fn a_person_is_told_every_url_and_none_of_a_raw_target() {
        let registered = |urls: &[&str], target: &str| {
            let urls: Vec<_> = urls.iter().map(|&url| url.to_owned()).collect();
            let event = AgentEvent::Registered {
                link: 0,
                tunnel: "maya".to_owned(),
                url: urls.first().cloned().unwrap_or_default(),
                urls,
                generation: 1,
                target: target.to_owned(),
            };
            event.to_string()
        };
        let both = ["http://maya.r/mcp", "http://r/w/maya/mcp"];
        assert_eq!(
            registered(&both, "http://127.0.0.1:1/mcp"),
            "registered  maya  http://maya.r/mcp  or http://r/w/maya/mcp"
        );
        assert_eq!(
            registered(&both, "127.0.0.1:1"),
            "registered  maya  raw TCP"
        );
        assert_eq!(registered(&[], "http://127.0.0.1:1"), "registered  maya");
    }

    #[test]
    fn spans_read_well() {
        assert_eq!(Span(59).to_string(), "59 s");
        assert_eq!(Span(61).to_string(), "1 min 1 s");
        assert_eq!(Span(7_260).to_string(), "2 h 1 min");
    }

    #[test]
    fn the_last_event_tells_takeover_refusal_and_failure_apart() {
        let of = |reason| AgentEvent::ended_by(&Error::refused(reason, String::new()));
        assert!(matches!(
            of(Reason::Superseded),
            AgentEvent::Superseded { .. }
        ));
        assert!(matches!(
            of(Reason::NameTaken),
            AgentEvent::Refused {
                reason: "name_taken",
                ..
            }
        ));
        assert!(matches!(
            of(Reason::Overload),
            AgentEvent::Failed {
                reason: "overload",
                ..
            }
        ));
    }
}
