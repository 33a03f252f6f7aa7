//! Turns measurements into a report: medians over the rounds, their spread, ratios within rounds.

mod arithmetic;
mod circumstances;
pub(crate) mod document;
pub(crate) mod files;
mod grid;
mod metric;
pub(crate) mod page;
mod plot;
mod quic;
pub(crate) mod scaling;
mod table;
mod wrapped;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::histogram::{Recorder, Window};
use crate::path::{PathKind, Role, Wrapped};
use crate::scenario::{LeftOut, Measurement, Outcome, Scenario};

pub(crate) use arithmetic::Spread;
use arithmetic::{differences, pick_better, ratios};
pub(crate) use circumstances::Circumstances;
use metric::{Metric, cpu_unit};

/// Report of a whole run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Machine, commit, command line and method.
    #[serde(flatten)]
    pub(crate) circumstances: Circumstances,
    /// Results, one entry per scenario.
    pub(crate) scenarios: Vec<ScenarioReport>,
}

/// Results of one scenario over all paths.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ScenarioReport {
    pub(crate) scenario: Scenario,
    /// Unit of the CPU times.
    pub(crate) cpu_unit: &'static str,
    /// Rounds that were discarded and repeated because other processes used the machine.
    pub(crate) repeated: usize,
    /// Paths that could not carry this scenario, with the reason.
    pub(crate) left_out: Vec<LeftOut>,
    /// One entry per path, `direct` first.
    pub(crate) paths: Vec<PathReport>,
}

/// Results of one scenario over one path: each value is a spread over the rounds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PathReport {
    pub(crate) path: PathKind,
    /// Each metric over the rounds.
    #[serde(flatten)]
    pub(crate) values: BTreeMap<Metric, Spread>,
    /// CPU time of each role over the rounds.
    pub(crate) cpu: BTreeMap<Role, Spread>,
    /// Latency less the latency of `direct` in the same round; only for scenarios over HTTP.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) added: BTreeMap<Metric, Spread>,
    /// Ratios to `direct`.
    pub(crate) to_direct: Option<Ratios>,
    /// For each metric, the ratio to the bare forwarder that is better in it.
    pub(crate) to_forwarder: Option<Ratios>,
    /// For each metric, the ratio to the peer that is best in it.
    pub(crate) to_peer: Option<Ratios>,
    /// For `relay-epoll` only: ratios to `relay`.
    pub(crate) to_relay: Option<Ratios>,
    /// Requests whose latency was measured, over all rounds.
    pub(crate) round_trips: u64,
    /// Bulk bytes that were moved and checked, over all rounds.
    pub(crate) bulk_bytes: u64,
    /// Requests without an answer, over all rounds.
    pub(crate) unanswered: u64,
    /// Latency distribution of all rounds together, as (quantile, microseconds) with rising quantiles.
    #[serde(skip)]
    pub(crate) curve: Vec<(f64, f64)>,
    /// The single rounds.
    pub(crate) rounds: Vec<RoundReport>,
}

/// Metrics of one path divided by those of another path in the same round.
pub(crate) type Ratios = BTreeMap<Metric, Ratio>;

/// A ratio and the path that it refers to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Ratio {
    /// The path in the denominator.
    pub(crate) to: PathKind,
    /// The ratio over the rounds.
    #[serde(flatten)]
    pub(crate) spread: Spread,
}

/// Results of one path in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RoundReport {
    /// Position in the round's random order, from 0.
    pub(crate) position: usize,
    /// Value of each metric.
    #[serde(flatten)]
    pub(crate) values: BTreeMap<Metric, f64>,
    /// CPU time of each role.
    pub(crate) cpu: BTreeMap<Role, f64>,
    /// Share of the machine that other processes used, 0 to 1.
    pub(crate) others_share: f64,
    /// Share of the machine that the hypervisor took, 0 to 1.
    pub(crate) stolen_share: f64,
    /// Whether other processes or the hypervisor took so much that the round is doubtful.
    pub(crate) noisy: bool,
}

impl ScenarioReport {
    /// Summarizes the rounds of a scenario.
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
        let directs = those(PathKind::is_direct);
        let forwarders = those(PathKind::is_forwarder);
        let peers = those(PathKind::is_peer);
        let relay = those(|kind| kind == PathKind::Relay);
        for path in &mut paths {
            if path.path.is_direct() {
                continue;
            }
            // A wrapped path is compared with the direct path that has the same wrapping towards the client.
            let own = path.path.wrapped();
            let caller = own.caller.of_direct();
            let direct = directs.iter().copied();
            let direct: Vec<&PathReport> = direct
                .filter(|base| base.path.wrapped().caller == caller)
                .collect();
            path.to_direct = compare(scenario, path, &direct);
            if let (true, [direct]) = (scenario.is_http(), &direct[..]) {
                path.added = path.added_to(direct);
            }
            if !path.path.is_forwarder() && own == Wrapped::PLAIN {
                path.to_forwarder = compare(scenario, path, &forwarders);
            }
            if path.path.is_relay() {
                let like = peers.iter().copied();
                let like: Vec<&PathReport> =
                    like.filter(|base| base.path.wrapped() == own).collect();
                path.to_peer = compare(scenario, path, &like);
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

    /// Paths with noisy rounds, and the numbers of these rounds, from 1.
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

    /// Values of a metric in all rounds; `None` if a round lacks the metric.
    fn over_rounds(&self, metric: Metric) -> Option<Vec<f64>> {
        let rounds = self.rounds.iter();
        rounds
            .map(|round| round.values.get(&metric).copied())
            .collect()
    }

    /// Latency less that of `base`, within each round.
    fn added_to(&self, base: &Self) -> BTreeMap<Metric, Spread> {
        let added = |metric| {
            let (own, base) = (self.over_rounds(metric)?, base.over_rounds(metric)?);
            Some((metric, differences(&own, &base)?))
        };
        Metric::ADDED.into_iter().filter_map(added).collect()
    }

    /// Median of a metric; `None` if this path does not have it.
    pub(crate) fn median(&self, metric: Metric) -> Option<f64> {
        Some(self.values.get(&metric)?.median)
    }
}

/// Spreads of the values that every round has.
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

/// For each compared metric, the ratio to the best of `bases`; `None` if there is no ratio at all.
fn compare(scenario: Scenario, path: &PathReport, bases: &[&PathReport]) -> Option<Ratios> {
    let compared = Metric::compared(scenario).iter();
    let ratios: Ratios = compared
        .filter_map(|metric| Some((*metric, best(path, bases, *metric)?)))
        .collect();
    (!ratios.is_empty()).then_some(ratios)
}

/// Ratio of one metric to that of the base that is best in it.
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

/// Latency in microseconds at quantiles 1 - 10^(-step/8). Ends where the quantile's tail holds
/// less than one value.
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

/// Rounds to three decimal places: precise enough for microseconds, and keeps the JSON small.
fn round3(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests;
