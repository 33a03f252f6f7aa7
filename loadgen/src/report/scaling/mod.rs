//! Turns samples into a report on many sessions and many tunnels.

mod document;
mod page;
mod value;

use std::collections::BTreeMap;

use serde::Serialize;

use super::arithmetic::{Spread, ratios};
use super::files::Files;
use super::{Circumstances, round3};
use value::SHARED_MIN;

pub(crate) use value::{Count, IdleTunnels, Sample, Value};

/// Load that is applied at every number of sessions and of tunnels.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Load {
    /// Bytes of each message.
    pub(crate) message_bytes: usize,
    /// Requests per second over all sessions, which take turns.
    pub(crate) requests_per_s: u32,
    /// Sessions that are spread over the tunnels.
    pub(crate) callers: usize,
    /// Duration of the measurement of idle tunnels, in seconds.
    pub(crate) idle_s: f64,
}

/// Report of a whole run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ScalingReport {
    /// Machine, commit, command line and method.
    #[serde(flatten)]
    pub(crate) circumstances: Circumstances,
    /// Load that was applied at every number.
    pub(crate) load: Load,
    /// Values by the number of sessions on one tunnel.
    pub(crate) sessions: Series,
    /// Values by the number of tunnels.
    pub(crate) tunnels: Series,
}

/// Values by the number of sessions or tunnels, in rising order.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Series {
    /// One entry per number.
    pub(crate) points: Vec<Point>,
    /// Change of each value from the smallest number that has it to the largest.
    pub(crate) changes: BTreeMap<Value, Change>,
}

/// Values at one number of sessions or tunnels.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Point {
    /// Number of sessions or tunnels.
    pub(crate) count: usize,
    /// Each value over the rounds that have it.
    pub(crate) values: BTreeMap<Value, Spread>,
    /// Rounds during which other processes or the hypervisor took much of the machine.
    pub(crate) noisy_rounds: usize,
    /// Values of the single rounds.
    pub(crate) rounds: Vec<BTreeMap<Value, f64>>,
}

/// Change of a value between the smallest and the largest number.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Change {
    /// Smallest number that has the value.
    pub(crate) from: usize,
    /// Largest number that has the value.
    pub(crate) to: usize,
    /// Value at the largest number divided by the value at the smallest, within each round.
    pub(crate) ratio: Spread,
}

impl ScalingReport {
    /// Groups the samples by their number and summarizes them. Samples are in the order of the rounds.
    pub(crate) fn new(circumstances: Circumstances, load: Load, samples: Vec<Sample>) -> Self {
        let (mut sessions, mut tunnels) = (Rounds::new(), Rounds::new());
        for sample in samples {
            let (rounds, count) = match sample.count {
                Count::Sessions(count) => (&mut sessions, count),
                Count::Tunnels(count) => (&mut tunnels, count),
            };
            let of_count = rounds.entry(count).or_default();
            of_count.push((sample.values, sample.noisy));
        }
        Self {
            circumstances,
            load,
            sessions: Series::new(sessions),
            tunnels: Series::new(tunnels),
        }
    }

    /// Writes the Markdown document, the JSON file and the HTML page.
    pub(crate) fn save(&self, files: &Files) -> anyhow::Result<()> {
        // On one line, because the file is read by programs and committed to the repository.
        files.save("json", &(serde_json::to_string(self)? + "\n"))?;
        files.save("html", &page::html(self))?;
        files.save("md", &document::markdown(self, files.name()))
    }

    /// Formats the tables for the terminal.
    pub(crate) fn text(&self) -> String {
        document::text(self)
    }
}

/// For each number, the values of each round and whether the round was noisy.
type Rounds = BTreeMap<usize, Vec<(BTreeMap<Value, f64>, bool)>>;

impl Series {
    fn new(mut rounds: Rounds) -> Self {
        divide_idle_time(&mut rounds);
        let points: Vec<Point> = rounds
            .into_iter()
            .map(|(count, rounds)| Point::new(count, rounds))
            .collect();
        let mut series = Self {
            points,
            changes: BTreeMap::new(),
        };
        let values = series.points.iter().flat_map(|point| point.values.keys());
        let values: Vec<Value> = values.copied().collect();
        for value in values {
            if let Some(change) = series.change(value) {
                series.changes.insert(value, change);
            }
        }
        series
    }

    fn change(&self, value: Value) -> Option<Change> {
        let mut known = self
            .points
            .iter()
            .filter(|point| point.values.contains_key(&value));
        let (first, last) = (known.next()?, known.next_back()?);
        Some(Change {
            from: first.count,
            to: last.count,
            ratio: ratios(&last.of(value), &first.of(value))?,
        })
    }

    /// Spread of a value by number.
    fn spreads(&self, value: Value) -> impl Iterator<Item = (usize, Spread)> {
        let of = move |point: &Point| Some((point.count, *point.values.get(&value)?));
        self.points.iter().filter_map(of)
    }
}

/// Adds the relay's idle CPU time per tunnel: its idle time less that with the fewest tunnels in the
/// same round, which is the cost of the relay's own timers.
fn divide_idle_time(rounds: &mut Rounds) {
    let idle = |values: &BTreeMap<Value, f64>| values.get(&Value::IdleMs).copied();
    let Some((fewest, base)) = rounds
        .first_key_value()
        .map(|(count, of_count)| (*count, of_count.clone()))
    else {
        return;
    };
    for (count, of_count) in rounds.iter_mut().filter(|(count, _)| **count >= SHARED_MIN) {
        for ((values, _), (base, _)) in std::iter::zip(of_count, &base) {
            if let (Some(all), Some(own), true) = (idle(values), idle(base), *count > fewest) {
                let each_us = (all - own) * 1e3 / (count - fewest) as f64;
                values.insert(Value::IdleUs, round3(each_us));
            }
        }
    }
}

impl Point {
    fn new(count: usize, rounds: Vec<(BTreeMap<Value, f64>, bool)>) -> Self {
        let noisy_rounds = rounds.iter().filter(|(_, noisy)| *noisy).count();
        let rounds: Vec<_> = rounds.into_iter().map(|(values, _)| values).collect();
        let mut numbers: BTreeMap<Value, Vec<f64>> = BTreeMap::new();
        for (value, number) in rounds.iter().flatten() {
            numbers.entry(*value).or_default().push(*number);
        }
        let spread = |(value, numbers)| (value, Spread::of(numbers));
        Self {
            count,
            values: numbers.into_iter().map(spread).collect(),
            noisy_rounds,
            rounds,
        }
    }

    fn of(&self, value: Value) -> Vec<f64> {
        let of_round = |values: &BTreeMap<Value, f64>| values.get(&value).copied();
        self.rounds.iter().filter_map(of_round).collect()
    }
}

#[cfg(test)]
mod tests;
