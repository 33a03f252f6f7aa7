//! Parses short names of scenarios.

use std::str::FromStr;

use super::{
    CONNECTIONS_MAX, Direction, MESSAGE_BYTES_MAX, Messages, Pacing, STREAMS_MAX, Scenario, Shake,
};

/// Error in the name or the parameters of a scenario.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum ScenarioError {
    /// The name has none of the known forms.
    #[error(
        "`{0}` is not a scenario: write CONNECTIONSxBYTES for a closed loop (64x256), \
         CONNECTIONSxBYTES@RATE for an open loop (16x256@3000), bulk-up-N, bulk-down-N, \
         bulk-both-N, connect-N, idle-N, fanout-CONNECTIONSxBYTES or \
         mixed-CONNECTIONSxBYTES@RATE, with +KBIT for a download of so many kbit/s; over HTTP calls-N, events-N@RATE or streams-N; over TLS \
         handshakes-x25519-N, handshakes-x25519mlkem768-N or handshakes-resumed-N"
    )]
    Shape(String),
    /// Too few or too many connections.
    #[error("{0} connections: give 1 to {CONNECTIONS_MAX}")]
    Connections(usize),
    /// Too few or too many bulk transfers.
    #[error("{0} bulk transfers at once: give 1 to {STREAMS_MAX}")]
    Streams(usize),
    /// Message too small or too large.
    #[error("messages of {0} bytes: give 1 to {MESSAGE_BYTES_MAX}")]
    Size(usize),
    /// An open loop with a rate of 0.
    #[error("a rate of 0 sends nothing: give at least 1 request or kbit per second")]
    Rate,
}

impl FromStr for Scenario {
    type Err = ScenarioError;

    fn from_str(text: &str) -> Result<Self, ScenarioError> {
        parse(text)
            .ok_or_else(|| ScenarioError::Shape(text.to_owned()))?
            .checked()
    }
}

fn parse(text: &str) -> Option<Scenario> {
    let Some((kind, rest)) = text.split_once('-') else {
        let (messages, rate) = parse_messages(text)?;
        let pacing = rate.map_or(Pacing::Closed, |requests_per_s| Pacing::Open {
            requests_per_s,
        });
        return Some(Scenario::RoundTrips { messages, pacing });
    };
    Some(match kind {
        "bulk" => {
            let (word, connections) = rest.split_once('-')?;
            let directions = [Direction::Up, Direction::Down, Direction::Both];
            Scenario::Bulk {
                direction: directions.into_iter().find(|way| way.word() == word)?,
                connections: connections.parse().ok()?,
            }
        }
        "connect" => Scenario::Connect {
            at_once: rest.parse().ok()?,
        },
        "idle" => Scenario::Idle {
            sessions: rest.parse().ok()?,
        },
        "calls" => Scenario::Calls {
            connections: rest.parse().ok()?,
        },
        "events" => {
            let (connections, rate) = rest.split_once('@')?;
            Scenario::FirstEvents {
                connections: connections.parse().ok()?,
                requests_per_s: rate.parse().ok()?,
            }
        }
        "streams" => Scenario::Streams {
            streams: rest.parse().ok()?,
        },
        "handshakes" => {
            let (word, at_once) = rest.split_once('-')?;
            Scenario::Handshakes {
                shake: Shake::ALL.into_iter().find(|it| it.word() == word)?,
                at_once: at_once.parse().ok()?,
            }
        }
        "fanout" => match parse_messages(rest)? {
            (messages, None) => Scenario::Fanout { messages },
            (_, Some(_)) => return None,
        },
        "mixed" => {
            let (rest, bulk_kbit) = match rest.split_once('+') {
                Some((rest, kbit)) => (rest, Some(kbit.parse().ok()?)),
                None => (rest, None),
            };
            let (messages, rate) = parse_messages(rest)?;
            Scenario::Mixed {
                messages,
                requests_per_s: rate?,
                bulk_kbit,
            }
        }
        _ => return None,
    })
}

/// Parses `CONNECTIONSxBYTES` with an optional `@RATE`.
fn parse_messages(text: &str) -> Option<(Messages, Option<u32>)> {
    let (connections, rest) = text.split_once('x')?;
    let (bytes, rate) = match rest.split_once('@') {
        Some((bytes, rate)) => (bytes, Some(rate.parse().ok()?)),
        None => (rest, None),
    };
    let messages = Messages {
        connections: connections.parse().ok()?,
        bytes: bytes.parse().ok()?,
    };
    Some((messages, rate))
}
