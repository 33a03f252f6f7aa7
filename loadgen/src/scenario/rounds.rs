//! Interleaves the paths: each round measures every path once, in a random order.
//!
//! A machine that slows down during a run then affects all paths alike, and a ratio within one round
//! compares measurements that are close in time.

use std::time::Duration;

use anyhow::bail;

use crate::interrupt::{Interrupt, Interrupted};
use crate::path::set::PathSet;
use crate::scenario::descriptors;
use crate::scenario::measure::{RoundError, measure};
use crate::scenario::{LeftOut, Measurement, Method, Outcome, Scenario};

/// Pause between two measurements, in which processes close the sockets of the first one.
pub(super) const SETTLE: Duration = Duration::from_millis(50);

/// How long to wait for a suspected process to show that it has ended.
const OBITUARY_DELAY: Duration = Duration::from_millis(100);

/// Runs all rounds of a scenario, over the paths that can carry it with `files_max` open files.
pub(crate) fn run(
    scenario: Scenario,
    method: &Method,
    set: &mut PathSet,
    files_max: u64,
    random: &mut fastrand::Rng,
    interrupt: &Interrupt,
) -> anyhow::Result<Outcome> {
    let paths = set.paths.iter();
    let left_out: Vec<LeftOut> = paths
        .filter_map(|path| descriptors::left_out(scenario, path, files_max))
        .collect();
    for LeftOut { path, reason } in &left_out {
        eprintln!("  {scenario}: {path} left out: it {reason}");
    }
    if left_out.len() == set.paths.len() {
        if matches!(scenario, Scenario::Handshakes { .. }) {
            // Not an error: the report names the reason of each path, such as a key exchange that this build or an end
            // lacks.
            return Ok(Outcome {
                scenario,
                rounds: Vec::new(),
                left_out,
                repeated: 0,
            });
        }
        bail!("no path can carry {scenario}");
    }
    let mut rounds = Vec::with_capacity(method.rounds);
    let mut repeated = 0;
    while rounds.len() < method.rounds {
        if scenario.grows_memory() {
            set.restart(interrupt)?;
        }
        let number = format!("{} of {}", rounds.len() + 1, method.rounds);
        let round = run_once(scenario, method, set, &left_out, random, interrupt, &number)?;
        if repeated < method.repeat_noisy && round.iter().any(Measurement::is_noisy) {
            repeated += 1;
            eprintln!("    other processes took much CPU: repeating the round");
            continue;
        }
        rounds.push(round);
    }
    Ok(Outcome {
        scenario,
        rounds,
        left_out,
        repeated,
    })
}

fn run_once(
    scenario: Scenario,
    method: &Method,
    set: &mut PathSet,
    left_out: &[LeftOut],
    random: &mut fastrand::Rng,
    interrupt: &Interrupt,
    number: &str,
) -> anyhow::Result<Vec<Measurement>> {
    let is_in = |index: &usize| left_out.iter().all(|it| it.path != set.paths[*index].kind);
    let mut order: Vec<usize> = (0..set.paths.len()).filter(is_in).collect();
    random.shuffle(&mut order);
    let names: Vec<String> = order
        .iter()
        .map(|index| set.paths[*index].kind.to_string())
        .collect();
    eprintln!("  {scenario}: round {number}: {}", names.join(", "));
    let mut measurements = Vec::with_capacity(order.len());
    for (position, index) in order.into_iter().enumerate() {
        let path = set.paths[index].clone();
        let measured = measure(scenario, method, &path, position, interrupt);
        measurements.push(measured.map_err(|error| explain(error, set, interrupt))?);
        interrupt.pause(SETTLE)?;
    }
    measurements.sort_by_key(|measurement| measurement.path);
    Ok(measurements)
}

/// Adds messages about processes that have ended unexpectedly, which are the likely cause.
pub(super) fn explain(
    error: RoundError,
    set: &mut PathSet,
    interrupt: &Interrupt,
) -> anyhow::Error {
    // If a signal ended the processes, their end is not reported as a failure.
    if matches!(error, RoundError::Interrupted(_)) || interrupt.pause(OBITUARY_DELAY).is_err() {
        return Interrupted.into();
    }
    let obituaries = set.obituaries();
    let error = anyhow::Error::from(error);
    if obituaries.is_empty() {
        error
    } else {
        error.context(obituaries.join("\n"))
    }
}
