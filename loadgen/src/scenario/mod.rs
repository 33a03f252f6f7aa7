//! What is run: the same load over each path, in interleaved rounds.

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
    /// How often at most a round of one scenario is run again because others used the machine.
    pub(crate) repeat_noisy: usize,
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
    /// What the load recorded.
    pub(crate) tally: Recorder,
    /// Whether every process between client and target is known.
    pub(crate) hops_known: bool,
    /// CPU time of each process in the measured part.
    pub(crate) cpu: Vec<(Role, Duration)>,
    /// Resident memory of each process at the end of the measured part, in KiB.
    pub(crate) memory_kib: Vec<(Role, u64)>,
    /// What it was before the connections were opened; idle sessions only.
    pub(crate) memory_before_kib: Vec<(Role, u64)>,
    /// Share of the machine that processes other than ours used, 0 to 1.
    pub(crate) others_share: f64,
    /// Share of the machine that the hypervisor gave to somebody else, 0 to 1.
    pub(crate) stolen_share: f64,
}

/// Share of the machine that others may use in a round before it is marked.
///
/// The kernel samples the machine's time at its ticks and counts a process's exactly, so a quiet
/// machine shows a few percent as well.
const OTHERS_SHARE_MAX: f64 = 0.10;

/// Share of the machine that the hypervisor may take in a round before it is marked.
const STOLEN_SHARE_MAX: f64 = 0.03;

impl Measurement {
    /// Whether others took so much that the round deserves doubt.
    pub(crate) fn is_noisy(&self) -> bool {
        self.others_share > OTHERS_SHARE_MAX || self.stolen_share > STOLEN_SHARE_MAX
    }
}

/// All rounds of one scenario.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The load.
    pub(crate) scenario: Scenario,
    /// The rounds, each with one measurement per path.
    pub(crate) rounds: Vec<Vec<Measurement>>,
    /// Paths that cannot hold this load here.
    pub(crate) left_out: Vec<LeftOut>,
    /// Rounds that were thrown away and run again because others used the machine.
    pub(crate) repeated: usize,
}
