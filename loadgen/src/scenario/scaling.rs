//! The `scaling` command: cost of a session and of a tunnel, by their number.
//!
//! All programs are restarted for each number, because memory left over from an earlier number would hide
//! what the next one needs. The numbers are interleaved: each round measures every number once, in a random
//! order.

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, bail};

use crate::cli::ScalingFlags;
use crate::interrupt::Interrupt;
use crate::machine::{Machine, raise_open_files_limit};
use crate::path::set::{PathSet, PathsWanted};
use crate::path::{Path, PathKind};
use crate::report::Circumstances;
use crate::report::files::Files;
use crate::report::scaling::{Count, IdleTunnels, Load, Sample, ScalingReport};
use crate::scenario::descriptors;
use crate::scenario::measure::{self, measure, memory, warm_memory};
use crate::scenario::rounds::{self, explain};
use crate::scenario::{Measurement, Messages, Method, Pacing, SMALL_MESSAGE_BYTES, Scenario};

/// What to measure, and with which programs.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Numbers of sessions on one tunnel, in rising order.
    pub(crate) sessions: Vec<usize>,
    /// Numbers of tunnels, in rising order.
    pub(crate) tunnels: Vec<usize>,
    /// Load, the same for every number.
    pub(crate) load: Load,
    /// Number of rounds, durations and seed.
    pub(crate) method: Method,
    /// Relay, agent and target to start.
    pub(crate) wanted: PathsWanted,
    /// Binary that runs many agents in one process.
    pub(crate) fleet: PathBuf,
    /// Files of the report.
    pub(crate) files: Files,
}

/// Runs the command.
pub(crate) fn run(flags: &ScalingFlags, interrupt: &Interrupt) -> anyhow::Result<()> {
    let plan = flags.checked()?;
    plan.check(raise_open_files_limit())?;
    plan.files.prepare()?;
    // Read before pinning, which reduces the number of usable cores.
    let (machine, date) = (Machine::read(), SystemTime::now());
    let mut set = PathSet::start(&plan.wanted, interrupt)?;
    let samples = plan.run(&mut set, interrupt)?;
    let circumstances = Circumstances::new(machine, date, plan.method, &set);
    drop(set);
    let report = ScalingReport::new(circumstances, plan.load, samples);
    report.save(&plan.files)?;
    if flags.output.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.text());
    }
    let written = plan.files.path("md");
    eprintln!("written: {} (and .json, .html)", written.display());
    Ok(())
}

impl Plan {
    /// Fails, before the run, if the fleet program is missing or the limit of open files is too low.
    fn check(&self, limit: u64) -> anyhow::Result<()> {
        if !self.tunnels.is_empty() && !self.fleet.is_file() {
            bail!(
                "the program that runs many agents (fleet) was not found at {}: build it with `cargo build --release \
                 -p tieline-agent --example fleet` or give --fleet-bin",
                self.fleet.display()
            );
        }
        let sessions = self.sessions.last().copied().unwrap_or(0);
        // The relay has links and frontends, the agents have links and targets. With one tunnel, each process
        // has one connection of each kind per session.
        let most = self.tunnels.last();
        let both = most.map_or(0, |tunnels| tunnels + self.load.callers);
        let needed = sessions.max(both) as u64 + descriptors::SPARE;
        if needed <= limit {
            return Ok(());
        }
        let what = if both > sessions {
            format!(
                "{} tunnels and {} callers",
                both - self.load.callers,
                self.load.callers
            )
        } else {
            format!("{sessions} sessions")
        };
        bail!(
            "{what} need {needed} file descriptors per process, but the limit is {limit}: raise it \
             (`ulimit -n`) or give smaller numbers (--sessions, --tunnels, --callers)"
        );
    }

    fn run(&self, set: &mut PathSet, interrupt: &Interrupt) -> anyhow::Result<Vec<Sample>> {
        let mut random = fastrand::Rng::with_seed(self.method.seed);
        let sessions = self.sessions.iter().copied().map(Count::Sessions);
        let tunnels = self.tunnels.iter().copied().map(Count::Tunnels);
        let mut order: Vec<Count> = sessions.chain(tunnels).collect();
        let (mut samples, mut repeated) = (Vec::new(), 0);
        eprintln!("seed {}", self.method.seed);
        for round in 0..self.method.rounds {
            random.shuffle(&mut order);
            for count in &order {
                let sample = loop {
                    eprintln!("  {count}: round {} of {}", round + 1, self.method.rounds);
                    let sample = self.measure(*count, round, set, interrupt)?;
                    if repeated == self.method.repeat_noisy || !sample.noisy {
                        break sample;
                    }
                    repeated += 1;
                    eprintln!("    other processes took much CPU: measuring again");
                };
                samples.push(sample);
            }
        }
        Ok(samples)
    }

    fn measure(
        &self,
        count: Count,
        round: usize,
        set: &mut PathSet,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Sample> {
        set.restart(interrupt)?;
        match count {
            Count::Sessions(count) => self.measure_sessions(count, set, interrupt),
            Count::Tunnels(count) => self.measure_tunnels(count, round, set, interrupt),
        }
    }

    fn measure_sessions(
        &self,
        sessions: usize,
        set: &mut PathSet,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Sample> {
        let (relay, direct) = (path(set, PathKind::Relay)?, path(set, PathKind::Direct)?);
        let short = Method {
            warm_up_s: 0.0,
            measured_s: MEMORY_S,
            ..self.method
        };
        let idle = once(Scenario::Idle { sessions }, &short, &relay, set, interrupt)?;
        let mut one = |scenario, path| once(scenario, &self.method, path, set, interrupt);
        let steady = self.steady(sessions);
        let (over_relay, over_nothing) = (one(steady, &relay)?, one(steady, &direct)?);
        Ok(Sample::of_sessions(
            sessions,
            &idle,
            &over_relay,
            &over_nothing,
        ))
    }

    fn measure_tunnels(
        &self,
        tunnels: usize,
        round: usize,
        set: &mut PathSet,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Sample> {
        let first = path(set, PathKind::Relay)?;
        let before_kib = warm_memory(&self.method, &first, false, interrupt)
            .map_err(|error| explain(error, set, interrupt))?;
        let up = set.publish(&self.fleet, tunnels, interrupt)?;
        let mut relay = path(set, PathKind::Relay)?;
        // If there are fewer callers than tunnels, each round leaves out different tunnels.
        relay
            .preambles
            .rotate_left(round * self.load.callers % tunnels);
        interrupt.pause(measure::SETTLE)?;
        let after_kib = memory(&relay);
        let mut one = |scenario, method: &Method| once(scenario, method, &relay, set, interrupt);
        let quiet = Method {
            warm_up_s: 0.0,
            measured_s: self.load.idle_s,
            ..self.method
        };
        // In the first round only: a heartbeat interval is long, and it covers every link once.
        let watched = if round == 0 {
            Some(one(NOTHING, &quiet)?)
        } else {
            None
        };
        let connect = one(Scenario::Connect { at_once: 1 }, &self.method)?;
        let steady = one(self.steady(self.load.callers), &self.method)?;
        let idle = IdleTunnels {
            up,
            before_kib,
            after_kib,
            watched,
        };
        Ok(Sample::of_tunnels(tunnels, &idle, &connect, &steady))
    }

    /// Open loop with the same rate for every number of sessions. A closed loop would keep as many requests
    /// in flight as there are sessions, and a relay handles many concurrent requests at a lower cost
    /// each.
    fn steady(&self, connections: usize) -> Scenario {
        Scenario::RoundTrips {
            messages: Messages {
                connections,
                bytes: self.load.message_bytes,
            },
            pacing: Pacing::Open {
                requests_per_s: self.load.requests_per_s,
            },
        }
    }
}

/// How long sessions stay idle while memory is read, in seconds; memory does not grow with time.
const MEMORY_S: f64 = 0.4;

/// Scenario without connections: only the CPU times are read.
const NOTHING: Scenario = Scenario::RoundTrips {
    messages: Messages {
        connections: 0,
        bytes: SMALL_MESSAGE_BYTES,
    },
    pacing: Pacing::Closed,
};

fn path(set: &PathSet, kind: PathKind) -> anyhow::Result<Path> {
    let found = set.paths.iter().find(|path| path.kind == kind);
    found.cloned().with_context(|| format!("no path {kind}"))
}

fn once(
    scenario: Scenario,
    method: &Method,
    path: &Path,
    set: &mut PathSet,
    interrupt: &Interrupt,
) -> anyhow::Result<Measurement> {
    let measured = measure(scenario, method, path, 0, interrupt);
    let measured = measured.map_err(|error| explain(error, set, interrupt))?;
    interrupt.pause(rounds::SETTLE)?;
    Ok(measured)
}
