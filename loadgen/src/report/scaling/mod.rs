//! From samples to what is told about many sessions and many tunnels.

mod document;
mod page;
mod value;

use std::collections::BTreeMap;

use serde::Serialize;

use super::arithmetic::{Spread, ratios};
use super::files::Files;
use super::{Circumstances, round3};
use crate::scenario::scaling::{Count, Load};
use value::SHARED_MIN;

pub(crate) use value::{IdleTunnels, Sample, Value};

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ScalingReport {
    /// Where, when and how.
    #[serde(flatten)]
    pub(crate) circumstances: Circumstances,
    /// What was asked of every number.
    pub(crate) load: Load,
    /// By the number of sessions on one tunnel.
    pub(crate) sessions: Series,
    /// By the number of tunnels.
    pub(crate) tunnels: Series,
}

/// Values by a number, rising.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Series {
    /// One entry for each number.
    pub(crate) points: Vec<Point>,
    /// What became of each value from the smallest number that has it to the largest.
    pub(crate) changes: BTreeMap<Value, Change>,
}

/// One number of sessions or tunnels.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Point {
    /// How many.
    pub(crate) count: usize,
    /// Each value over the rounds that have it.
    pub(crate) values: BTreeMap<Value, Spread>,
    /// Rounds during which others took much of the machine.
    pub(crate) noisy_rounds: usize,
    /// The rounds one by one.
    pub(crate) rounds: Vec<BTreeMap<Value, f64>>,
}

/// A value at two ends.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Change {
    /// The smallest number.
    pub(crate) from: usize,
    /// The largest.
    pub(crate) to: usize,
    /// The value there divided by the one at the smallest, within each round.
    pub(crate) ratio: Spread,
}

impl ScalingReport {
    /// Sums samples up, which are in the order of the rounds.
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

    /// Writes document, JSON and page.
    pub(crate) fn save(&self, files: &Files) -> anyhow::Result<()> {
        // On one line: it is for programs, and it is committed.
        files.save("json", &(serde_json::to_string(self)? + "\n"))?;
        files.save("html", &page::html(self))?;
        files.save("md", &document::markdown(self, files.name()))
    }

    /// The tables for a terminal.
    pub(crate) fn text(&self) -> String {
        document::text(self)
    }
}

/// By number, the values of each round and whether it was noisy.
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

    /// Median, smallest and largest of a value by number.
    fn spreads(&self, value: Value) -> impl Iterator<Item = (usize, Spread)> {
        let of = move |point: &Point| Some((point.count, *point.values.get(&value)?));
        self.points.iter().filter_map(of)
    }
}

/// What the relay needs for each tunnel that does nothing: its time beyond what it had with the
/// fewest tunnels of the same round, which is for its own timers.
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
