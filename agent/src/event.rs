//! Events that an agent reports while it runs: as JSON to a program, as one line to a person.
//! Long because each event stands beside its fields and its text.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::error::Error;

/// An event of a running agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum AgentEvent {
    /// The relay is being dialled.
    Connecting {
        /// Index of the agent's link, from 0.
        link: u16,
        /// Address of the relay.
        relay: String,
    },
    /// The tunnel is up: its URL works from now on.
    Registered {
        /// Index of the agent's link, from 0.
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
        /// The target that the tunnel leads to.
        target: String,
        /// What the link is over: `tcp`, `tls`, `ws`, `wss` or `quic`.
        transport: &'static str,
    },
    /// A link has a tunnel over another transport than the link before it: it went from a WebSocket to QUIC, or back.
    TransportChanged {
        /// Index of the agent's link, from 0.
        link: u16,
        /// What the link is over now: `wss` or `quic`.
        transport: &'static str,
    },
    /// Result of a look at a target after its tunnel came up. The program `tieline` sends this event, the library
    /// does not.
    Target {
        /// The tunnel's name.
        tunnel: String,
        /// The target.
        target: String,
        /// Result of the look, in one stable word.
        state: &'static str,
        /// True if callers can use the target.
        is_good: bool,
        /// Result of the look, in a sentence that says what to do.
        message: String,
        /// Name that the MCP server reports.
        #[serde(skip_serializing_if = "Option::is_none")]
        server: Option<String>,
        /// Version that the MCP server reports.
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<String>,
    },
    /// What callers of the relay need. The program `tieline` sends this event, the library does not.
    Callers {
        /// The tunnel that serves as the example for callers.
        tunnel: String,
        /// URL of the example tunnel.
        url: String,
        /// The relay's address for callers; empty if no URL of the tunnel contains it.
        relay: String,
        /// Whether the relay asks callers for a token.
        token: CallerToken,
        /// Flags that `tieline init` needs besides the tunnel's name; empty for the usual target.
        #[serde(skip)]
        init_flags: String,
        /// Flags that `tieline connect` needs besides the relay and the token; empty for a public certificate and no
        /// proxy.
        #[serde(skip)]
        connect_flags: String,
    },
    /// A session could not reach a target; sent once until the target takes connections again.
    TargetAway {
        /// The target.
        target: String,
        /// Result of the connection attempt, in one stable word.
        state: &'static str,
        /// Result of the connection attempt and its effect on callers, in a sentence.
        message: String,
    },
    /// A target takes connections again.
    TargetBack {
        /// The target.
        target: String,
        /// Seconds during which the target did not take connections.
        away_s: u64,
    },
    /// A process of a target's program was started.
    ChildStarted {
        /// The target.
        target: String,
        /// Number of the process in this run, from 1.
        child: u64,
        /// The system's id of the process; `None` if it has ended already.
        pid: Option<u32>,
    },
    /// A process of a target's program has ended.
    ChildEnded {
        /// The target.
        target: String,
        /// Number of the process in this run.
        child: u64,
        /// How the process ended, as the end of a sentence.
        message: String,
        /// The last line that the process wrote to standard error.
        #[serde(skip_serializing_if = "Option::is_none")]
        last_line: Option<String>,
        /// True if the agent has asked the process to end, for example because no caller used it.
        is_asked: bool,
    },
    /// A target's program cannot be started, or ends again and again right after its start, and is not started for a
    /// while.
    ChildFailed {
        /// The target.
        target: String,
        /// Reason of the failure.
        message: String,
        /// Seconds during which the program is not started; callers get 503.
        for_s: u64,
    },
    /// A process of a target's program wrote a line to standard output that is not a message of JSON-RPC; sent at most
    /// once a minute for each target.
    StrayLine {
        /// The target.
        target: String,
        /// Number of the process in this run.
        child: u64,
        /// Beginning of the line.
        line: String,
        /// Number of such lines between the last event and this one.
        untold: u64,
    },
    /// The relay refuses a target's tunnel or takes it back, while other targets of the agent may keep theirs.
    TunnelRefused {
        /// Index of the agent's link, from 0.
        link: u16,
        /// The tunnel's name.
        tunnel: String,
        /// The target.
        target: String,
        /// Reason of the refusal, in one stable word.
        reason: &'static str,
        /// Reason of the refusal, in a sentence.
        message: String,
        /// True if another attempt cannot succeed; otherwise the agent asks again.
        is_final: bool,
    },
    /// A tunnel's permission was extended in time, with a fresh token from the token file.
    Renewed {
        /// Index of the agent's link, from 0.
        link: u16,
        /// The tunnel's name.
        tunnel: String,
        /// The target that the tunnel leads to.
        target: String,
        /// Seconds until the new permission ends; 0 means that it does not end.
        expires_in_s: u32,
    },
    /// A tunnel's permission will end, and could not be renewed yet.
    Ending {
        /// Index of the agent's link, from 0.
        link: u16,
        /// The tunnel's name.
        tunnel: String,
        /// The target that the tunnel leads to.
        target: String,
        /// Seconds until the permission ends.
        expires_in_s: u64,
        /// Why the permission was not renewed, in one stable word.
        reason: &'static str,
        /// Why the permission was not renewed, in a sentence.
        message: String,
    },
    /// The relay asks the agent to move to a new link; sessions on the old link go on meanwhile.
    GoingAway {
        /// Index of the agent's link, from 0.
        link: u16,
        /// Reason of the relay, in one stable word.
        reason: &'static str,
        /// Explanation from the relay; may be empty.
        message: String,
    },
    /// A link ended or could not be made; the agent will dial again.
    Disconnected {
        /// Index of the agent's link, from 0.
        link: u16,
        /// Reason of the disconnect, in one stable word.
        reason: &'static str,
        /// Reason of the disconnect, in a sentence.
        message: String,
        /// Wait before the next attempt, in milliseconds.
        retry_ms: u64,
    },
    /// The relay refused the agent for good; the agent ends.
    Refused {
        /// Reason of the refusal, in one stable word.
        reason: &'static str,
        /// Reason of the refusal, in a sentence.
        message: String,
    },
    /// A newer run of this agent took over; this run ends.
    Superseded {
        /// The takeover, in a sentence.
        message: String,
    },
    /// A newer run of this agent took over; this run waits until the newer run ends.
    StandingBy,
    /// The agent failed and ends.
    Failed {
        /// Reason of the failure, in one stable word.
        reason: &'static str,
        /// Reason of the failure, in a sentence.
        message: String,
    },
    /// The agent was asked to stop: it takes no new calls and waits for the calls in flight.
    Stopping {
        /// Number of open sessions; those without a call in flight end at once.
        sessions: usize,
        /// Longest wait for the calls in flight, in milliseconds.
        drain_ms: u64,
    },
    /// The agent has stopped, as asked.
    Stopped,
}

/// Whether a relay asks callers for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CallerToken {
    /// The relay asks callers for a token.
    Needed,
    /// The relay does not ask callers for a token.
    NotNeeded,
    /// The agent could not find out whether the relay asks callers for a token.
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
            Error::Refused { .. } | Error::LinkRefused { .. } | Error::Link { .. }
                if error.is_final() =>
            {
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
            Self::Registered {
                tunnel,
                url,
                urls,
                target,
                ..
            } => write_registered(f, tunnel, target, url, urls),
            Self::TransportChanged { link, transport } => {
                write!(f, "link {link} goes over {transport} now")
            }
            Self::Target { message, .. } => write!(f, "target      {message}"),
            Self::Callers { .. } => write_callers(f, self),
            Self::TargetAway {
                target, message, ..
            } => write!(f, "target      {target} {message}"),
            Self::TargetBack { target, .. } => write!(f, "target      {target} is back"),
            Self::ChildStarted { .. }
            | Self::ChildEnded { .. }
            | Self::ChildFailed { .. }
            | Self::StrayLine { .. } => write_program(f, self),
            Self::TunnelRefused {
                tunnel,
                target,
                message,
                is_final,
                ..
            } => write_refused(f, tunnel, target, message, *is_final),
            Self::Renewed {
                tunnel,
                expires_in_s,
                ..
            } => {
                let left = Span((*expires_in_s).into());
                write!(f, "{tunnel} may stay up for another {left}")
            }
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
            } => write_disconnected(f, message, *retry_ms),
            Self::Refused { message, .. }
            | Self::Superseded { message }
            | Self::Failed { message, .. } => f.write_str(message),
            Self::StandingBy => {
                f.write_str("another run of this agent took over; waiting for its end")
            }
            Self::Stopping { drain_ms, .. } => write!(
                f,
                "stopping: calls in flight have {} s to finish; a second signal ends them",
                drain_ms.div_ceil(1_000)
            ),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

/// Writes that a tunnel is up, with its URLs if it has any.
fn write_registered(
    f: &mut fmt::Formatter<'_>,
    tunnel: &str,
    target: &str,
    url: &str,
    urls: &[String],
) -> fmt::Result {
    write!(f, "registered  {tunnel}")?;
    if is_raw(target) {
        return f.write_str("  raw TCP");
    }
    if url.is_empty() {
        return Ok(());
    }
    write!(f, "  {url}")?;
    // Printed too, since DNS may not resolve the tunnel's own host name to the relay.
    let mut others = urls.iter().filter(|it| *it != url);
    others.try_for_each(|other| write!(f, "  or {other}"))
}

/// Writes that the relay refuses a target's tunnel, and whether the agent asks again.
fn write_refused(
    f: &mut fmt::Formatter<'_>,
    tunnel: &str,
    target: &str,
    message: &str,
    is_final: bool,
) -> fmt::Result {
    let next = match is_final {
        true => "",
        false => "  (will be tried again)",
    };
    write!(f, "refused     {tunnel}  {message}  -> {target}{next}")
}

/// Writes what happened to a process of a program.
fn write_program(f: &mut fmt::Formatter<'_>, event: &AgentEvent) -> fmt::Result {
    match event {
        AgentEvent::ChildStarted { target, pid, .. } => {
            write!(f, "program     {target} started")?;
            pid.map_or(Ok(()), |pid| write!(f, " as process {pid}"))
        }
        AgentEvent::ChildEnded {
            target,
            message,
            last_line,
            is_asked,
            ..
        } => {
            write!(f, "program     {target} {message}")?;
            match last_line {
                _ if *is_asked => f.write_str(", as asked"),
                Some(line) => write!(f, ": {line}"),
                None => Ok(()),
            }
        }
        AgentEvent::ChildFailed {
            target,
            message,
            for_s,
        } => write!(
            f,
            "program     {target} has failed: {message}; callers get 503 for {}",
            Span(*for_s)
        ),
        AgentEvent::StrayLine {
            target,
            line,
            untold,
            ..
        } => {
            write!(
                f,
                "program     {target} writes to standard output what is not a message of MCP: {line}"
            )?;
            match untold {
                0 => Ok(()),
                more => write!(f, " (and {more} more)"),
            }
        }
        _ => Ok(()),
    }
}

/// Writes that a link is gone, and when the agent dials again.
fn write_disconnected(f: &mut fmt::Formatter<'_>, message: &str, retry_ms: u64) -> fmt::Result {
    let (seconds, tenths) = (retry_ms / 1_000, retry_ms % 1_000 / 100);
    write!(
        f,
        "disconnected: {message}; next attempt in {seconds}.{tenths} s"
    )
}

/// Writes what callers need: the commands to give on a caller's machine for the example tunnel.
fn write_callers(f: &mut fmt::Formatter<'_>, event: &AgentEvent) -> fmt::Result {
    let AgentEvent::Callers {
        tunnel,
        url,
        relay,
        token,
        init_flags,
        connect_flags,
    } = event
    else {
        return Ok(());
    };
    match token {
        CallerToken::Needed => write!(
            f,
            "callers     need a token of this relay. On a caller's machine: tieline connect \
             --relay {relay}{connect_flags} --token-file FILE, then tieline init --tunnel {tunnel}{init_flags}"
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
    }
}

/// A number of seconds, printed in hours, minutes and seconds.
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

/// Function of the embedding program that is called with every event.
///
/// The function runs inside the agent's tasks, so it must not block; long work belongs behind a channel.
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

/// True if `target`, in its printed form, is a target of raw bytes.
#[must_use]
pub fn is_raw(target: &str) -> bool {
    !target.contains("://") && !target.starts_with("stdio:")
}

#[cfg(test)]
mod tests {
    use tieline_wire::RefusalReason;

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
            transport: "quic",
        };
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"event":"registered","link":0,"tunnel":"maya-1","url":"http://r/w/maya-1","urls":["http://r/w/maya-1"],"generation":"7","target":"127.0.0.1:1","transport":"quic"}"#
        );
        let event = AgentEvent::TransportChanged {
            link: 0,
            transport: "quic",
        };
        assert_eq!(event.to_string(), "link 0 goes over quic now");
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"event":"transport_changed","link":0,"transport":"quic"}"#
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
                transport: "tls",
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
        assert!(registered(&both, "stdio:server x").contains("http://r/w/maya/mcp"));
        assert_eq!(registered(&[], "http://127.0.0.1:1"), "registered  maya");
    }

    #[test]
    fn what_happens_to_a_program_reads_well() {
        let target = || "stdio:server".to_owned();
        let started = AgentEvent::ChildStarted {
            target: target(),
            child: 1,
            pid: Some(77),
        };
        let words = "program     stdio:server started as process 77";
        assert_eq!(started.to_string(), words);
        assert_eq!(
            serde_json::to_string(&started).unwrap(),
            r#"{"event":"child_started","target":"stdio:server","child":1,"pid":77}"#
        );
        let ended = |last_line: Option<&str>, is_asked| {
            let event = AgentEvent::ChildEnded {
                target: target(),
                child: 1,
                message: "ended with exit code 1".to_owned(),
                last_line: last_line.map(str::to_owned),
                is_asked,
            };
            event.to_string()
        };
        let words = "program     stdio:server ended with exit code 1";
        assert_eq!(ended(None, false), words);
        assert_eq!(ended(Some("no key"), false), format!("{words}: no key"));
        assert_eq!(ended(Some("bye"), true), format!("{words}, as asked"));
        let failed = AgentEvent::ChildFailed {
            target: target(),
            message: "ended with exit code 1".to_owned(),
            for_s: 60,
        };
        let text = failed.to_string();
        assert!(text.ends_with("callers get 503 for 1 min 0 s"), "{text}");
        let stray = |untold| {
            let event = AgentEvent::StrayLine {
                target: target(),
                child: 1,
                line: "Listening".to_owned(),
                untold,
            };
            event.to_string()
        };
        assert!(stray(0).ends_with(": Listening"), "{}", stray(0));
        assert!(stray(2).ends_with(": Listening (and 2 more)"));
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
            of(RefusalReason::Superseded),
            AgentEvent::Superseded { .. }
        ));
        assert!(matches!(
            of(RefusalReason::NameTaken),
            AgentEvent::Refused {
                reason: "name_taken",
                ..
            }
        ));
        assert!(matches!(
            of(RefusalReason::Overload),
            AgentEvent::Failed {
                reason: "overload",
                ..
            }
        ));
    }
}
