//! What is run: the same load over each path, in interleaved rounds.

pub(crate) mod bench;
mod connection;
pub(crate) mod measure;
mod round_trips;
pub(crate) mod rounds;
pub(crate) mod single;

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::path::{PathKind, Role};

/// Most connections of one scenario. Two hops need two descriptors each for every one.
pub(crate) const CONNECTIONS_MAX: usize = 9_000;

/// Largest message, in bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// When the next request is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Load {
    /// As soon as the answer to the last one is complete, on each connection.
    Closed,
    /// At a constant rate over all connections, whatever became of the ones before.
    Open {
        /// Requests per second.
        requests_per_s: u32,
    },
}

/// One load.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Scenario {
    /// Connections at once.
    pub(crate) connections: usize,
    /// Bytes of each message, and of each answer.
    pub(crate) message_bytes: usize,
    /// When requests are sent.
    pub(crate) load: Load,
}

impl Scenario {
    /// Short name for files: `64x256`, `16x256@3000`.
    pub(crate) fn name(&self) -> String {
        let shape = format!("{}x{}", self.connections, self.message_bytes);
        match self.load {
            Load::Closed => shape,
            Load::Open { requests_per_s } => format!("{shape}@{requests_per_s}"),
        }
    }

    /// Checks the limits.
    pub(crate) fn checked(self) -> Result<Self, ScenarioError> {
        if !(1..=CONNECTIONS_MAX).contains(&self.connections) {
            return Err(ScenarioError::Connections(self.connections));
        }
        if !(1..=MESSAGE_BYTES_MAX).contains(&self.message_bytes) {
            return Err(ScenarioError::Size(self.message_bytes));
        }
        if self.load == (Load::Open { requests_per_s: 0 }) {
            return Err(ScenarioError::Rate);
        }
        Ok(self)
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.connections == 1 { "" } else { "s" };
        write!(
            f,
            "{} connection{plural} x {} B, ",
            self.connections, self.message_bytes
        )?;
        match self.load {
            Load::Closed => write!(f, "closed loop"),
            Load::Open { requests_per_s } => write!(f, "open loop at {requests_per_s}/s"),
        }
    }
}

/// A load that cannot be run.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum ScenarioError {
    /// Not as documented.
    #[error(
        "`{0}` is not CONNECTIONSxBYTES or CONNECTIONSxBYTES@RATE, such as 64x256 or 16x256@3000"
    )]
    Shape(String),
    /// Too few or too many connections.
    #[error("{0} connections: give 1 to {CONNECTIONS_MAX}")]
    Connections(usize),
    /// Message too small or too large.
    #[error("messages of {0} bytes: give 1 to {MESSAGE_BYTES_MAX}")]
    Size(usize),
    /// An open loop without arrivals.
    #[error("a rate of 0 sends nothing: give at least 1 request per second")]
    Rate,
}

impl FromStr for Scenario {
    type Err = ScenarioError;

    fn from_str(text: &str) -> Result<Self, ScenarioError> {
        let shape = || ScenarioError::Shape(text.to_owned());
        let (connections, rest) = text.split_once('x').ok_or_else(shape)?;
        let (size, rate) = match rest.split_once('@') {
            Some((size, rate)) => (size, Some(rate.parse().map_err(|_| shape())?)),
            None => (rest, None),
        };
        Self {
            connections: connections.parse().map_err(|_| shape())?,
            message_bytes: size.parse().map_err(|_| shape())?,
            load: rate.map_or(Load::Closed, |requests_per_s| Load::Open { requests_per_s }),
        }
        .checked()
    }
}

/// How long and how often.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Method {
    /// Rounds; in each, every path is measured once.
    pub(crate) rounds: usize,
    /// Load before the measurement, in seconds.
    pub(crate) warm_up_s: f64,
    /// Measured time of each path and round, in seconds.
    pub(crate) measured_s: f64,
    /// Threads of the generator.
    pub(crate) threads: usize,
    /// Seed of the order of the paths.
    pub(crate) seed: u64,
}

/// What one path did in one round.
#[derive(Clone, Debug)]
pub(crate) struct Measurement {
    /// The path.
    pub(crate) path: PathKind,
    /// Its place in the order of this round.
    pub(crate) position: usize,
    /// When the measured part began.
    pub(crate) started: SystemTime,
    /// Length of the measured part.
    pub(crate) length: Duration,
    /// Latency in nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// How late the generator itself was, in nanoseconds.
    pub(crate) send_delay: Histogram<u64>,
    /// Answers within the measured part.
    pub(crate) answered: u64,
    /// Requests that never got an answer.
    pub(crate) unanswered: u64,
    /// CPU time of each process in the measured part.
    pub(crate) cpu: Vec<(Role, Duration)>,
    /// Share of the machine that processes other than ours used, 0 to 1.
    pub(crate) others_share: f64,
    /// Share of the machine that the hypervisor gave to somebody else, 0 to 1.
    pub(crate) stolen_share: f64,
}

/// All rounds of one scenario.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The load.
    pub(crate) scenario: Scenario,
    /// The rounds, each with one measurement per path.
    pub(crate) rounds: Vec<Vec<Measurement>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_reads_back_its_own_name() {
        for name in ["1x256", "512x1024", "16x256@3000"] {
            assert_eq!(
                name.parse::<Scenario>().map(|scenario| scenario.name()),
                Ok(name.to_owned())
            );
        }
    }

    #[test]
    fn a_wrong_scenario_says_what_is_expected() {
        for text in ["", "64", "x", "64x", "ax256", "64x256@", "64x256@fast"] {
            assert_eq!(
                text.parse::<Scenario>(),
                Err(ScenarioError::Shape(text.to_owned()))
            );
        }
        assert_eq!(
            "0x1".parse::<Scenario>(),
            Err(ScenarioError::Connections(0))
        );
        assert_eq!("1x0".parse::<Scenario>(), Err(ScenarioError::Size(0)));
        assert_eq!("1x1@0".parse::<Scenario>(), Err(ScenarioError::Rate));
    }
}
