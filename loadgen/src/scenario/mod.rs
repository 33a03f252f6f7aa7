//! Runs the same load over each path, in interleaved rounds.

pub(crate) mod bench;
mod bulk;
mod connect;
mod connection;
mod descriptors;
mod failure;
mod http;
mod load;
pub(crate) mod measure;
mod poller;
mod round_trips;
pub(crate) mod rounds;
pub(crate) mod scaling;
mod seat;
mod share;
pub(crate) mod single;
mod streams;

use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::histogram::Recorder;
use crate::path::{PathKind, Role};

pub(crate) use descriptors::LeftOut;
pub(crate) use load::{
    CONNECTIONS_MAX, Direction, Messages, Pacing, SMALL_MESSAGE_BYTES, Scenario, ScenarioError,
};

/// Number of rounds, durations and seed of a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Method {
    /// Rounds; in each, every path is measured once.
    pub(crate) rounds: usize,
    /// Unmeasured load before the measurement, in seconds.
    pub(crate) warm_up_s: f64,
    /// Measured time per path and round, in seconds.
    pub(crate) measured_s: f64,
    /// Generator threads.
    pub(crate) threads: usize,
    /// Most rounds of a scenario that are repeated because other processes used the machine.
    pub(crate) repeat_noisy: usize,
    /// Seed of the random order of the paths.
    pub(crate) seed: u64,
}

/// Measurement of one path in one round.
#[derive(Clone, Debug)]
pub(crate) struct Measurement {
    pub(crate) path: PathKind,
    /// Position in the random order of the round.
    pub(crate) position: usize,
    /// Start of the measured part.
    pub(crate) started: SystemTime,
    /// Duration of the measured part.
    pub(crate) length: Duration,
    /// Latencies and counts that the worker threads recorded.
    pub(crate) tally: Recorder,
    /// Whether every process between client and target is known.
    pub(crate) hops_known: bool,
    /// CPU time of each known process in the measured part.
    pub(crate) cpu: Vec<(Role, Duration)>,
    /// Resident memory of each known process in KiB, at the end of the measured part; for idle sessions, in its middle.
    pub(crate) memory_kib: Vec<(Role, u64)>,
    /// Resident memory in KiB before the connections were opened; for idle sessions and streams only.
    pub(crate) memory_before_kib: Vec<(Role, u64)>,
    /// Share of the machine that other processes used, 0 to 1.
    pub(crate) others_share: f64,
    /// Share of the machine that the hypervisor gave to other guests, 0 to 1.
    pub(crate) stolen_share: f64,
}

/// Largest share of the machine that other processes may use in a round that does not count as noisy.
///
/// The kernel samples the machine's busy time at timer ticks but counts a process's time exactly, so
/// even a quiet machine shows a few percent.
const OTHERS_SHARE_MAX: f64 = 0.10;

/// Largest share of the machine that the hypervisor may take in a round that does not count as noisy.
const STOLEN_SHARE_MAX: f64 = 0.03;

impl Measurement {
    /// Whether other processes or the hypervisor took so much that the round is doubtful.
    pub(crate) fn is_noisy(&self) -> bool {
        self.others_share > OTHERS_SHARE_MAX || self.stolen_share > STOLEN_SHARE_MAX
    }
}

/// All rounds of one scenario.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) scenario: Scenario,
    /// The rounds; each has one measurement per path.
    pub(crate) rounds: Vec<Vec<Measurement>>,
    /// Paths that cannot carry this scenario on this machine.
    pub(crate) left_out: Vec<LeftOut>,
    /// Number of rounds that were discarded and repeated because they were noisy.
    pub(crate) repeated: usize,
}
