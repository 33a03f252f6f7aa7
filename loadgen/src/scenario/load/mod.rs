//! The scenarios: parameters, short names and limits of each kind of load.

mod parse;

use std::fmt;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::exchange;
use crate::socket::Shake;
pub(crate) use parse::ScenarioError;

/// Most connections of one scenario. They all come from one address, which has 28,000 local ports by
/// default (`net.ipv4.ip_local_port_range`), some of which are in TIME-WAIT.
pub(crate) const CONNECTIONS_MAX: usize = 25_000;

/// Most connections of a bulk transfer; each is one stream with its own stream number.
pub(crate) const STREAMS_MAX: usize = 1_024;

/// Largest message, in bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Rule for when the next request is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Pacing {
    /// Closed loop: each connection sends when its previous answer is complete.
    Closed,
    /// Open loop: at a constant rate over all connections, regardless of earlier answers.
    Open {
        /// Requests per second.
        requests_per_s: u32,
    },
}

/// Direction of a bulk transfer, seen from the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Direction {
    /// Client to target.
    Up,
    /// Target to client.
    Down,
    /// Both directions at once on each connection.
    Both,
}

/// Number and size of messages over kept connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Messages {
    /// Concurrent connections.
    pub(crate) connections: usize,
    /// Bytes of each message, which are also those of its answer.
    pub(crate) bytes: usize,
}

/// A kind of load with its parameters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scenario {
    /// Round trips of echoed messages.
    RoundTrips {
        messages: Messages,
        /// Closed or open loop.
        pacing: Pacing,
    },
    /// Transfer of as many bytes as possible.
    Bulk {
        direction: Direction,
        /// Concurrent connections.
        connections: usize,
    },
    /// New connections, each with one small round trip.
    Connect {
        /// Concurrent connections.
        at_once: usize,
    },
    /// Idle connections that stay open.
    Idle {
        /// Number of connections.
        sessions: usize,
    },
    /// Bursts: a message on every connection at the same moment, repeatedly.
    Fanout { messages: Messages },
    /// Messages at a constant rate, concurrent with one bulk download on the same tunnel.
    Mixed {
        /// Number and size of the small messages.
        messages: Messages,
        /// Rate of the small messages.
        requests_per_s: u32,
        /// Rate of the download in kbit/s; `None` if it is as fast as possible.
        bulk_kbit: Option<u32>,
    },
    /// Calls over HTTP with JSON answers, on kept connections.
    Calls {
        /// Concurrent connections.
        connections: usize,
    },
    /// Calls over HTTP at a constant rate with event stream answers; latency is measured to the first
    /// event.
    FirstEvents {
        /// Concurrent connections.
        connections: usize,
        /// Calls per second.
        requests_per_s: u32,
    },
    /// New connections, each with a TLS handshake and nothing else.
    Handshakes {
        shake: Shake,
        /// Concurrent connections.
        at_once: usize,
    },
    /// Event streams over HTTP that stay open.
    Streams {
        /// Number of streams.
        streams: usize,
    },
}

/// Bytes of the message on a new or an idle connection.
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
                bulk_kbit,
            } => {
                let bulk = bulk_kbit.map(|kbit| format!("+{kbit}")).unwrap_or_default();
                format!("mixed-{messages}@{requests_per_s}{bulk}")
            }
            Self::Calls { connections } => format!("calls-{connections}"),
            Self::FirstEvents {
                connections,
                requests_per_s,
            } => format!("events-{connections}@{requests_per_s}"),
            Self::Streams { streams } => format!("streams-{streams}"),
            Self::Handshakes { shake, at_once } => {
                format!("handshakes-{}-{at_once}", shake.word())
            }
        }
    }

    /// Name of the kind of load, for the JSON report.
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
            Self::Handshakes { .. } => "handshakes",
        }
    }

    /// Number of concurrently open connections.
    pub(crate) fn connections(&self) -> usize {
        match *self {
            Self::RoundTrips { messages, .. } | Self::Fanout { messages } => messages.connections,
            Self::Bulk { connections, .. }
            | Self::Calls { connections }
            | Self::FirstEvents { connections, .. } => connections,
            Self::Streams { streams } => streams,
            Self::Connect { at_once } | Self::Handshakes { at_once, .. } => at_once,
            Self::Idle { sessions } => sessions,
            // One more connection carries the bulk download.
            Self::Mixed { messages, .. } => messages.connections + 1,
        }
    }

    /// Whether the scenario uses HTTP and so needs an HTTP target.
    pub(crate) fn is_http(&self) -> bool {
        matches!(
            self,
            Self::Calls { .. } | Self::FirstEvents { .. } | Self::Streams { .. }
        )
    }

    /// Whether the scenario measures memory growth, which needs fresh processes.
    pub(crate) fn grows_memory(&self) -> bool {
        matches!(self, Self::Idle { .. } | Self::Streams { .. })
    }

    /// Bytes of each message; 0 for bulk and handshakes, which have no messages.
    pub(crate) fn message_bytes(&self) -> usize {
        match *self {
            Self::RoundTrips { messages, .. }
            | Self::Fanout { messages }
            | Self::Mixed { messages, .. } => messages.bytes,
            Self::Connect { .. } | Self::Idle { .. } => SMALL_MESSAGE_BYTES,
            Self::Calls { .. } | Self::FirstEvents { .. } | Self::Streams { .. } => {
                exchange::TEXT_BYTES
            }
            Self::Bulk { .. } | Self::Handshakes { .. } => 0,
        }
    }

    /// Requests per second of an open loop; `None` for other scenarios.
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

    /// Rate of a download beside messages, in kbit/s; `None` if it is as fast as possible, or there is none.
    fn bulk_kbit(&self) -> Option<u32> {
        match *self {
            Self::Mixed { bulk_kbit, .. } => bulk_kbit,
            _ => None,
        }
    }

    /// Returns the scenario if its parameters are within the limits.
    pub(crate) fn checked(self) -> Result<Self, ScenarioError> {
        if !(1..=CONNECTIONS_MAX).contains(&self.connections()) {
            return Err(ScenarioError::Connections(self.connections()));
        }
        let is_bulk = matches!(self, Self::Bulk { .. });
        if is_bulk && self.connections() > STREAMS_MAX {
            return Err(ScenarioError::Streams(self.connections()));
        }
        let has_messages = !is_bulk && !matches!(self, Self::Handshakes { .. });
        if has_messages && !(1..=MESSAGE_BYTES_MAX).contains(&self.message_bytes()) {
            return Err(ScenarioError::Size(self.message_bytes()));
        }
        if self.rate() == Some(0) || self.bulk_kbit() == Some(0) {
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
                bulk_kbit,
            } => {
                let rate = bulk_kbit.map(|kbit| format!(" of {kbit} kbit/s"));
                let (messages, rate) = (described(messages), rate.unwrap_or_default());
                let bulk = format!("beside a bulk download{rate}");
                write!(f, "{messages} at {requests_per_s}/s {bulk}")
            }
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
            Self::Handshakes { shake, at_once } => {
                write!(
                    f,
                    "TLS handshakes, {}, {at_once} at a time",
                    shake.described()
                )
            }
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
        if let Some(kbit) = self.bulk_kbit() {
            map.serialize_entry("bulk_kbit_per_s", &kbit)?;
        }
        map.end()
    }
}

impl Direction {
    /// Word for the direction in scenario names.
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
