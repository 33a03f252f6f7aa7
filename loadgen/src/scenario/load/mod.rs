//! The loads: what each does, its short name, its limits.

mod parse;

use std::fmt;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::exchange;
pub(crate) use parse::ScenarioError;

/// Most connections of one load: they all come from one address, which has 28,000 ports to connect
/// from (`net.ipv4.ip_local_port_range`), and some of those wait to be free again.
pub(crate) const CONNECTIONS_MAX: usize = 25_000;

/// Most connections of a bulk transfer: each numbers its blocks with its own number.
pub(crate) const STREAMS_MAX: usize = 1_024;

/// Largest message, in bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// When the next request is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Pacing {
    /// As soon as the answer to the last one is complete, on each connection.
    Closed,
    /// At a constant rate over all connections, whatever became of the ones before.
    Open {
        /// Requests per second.
        requests_per_s: u32,
    },
}

/// Which way the bytes of a bulk transfer flow, seen from the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Direction {
    /// Client to target.
    Up,
    /// Target to client.
    Down,
    /// Both at once on each connection.
    Both,
}

/// Messages over connections that stay.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Messages {
    /// Connections at once.
    pub(crate) connections: usize,
    /// Bytes of each message, and of each answer.
    pub(crate) bytes: usize,
}

/// One load.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scenario {
    /// Messages that are sent back.
    RoundTrips {
        /// How many and how large.
        messages: Messages,
        /// When they are sent.
        pacing: Pacing,
    },
    /// As many bytes as fit.
    Bulk {
        /// Which way.
        direction: Direction,
        /// Connections at once.
        connections: usize,
    },
    /// New connections, each with one small round trip, one after the other.
    Connect {
        /// Connections at once.
        at_once: usize,
    },
    /// Connections that stay and do nothing.
    Idle {
        /// How many.
        sessions: usize,
    },
    /// A message on every connection at the same moment, again and again.
    Fanout {
        /// How many and how large.
        messages: Messages,
    },
    /// Messages at a constant rate beside one bulk download on the same tunnel.
    Mixed {
        /// How many and how large.
        messages: Messages,
        /// Their rate.
        requests_per_s: u32,
    },
    /// Calls over HTTP that are answered with JSON, on connections that are kept.
    Calls {
        /// Connections at once.
        connections: usize,
    },
    /// Calls over HTTP at a constant rate that are answered with a stream of events: up to the
    /// first one.
    FirstEvents {
        /// Connections at once.
        connections: usize,
        /// Calls per second.
        requests_per_s: u32,
    },
    /// Streams of events over HTTP that stay open.
    Streams {
        /// How many.
        streams: usize,
    },
}

/// Bytes of the message of a new or an idle connection.
pub(crate) const SMALL_MESSAGE_BYTES: usize = 64;

impl Scenario {
    /// Short name for files and for `--scenario`: `64x256`, `16x256@3000`, `bulk-up-8`.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::RoundTrips { messages, pacing } => match pacing {
                Pacing::Closed => messages.to_string(),
                Pacing::Open { requests_per_s } => format!("{messages}@{requests_per_s}"),
            },
            Self::Bulk {
                direction,
                connections,
            } => format!("bulk-{}-{connections}", direction.word()),
            Self::Connect { at_once } => format!("connect-{at_once}"),
            Self::Idle { sessions } => format!("idle-{sessions}"),
            Self::Fanout { messages } => format!("fanout-{messages}"),
            Self::Mixed {
                messages,
                requests_per_s,
            } => format!("mixed-{messages}@{requests_per_s}"),
            Self::Calls { connections } => format!("calls-{connections}"),
            Self::FirstEvents {
                connections,
                requests_per_s,
            } => format!("events-{connections}@{requests_per_s}"),
            Self::Streams { streams } => format!("streams-{streams}"),
        }
    }

    /// Word for the kind of load.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::RoundTrips { .. } => "rtt",
            Self::Bulk { .. } => "bulk",
            Self::Connect { .. } => "connect",
            Self::Idle { .. } => "idle",
            Self::Fanout { .. } => "fanout",
            Self::Mixed { .. } => "mixed",
            Self::Calls { .. } => "calls",
            Self::FirstEvents { .. } => "events",
            Self::Streams { .. } => "streams",
        }
    }

    /// Connections that are open at once.
    pub(crate) fn connections(&self) -> usize {
        match *self {
            Self::RoundTrips { messages, .. } | Self::Fanout { messages } => messages.connections,
            Self::Bulk { connections, .. }
            | Self::Calls { connections }
            | Self::FirstEvents { connections, .. } => connections,
            Self::Streams { streams } => streams,
            Self::Connect { at_once } => at_once,
            Self::Idle { sessions } => sessions,
            // The bulk download comes on top.
            Self::Mixed { messages, .. } => messages.connections + 1,
        }
    }

    /// Whether it is said over HTTP: then it needs a target that speaks it.
    pub(crate) fn is_http(&self) -> bool {
        matches!(
            self,
            Self::Calls { .. } | Self::FirstEvents { .. } | Self::Streams { .. }
        )
    }

    /// Whether it tells the memory that connections need, which fresh processes show.
    pub(crate) fn grows_memory(&self) -> bool {
        matches!(self, Self::Idle { .. } | Self::Streams { .. })
    }

    /// Bytes of each message; none where there are no messages.
    pub(crate) fn message_bytes(&self) -> usize {
        match *self {
            Self::RoundTrips { messages, .. }
            | Self::Fanout { messages }
            | Self::Mixed { messages, .. } => messages.bytes,
            Self::Connect { .. } | Self::Idle { .. } => SMALL_MESSAGE_BYTES,
            Self::Calls { .. } | Self::FirstEvents { .. } | Self::Streams { .. } => {
                exchange::TEXT_BYTES
            }
            Self::Bulk { .. } => 0,
        }
    }

    /// Requests per second, where that is given.
    pub(crate) fn rate(&self) -> Option<u32> {
        match *self {
            Self::RoundTrips {
                pacing: Pacing::Open { requests_per_s },
                ..
            }
            | Self::Mixed { requests_per_s, .. }
            | Self::FirstEvents { requests_per_s, .. } => Some(requests_per_s),
            _ => None,
        }
    }

    /// Checks the limits.
    pub(crate) fn checked(self) -> Result<Self, ScenarioError> {
        if !(1..=CONNECTIONS_MAX).contains(&self.connections()) {
            return Err(ScenarioError::Connections(self.connections()));
        }
        let is_bulk = matches!(self, Self::Bulk { .. });
        if is_bulk && self.connections() > STREAMS_MAX {
            return Err(ScenarioError::Streams(self.connections()));
        }
        if !is_bulk && !(1..=MESSAGE_BYTES_MAX).contains(&self.message_bytes()) {
            return Err(ScenarioError::Size(self.message_bytes()));
        }
        if self.rate() == Some(0) {
            return Err(ScenarioError::Rate);
        }
        Ok(self)
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: usize, word: &str| {
            let ending = if count == 1 { "" } else { "s" };
            format!("{count} {word}{ending}")
        };
        let described = |messages: &Messages| {
            let connections = plural(messages.connections, "connection");
            format!("{connections} x {} B", messages.bytes)
        };
        match self {
            Self::RoundTrips { messages, pacing } => {
                write!(f, "{}, ", described(messages))?;
                match pacing {
                    Pacing::Closed => write!(f, "closed loop"),
                    Pacing::Open { requests_per_s } => write!(f, "open loop at {requests_per_s}/s"),
                }
            }
            Self::Bulk {
                direction,
                connections,
            } => {
                let way = match direction {
                    Direction::Up => "up",
                    Direction::Down => "down",
                    Direction::Both => "up and down at once",
                };
                write!(f, "bulk {way}, {}", plural(*connections, "connection"))
            }
            Self::Connect { at_once } => write!(
                f,
                "new connections with a first answer of {SMALL_MESSAGE_BYTES} B, {at_once} at a time"
            ),
            Self::Idle { sessions } => write!(f, "{}", plural(*sessions, "idle session")),
            Self::Fanout { messages } => {
                write!(f, "bursts over all of {}", described(messages))
            }
            Self::Mixed {
                messages,
                requests_per_s,
            } => write!(
                f,
                "{} at {requests_per_s}/s beside a bulk download",
                described(messages)
            ),
            Self::Calls { connections } => write!(
                f,
                "tools/call over HTTP, {}, closed loop",
                plural(*connections, "connection")
            ),
            Self::FirstEvents {
                connections,
                requests_per_s,
            } => write!(
                f,
                "first event of an answer, {} at {requests_per_s}/s",
                plural(*connections, "connection")
            ),
            Self::Streams { streams } => write!(f, "{}", plural(*streams, "open event stream")),
        }
    }
}

impl Serialize for Scenario {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &self.name())?;
        map.serialize_entry("kind", self.kind())?;
        map.serialize_entry("connections", &self.connections())?;
        if self.message_bytes() > 0 {
            map.serialize_entry("message_bytes", &self.message_bytes())?;
        }
        if let Self::Bulk { direction, .. } = self {
            map.serialize_entry("direction", direction.word())?;
        }
        if let Some(rate) = self.rate() {
            map.serialize_entry("requests_per_s", &rate)?;
        }
        map.end()
    }
}

impl Direction {
    /// As it stands in names.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Both => "both",
        }
    }
}

impl fmt::Display for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.connections, self.bytes)
    }
}

#[cfg(test)]
mod tests;
