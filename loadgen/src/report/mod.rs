//! From measurements to what is told: medians over the rounds, their spread, ratios within rounds.

mod arithmetic;
mod circumstances;
pub(crate) mod document;
pub(crate) mod files;
mod metric;
pub(crate) mod page;
mod plot;
pub(crate) mod scaling;
mod table;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::histogram::{Recorder, Window};
use crate::path::{PathKind, Role};
use crate::scenario::{LeftOut, Measurement, Outcome, Scenario};

pub(crate) use arithmetic::Spread;
use arithmetic::{differences, pick_better, ratios};
pub(crate) use circumstances::Circumstances;
use metric::{Metric, cpu_unit};

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Where, when and how.
    #[serde(flatten)]
    pub(crate) circumstances: Circumstances,
    /// The results.
    pub(crate) scenarios: Vec<ScenarioReport>,
}

/// One load over all paths.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ScenarioReport {
    /// The load.
    pub(crate) scenario: Scenario,
    /// What CPU times are divided by.
    pub(crate) cpu_unit: &'static str,
    /// Rounds that were thrown away and run again because others used the machine.
    pub(crate) repeated: usize,
    /// Paths that could not hold this load.
    pub(crate) left_out: Vec<LeftOut>,
    /// One entry per path, `direct` first.
    pub(crate) paths: Vec<PathReport>,
}

/// One load over one path: each number is a median over the rounds with its smallest and largest.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PathReport {
    /// The path.
    pub(crate) path: PathKind,
    /// Its values.
    #[serde(flatten)]
    pub(crate) values: BTreeMap<Metric, Spread>,
    /// CPU time of each role.
    pub(crate) cpu: BTreeMap<Role, Spread>,
    /// Latency less that of `direct` in the same round; over HTTP only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) added: BTreeMap<Metric, Spread>,
    /// Against `direct`.
    pub(crate) to_direct: Option<Ratios>,
    /// Against the bare forwarder that is better in the value concerned.
    pub(crate) to_forwarder: Option<Ratios>,
    /// Against the peer that is best in the value concerned.
    pub(crate) to_peer: Option<Ratios>,
    /// What the epoll driver makes of it: against the relay with its defaults.
    pub(crate) to_relay: Option<Ratios>,
    /// Requests whose latency was measured, over all rounds.
    pub(crate) round_trips: u64,
    /// Bulk bytes that were moved and checked, over all rounds.
    pub(crate) bulk_bytes: u64,
    /// Requests without an answer, over all rounds.
    pub(crate) unanswered: u64,
    /// Latency of all rounds together, in microseconds, at rising quantiles.
    #[serde(skip)]
    pub(crate) curve: Vec<(f64, f64)>,
    /// The rounds one by one.
    pub(crate) rounds: Vec<RoundReport>,
}

/// This path's values divided by those of another in the same round.
pub(crate) type Ratios = BTreeMap<Metric, Ratio>;

/// A ratio and what it is a ratio to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Ratio {
    /// The other path.
    pub(crate) to: PathKind,
    /// The ratio, over the rounds.
    #[serde(flatten)]
    pub(crate) spread: Spread,
}

/// One path in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RoundReport {
    /// Place in the order of the round, from 0.
    pub(crate) position: usize,
    /// Its values.
    #[serde(flatten)]
    pub(crate) values: BTreeMap<Metric, f64>,
    /// CPU time of each role.
    pub(crate) cpu: BTreeMap<Role, f64>,
    /// Share of the machine that others used.
    pub(crate) others_share: f64,
    /// Share of the machine that the hypervisor took.
    pub(crate) stolen_share: f64,
    /// Whether others took so much that the round deserves doubt.
    pub(crate) noisy: bool,
}

impl ScenarioReport {
    /// Sums an outcome up.
    pub(crate) fn new(outcome: &Outcome) -> Self {
        let kinds: Vec<PathKind> = outcome
            .rounds
            .first()
            .map(|round| round.iter().map(|measurement| measurement.path).collect())
            .unwrap_or_default();
        let scenario = outcome.scenario;
        let mut paths: Vec<PathReport> = kinds
            .iter()
            .map(|kind| {
                let of_path = outcome.rounds.iter().flatten().filter(|m| m.path == *kind);
                PathReport::new(scenario, *kind, &of_path.collect::<Vec<_>>())
            })
            .collect();
        let bases = paths.clone();
        let those = |wanted: fn(PathKind) -> bool| -> Vec<&PathReport> {
            bases.iter().filter(|base| wanted(base.path)).collect()
        };
        let direct = those(|kind| kind == PathKind::Direct);
        let forwarders = those(PathKind::is_forwarder);
        let peers = those(PathKind::is_peer);
        let relay = those(|kind| kind == PathKind::Relay);
        for path in &mut paths {
            if path.path == PathKind::Direct {
                continue;
            }
            path.to_direct = compare(scenario, path, &direct);
            if let (true, [direct]) = (scenario.is_http(), &direct[..]) {
                path.added = path.added_to(direct);
            }
            if !path.path.is_forwarder() {
                path.to_forwarder = compare(scenario, path, &forwarders);
            }
            if path.path.is_relay() {
                path.to_peer = compare(scenario, path, &peers);
            }
            if path.path == PathKind::RelayEpoll {
                path.to_relay = compare(scenario, path, &relay);
            }
        }
        Self {
            scenario,
            cpu_unit: cpu_unit(scenario),
            repeated: outcome.repeated,
            left_out: outcome.left_out.clone(),
            paths,
        }
    }

    /// The paths that have marked rounds, and the numbers of those, from 1.
    pub(crate) fn noisy_rounds(&self) -> Vec<(PathKind, Vec<usize>)> {
        let of_path = |path: &PathReport| {
            let rounds = (1..).zip(&path.rounds).filter(|(_, report)| report.noisy);
            (
                path.path,
                rounds.map(|(round, _)| round).collect::<Vec<_>>(),
            )
        };
        self.paths
            .iter()
            .map(of_path)
            .filter(|(_, rounds)| !rounds.is_empty())
            .collect()
    }
}

impl PathReport {
    fn new(scenario: Scenario, path: PathKind, measurements: &[&Measurement]) -> Self {
        let rounds: Vec<RoundReport> = measurements
            .iter()
            .map(|measurement| RoundReport::new(scenario, measurement))
            .collect();
        let mut latency = Recorder::new(Window {
            from_ns: 0,
            until_ns: 0,
        });
        for measurement in measurements {
            latency.merge(&measurement.tally);
        }
        Self {
            path,
            values: over_rounds(&rounds, |round| &round.values),
            cpu: over_rounds(&rounds, |round| &round.cpu),
            added: BTreeMap::new(),
            to_direct: None,
            to_forwarder: None,
            to_peer: None,
            to_relay: None,
            round_trips: latency.latency.len(),
            bulk_bytes: latency.up_bytes + latency.down_bytes,
            unanswered: latency.unanswered,
            curve: curve(&latency.latency),
            rounds,
        }
    }

    /// What every round has of a value; none if one lacks it.
    fn over_rounds(&self, metric: Metric) -> Option<Vec<f64>> {
        let rounds = self.rounds.iter();
        rounds
            .map(|round| round.values.get(&metric).copied())
            .collect()
    }

    /// Latency beyond that of another path.
    fn added_to(&self, base: &Self) -> BTreeMap<Metric, Spread> {
        let added = |metric| {
            let (own, base) = (self.over_rounds(metric)?, base.over_rounds(metric)?);
            Some((metric, differences(&own, &base)?))
        };
        Metric::ADDED.into_iter().filter_map(added).collect()
    }

    /// Median of a value; none if this path does not have it.
    pub(crate) fn median(&self, metric: Metric) -> Option<f64> {
        Some(self.values.get(&metric)?.median)
    }
}

/// The values that every round has.
fn over_rounds<K: Copy + Ord>(
    rounds: &[RoundReport],
    of: impl Fn(&RoundReport) -> &BTreeMap<K, f64>,
) -> BTreeMap<K, Spread> {
    let Some(first) = rounds.first() else {
        return BTreeMap::new();
    };
    let spread = |key: &K| {
        let values: Option<Vec<f64>> = rounds
            .iter()
            .map(|round| of(round).get(key).copied())
            .collect();
        Some((*key, Spread::of(values?)))
    };
    of(first).keys().filter_map(spread).collect()
}

/// Ratios to the best of `bases` in each value; none if there are no bases to speak of.
fn compare(scenario: Scenario, path: &PathReport, bases: &[&PathReport]) -> Option<Ratios> {
    let compared = Metric::compared(scenario).iter();
    let ratios: Ratios = compared
        .filter_map(|metric| Some((*metric, best(path, bases, *metric)?)))
        .collect();
    (!ratios.is_empty()).then_some(ratios)
}

/// The ratio of one value to that of the base which is best in it.
fn best(path: &PathReport, bases: &[&PathReport], metric: Metric) -> Option<Ratio> {
    let known: Vec<(PathKind, Vec<f64>)> = bases
        .iter()
        .filter_map(|base| Some((base.path, base.over_rounds(metric)?)))
        .collect();
    let (to, base) = pick_better(&known, metric.more_is_better())?;
    Some(Ratio {
        to,
        spread: ratios(&path.over_rounds(metric)?, base)?,
    })
}

impl RoundReport {
    fn new(scenario: Scenario, measurement: &Measurement) -> Self {
        let cpu = metric::cpu(scenario, measurement);
        Self {
            position: measurement.position,
            values: metric::values(scenario, measurement, &cpu),
            cpu,
            others_share: round3(measurement.others_share),
            stolen_share: round3(measurement.stolen_share),
            noisy: measurement.is_noisy(),
        }
    }
}

/// Latency in microseconds at quantiles that get ten times rarer in eight steps, as far as there
/// are enough values to tell.
fn curve(latency: &Histogram<u64>) -> Vec<(f64, f64)> {
    let steps = (0..).map(|step| 1.0 - 10f64.powf(-f64::from(step) / 8.0));
    steps
        .take_while(|quantile| (1.0 - quantile) * latency.len() as f64 >= 1.0)
        .map(|quantile| {
            let value = latency.value_at_quantile(quantile) as f64;
            (quantile, round3(value / 1e3))
        })
        .collect()
}

/// Three digits behind the point: nanoseconds of a microsecond, and small artefacts.
fn round3(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests;
