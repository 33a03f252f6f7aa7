//! From measurements to what is told: medians over the rounds, their spread, ratios within rounds.

mod arithmetic;
pub(crate) mod document;
mod table;

use std::collections::BTreeMap;
use std::time::SystemTime;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::machine::{Machine, command_line, commit, utc};
use crate::path::set::PathSet;
use crate::path::{PathKind, Role};
use crate::scenario::{Load, Measurement, Method, Outcome, Scenario};

pub(crate) use arithmetic::Spread;
use arithmetic::{pick_better, ratios};

/// Share of the machine that others may use in a round before it is marked.
///
/// The kernel samples the machine's time at its ticks and counts a process's exactly, so a quiet
/// machine shows a few percent as well.
const OTHERS_SHARE_MAX: f64 = 0.10;

/// Share of the machine that the hypervisor may take in a round before it is marked.
const STOLEN_SHARE_MAX: f64 = 0.03;

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Version of this program.
    pub(crate) version: &'static str,
    /// When the run began.
    pub(crate) date: String,
    /// Commit of the working directory.
    pub(crate) commit: String,
    /// The command line.
    pub(crate) command: String,
    /// The machine.
    pub(crate) machine: Machine,
    /// Whether each process had a core of its own.
    pub(crate) pinned: bool,
    /// Rounds and times.
    pub(crate) method: Method,
    /// What the relay said about its own configuration, if there was one that did.
    pub(crate) relay_health: Option<String>,
    /// What a reader should know.
    pub(crate) notes: Vec<String>,
    /// The results.
    pub(crate) scenarios: Vec<ScenarioReport>,
}

/// One load over all paths.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ScenarioReport {
    /// The load.
    pub(crate) scenario: Scenario,
    /// One entry per path, `direct` first.
    pub(crate) paths: Vec<PathReport>,
}

/// One load over one path: each number is a median over the rounds with its smallest and largest.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PathReport {
    /// The path.
    pub(crate) path: PathKind,
    /// Latency of all rounds together and of each, in microseconds.
    pub(crate) p50_us: Spread,
    /// As above.
    pub(crate) p90_us: Spread,
    /// As above.
    pub(crate) p99_us: Spread,
    /// As above.
    pub(crate) p999_us: Spread,
    /// As above.
    pub(crate) max_us: Spread,
    /// Answers per second.
    pub(crate) answers_per_s: Spread,
    /// CPU time of each process per round trip, in microseconds.
    pub(crate) cpu_us: BTreeMap<Role, Spread>,
    /// CPU time of both hops together per round trip, in microseconds.
    pub(crate) hops_cpu_us: Option<Spread>,
    /// How late the generator itself was, 99th percentile, in microseconds; open loop only.
    pub(crate) send_delay_p99_us: Option<Spread>,
    /// Against `direct`.
    pub(crate) to_direct: Option<Ratios>,
    /// Against the bare forwarder that is better in the value concerned.
    pub(crate) to_forwarder: Option<Ratios>,
    /// Round trips that were measured, over all rounds.
    pub(crate) round_trips: u64,
    /// Requests without an answer, over all rounds.
    pub(crate) unanswered: u64,
    /// The rounds one by one.
    pub(crate) rounds: Vec<RoundReport>,
}

/// This path's values divided by those of another in the same round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Ratios {
    /// Median latency.
    pub(crate) p50: Option<Ratio>,
    /// 99th percentile.
    pub(crate) p99: Option<Ratio>,
    /// Answers per second.
    pub(crate) answers_per_s: Option<Ratio>,
    /// CPU time of both hops per round trip.
    pub(crate) hops_cpu: Option<Ratio>,
}

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
    /// Latency in microseconds.
    pub(crate) p50_us: f64,
    /// As above.
    pub(crate) p90_us: f64,
    /// As above.
    pub(crate) p99_us: f64,
    /// As above.
    pub(crate) p999_us: f64,
    /// As above.
    pub(crate) max_us: f64,
    /// Answers per second.
    pub(crate) answers_per_s: f64,
    /// CPU time per round trip, in microseconds.
    pub(crate) cpu_us: BTreeMap<Role, f64>,
    /// CPU time of both hops, if both are known.
    pub(crate) hops_cpu_us: Option<f64>,
    /// How late the generator itself was, 99th percentile, in microseconds; open loop only.
    pub(crate) send_delay_p99_us: Option<f64>,
    /// Share of the machine that others used.
    pub(crate) others_share: f64,
    /// Share of the machine that the hypervisor took.
    pub(crate) stolen_share: f64,
    /// Whether others took so much that the round deserves doubt.
    pub(crate) noisy: bool,
}

impl Report {
    /// A report without results.
    pub(crate) fn new(machine: Machine, date: SystemTime, method: Method, set: &PathSet) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            date: utc(date),
            commit: commit(),
            command: command_line(),
            machine,
            pinned: set.is_pinned(),
            method,
            relay_health: set.relay_health().map(str::to_owned),
            notes: set.notes.clone(),
            scenarios: Vec::new(),
        }
    }

    /// Where, when and how, as name and value.
    fn facts(&self) -> Vec<(&'static str, String)> {
        let machine = &self.machine;
        let kind = if machine.virtual_machine {
            ", a virtual machine"
        } else {
            ""
        };
        let (cores, memory) = (machine.cores, machine.memory_mib);
        let pinned = if self.pinned {
            "client, target, near and far hop each on a core of their own"
        } else {
            "not pinned: all processes share the cores"
        };
        let Method {
            rounds,
            warm_up_s,
            measured_s,
            threads,
            seed,
        } = self.method;
        vec![
            ("date", self.date.clone()),
            ("commit", self.commit.clone()),
            ("command", format!("`{}`", self.command)),
            (
                "machine",
                format!("{}, {cores} cores{kind}, {memory} MiB", machine.cpu_model),
            ),
            ("kernel", format!("Linux {}", machine.kernel)),
            ("processes", pinned.to_owned()),
            (
                "rounds",
                format!(
                    "{rounds} of {measured_s} s after {warm_up_s} s of warm-up, order of the \
                     paths by seed {seed}, {threads} generator thread(s)"
                ),
            ),
        ]
    }
}

impl ScenarioReport {
    /// Sums an outcome up.
    pub(crate) fn new(outcome: &Outcome) -> Self {
        let kinds: Vec<PathKind> = outcome
            .rounds
            .first()
            .map(|round| round.iter().map(|measurement| measurement.path).collect())
            .unwrap_or_default();
        let is_open = outcome.scenario.load != Load::Closed;
        let mut paths: Vec<PathReport> = kinds
            .iter()
            .map(|kind| {
                let of_path = outcome.rounds.iter().flatten().filter(|m| m.path == *kind);
                PathReport::new(*kind, &of_path.collect::<Vec<_>>(), is_open)
            })
            .collect();
        let bases = paths.clone();
        let direct: Vec<&PathReport> = bases
            .iter()
            .filter(|base| base.path == PathKind::Direct)
            .collect();
        let forwarders: Vec<&PathReport> = bases
            .iter()
            .filter(|base| base.path.is_forwarder())
            .collect();
        for path in &mut paths {
            if path.path == PathKind::Direct {
                continue;
            }
            path.to_direct = Ratios::new(path, &direct);
            if !path.path.is_forwarder() {
                path.to_forwarder = Ratios::new(path, &forwarders);
            }
        }
        Self {
            scenario: outcome.scenario,
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
    fn new(path: PathKind, measurements: &[&Measurement], is_open: bool) -> Self {
        let rounds: Vec<RoundReport> = measurements
            .iter()
            .map(|measurement| RoundReport::new(measurement, is_open))
            .collect();
        let over = |value: fn(&RoundReport) -> f64| Spread::of(rounds.iter().map(value));
        let over_known = |value: fn(&RoundReport) -> Option<f64>| {
            let values: Option<Vec<f64>> = rounds.iter().map(value).collect();
            values.filter(|values| !values.is_empty()).map(Spread::of)
        };
        let roles: Vec<Role> = rounds
            .first()
            .map(|round| round.cpu_us.keys().copied().collect())
            .unwrap_or_default();
        let cpu_of = |role: &Role| {
            Spread::of(
                rounds
                    .iter()
                    .filter_map(|round| round.cpu_us.get(role).copied()),
            )
        };
        Self {
            path,
            p50_us: over(|round| round.p50_us),
            p90_us: over(|round| round.p90_us),
            p99_us: over(|round| round.p99_us),
            p999_us: over(|round| round.p999_us),
            max_us: over(|round| round.max_us),
            answers_per_s: over(|round| round.answers_per_s),
            cpu_us: roles.iter().map(|role| (*role, cpu_of(role))).collect(),
            hops_cpu_us: over_known(|round| round.hops_cpu_us),
            send_delay_p99_us: over_known(|round| round.send_delay_p99_us),
            to_direct: None,
            to_forwarder: None,
            round_trips: measurements
                .iter()
                .map(|measurement| measurement.latency.len())
                .sum(),
            unanswered: measurements
                .iter()
                .map(|measurement| measurement.unanswered)
                .sum(),
            rounds,
        }
    }
}

impl Ratios {
    /// Ratios to the best of `bases` in each value; none if there are no bases to speak of.
    fn new(path: &PathReport, bases: &[&PathReport]) -> Option<Self> {
        if bases.is_empty() {
            return None;
        }
        let lower = |value: fn(&RoundReport) -> Option<f64>| best(path, bases, value, false);
        Some(Self {
            p50: lower(|round| Some(round.p50_us)),
            p99: lower(|round| Some(round.p99_us)),
            answers_per_s: best(path, bases, |round| Some(round.answers_per_s), true),
            hops_cpu: lower(|round| round.hops_cpu_us),
        })
    }
}

/// The ratio of one value to that of the base which is best in it.
fn best(
    path: &PathReport,
    bases: &[&PathReport],
    value: fn(&RoundReport) -> Option<f64>,
    more_is_better: bool,
) -> Option<Ratio> {
    let values =
        |path: &PathReport| -> Option<Vec<f64>> { path.rounds.iter().map(value).collect() };
    let known: Vec<(PathKind, Vec<f64>)> = bases
        .iter()
        .filter_map(|base| Some((base.path, values(base)?)))
        .collect();
    let (to, base) = pick_better(&known, more_is_better)?;
    Some(Ratio {
        to,
        spread: ratios(&values(path)?, base)?,
    })
}

impl RoundReport {
    fn new(measurement: &Measurement, is_open: bool) -> Self {
        let quantile = |quantile| microseconds(&measurement.latency, quantile);
        let answered = measurement.answered as f64;
        let cpu_us: BTreeMap<Role, f64> = measurement
            .cpu
            .iter()
            .filter(|_| measurement.answered > 0)
            .map(|(role, time)| (*role, round3(time.as_secs_f64() * 1e6 / answered)))
            .collect();
        let hops = [Role::NearHop, Role::FarHop].map(|role| cpu_us.get(&role).copied());
        Self {
            position: measurement.position,
            p50_us: quantile(0.5),
            p90_us: quantile(0.9),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us: round3(measurement.latency.max() as f64 / 1e3),
            answers_per_s: round3(measurement.answered as f64 / measurement.length.as_secs_f64()),
            hops_cpu_us: hops[0].zip(hops[1]).map(|(near, far)| round3(near + far)),
            cpu_us,
            send_delay_p99_us: is_open.then(|| microseconds(&measurement.send_delay, 0.99)),
            others_share: round3(measurement.others_share),
            stolen_share: round3(measurement.stolen_share),
            noisy: measurement.others_share > OTHERS_SHARE_MAX
                || measurement.stolen_share > STOLEN_SHARE_MAX,
        }
    }
}

fn microseconds(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    round3(histogram.value_at_quantile(quantile) as f64 / 1e3)
}

/// Three digits behind the point: nanoseconds of a microsecond, and small artefacts.
fn round3(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests;
