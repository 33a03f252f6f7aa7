//! Metrics of a scenario: names, units, which direction is better, and how each is computed.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::round3;
use crate::histogram::Recorder;
use crate::path::Role;
use crate::scenario::{Direction, Measurement, Pacing, Scenario};

/// Number of bytes in a MiB and in a GiB.
const MIB: f64 = 1024.0 * 1024.0;
pub(super) const GIB: f64 = 1024.0 * MIB;

/// A value that is measured for a path in each round.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// Median latency, in microseconds.
    P50Us,
    /// 90th percentile of latency, in microseconds.
    P90Us,
    /// 99th percentile of latency, in microseconds.
    P99Us,
    /// 99.9th percentile of latency, in microseconds.
    P999Us,
    /// Highest latency, in microseconds.
    MaxUs,
    /// Time from the start of a burst to its last answer, median over the bursts.
    LastP50Us,
    /// Time from the start of a burst to its last answer, highest of the bursts.
    LastMaxUs,
    /// Answers per second.
    AnswersPerS,
    /// New connections per second.
    ConnectionsPerS,
    /// Bulk throughput, both directions together.
    MibPerS,
    /// Bulk throughput from client to target.
    UpMibPerS,
    /// Bulk throughput from target to client.
    DownMibPerS,
    /// TLS handshakes for each second of CPU time of their server: the near hop, or the target of a direct path.
    HandshakesPerCpuS,
    /// CPU time of the hop next to the client, per unit of work ([`cpu_unit`]).
    NearCpu,
    /// CPU time of all hops together, per unit of work ([`cpu_unit`]).
    HopsCpu,
    /// Memory growth of the hop next to the client, per session.
    NearKib,
    /// Memory growth of the hop next to the target, per session.
    FarKib,
    /// Memory growth of both hops together, per session.
    HopsKib,
    /// Resident memory of all hops, in MiB.
    HopsRssMib,
    /// Delay of the generator itself between due time and send, 99th percentile.
    SendDelayP99Us,
}

impl Metric {
    /// Metrics for which reports also show the difference to `direct`.
    pub(super) const ADDED: [Self; 2] = [Self::P50Us, Self::P99Us];

    /// Heading of a table column or a plot.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::P50Us => "p50 µs",
            Self::P90Us => "p90 µs",
            Self::P99Us => "p99 µs",
            Self::P999Us => "p99.9 µs",
            Self::MaxUs => "max µs",
            Self::LastP50Us => "last answer p50 µs",
            Self::LastMaxUs => "last answer max µs",
            Self::AnswersPerS => "answers/s",
            Self::ConnectionsPerS => "connections/s",
            Self::MibPerS => "MiB/s",
            Self::UpMibPerS => "up MiB/s",
            Self::DownMibPerS => "down MiB/s",
            Self::HandshakesPerCpuS => "handshakes per CPU s",
            Self::NearCpu => "near hop's CPU",
            Self::HopsCpu => "hops' CPU",
            Self::NearKib => "near hop KiB/session",
            Self::FarKib => "far hop KiB/session",
            Self::HopsKib => "both hops KiB/session",
            Self::HopsRssMib => "hops' RSS MiB",
            Self::SendDelayP99Us => "generator late p99 µs",
        }
    }

    /// Whether a larger value is better.
    pub(crate) fn more_is_better(self) -> bool {
        matches!(
            self,
            Self::AnswersPerS
                | Self::ConnectionsPerS
                | Self::HandshakesPerCpuS
                | Self::MibPerS
                | Self::UpMibPerS
                | Self::DownMibPerS
        )
    }

    /// Number of decimal places in reports.
    pub(crate) fn digits(self) -> usize {
        match self {
            Self::AnswersPerS
            | Self::ConnectionsPerS
            | Self::HandshakesPerCpuS
            | Self::MibPerS
            | Self::UpMibPerS
            | Self::DownMibPerS => 0,
            Self::NearCpu | Self::HopsCpu | Self::NearKib | Self::FarKib | Self::HopsKib => 2,
            _ => 1,
        }
    }

    /// Metrics of a scenario's main table, in column order.
    pub(crate) fn of(scenario: Scenario) -> Vec<Self> {
        let latency = [
            Self::P50Us,
            Self::P90Us,
            Self::P99Us,
            Self::P999Us,
            Self::MaxUs,
        ];
        match scenario {
            Scenario::RoundTrips { .. } | Scenario::Calls { .. } => {
                [&latency[..], &[Self::AnswersPerS]].concat()
            }
            Scenario::FirstEvents { .. } => latency.to_vec(),
            Scenario::Bulk {
                direction: Direction::Both,
                ..
            } => vec![Self::MibPerS, Self::UpMibPerS, Self::DownMibPerS],
            Scenario::Bulk { .. } => vec![Self::MibPerS],
            Scenario::Connect { .. } => vec![Self::ConnectionsPerS, Self::P50Us, Self::P99Us],
            Scenario::Handshakes { .. } => {
                vec![Self::HandshakesPerCpuS, Self::ConnectionsPerS, Self::P50Us]
            }
            Scenario::Idle { .. } | Scenario::Streams { .. } => {
                vec![Self::NearKib, Self::FarKib, Self::HopsKib]
            }
            Scenario::Fanout { .. } => vec![
                Self::LastP50Us,
                Self::LastMaxUs,
                Self::P50Us,
                Self::P99Us,
                Self::AnswersPerS,
            ],
            Scenario::Mixed { .. } => [&latency[..], &[Self::MibPerS]].concat(),
        }
    }

    /// Metrics that are compared between paths, the most important first.
    pub(crate) fn compared(scenario: Scenario) -> &'static [Self] {
        match scenario {
            Scenario::RoundTrips {
                pacing: Pacing::Open { .. },
                ..
            } => &[Self::P50Us, Self::P99Us, Self::HopsCpu],
            Scenario::RoundTrips { .. } | Scenario::Calls { .. } => {
                &[Self::P50Us, Self::P99Us, Self::AnswersPerS, Self::HopsCpu]
            }
            Scenario::FirstEvents { .. } => &[Self::P50Us, Self::P99Us, Self::HopsCpu],
            Scenario::Bulk { .. } => &[Self::MibPerS, Self::HopsCpu],
            Scenario::Connect { .. } => &[Self::ConnectionsPerS, Self::P99Us, Self::HopsCpu],
            Scenario::Handshakes { .. } => &[Self::HandshakesPerCpuS, Self::ConnectionsPerS],
            Scenario::Idle { .. } | Scenario::Streams { .. } => {
                &[Self::NearKib, Self::FarKib, Self::HopsKib]
            }
            Scenario::Fanout { .. } => &[Self::LastP50Us, Self::P99Us, Self::HopsCpu],
            Scenario::Mixed { .. } => &[Self::P50Us, Self::P99Us, Self::MibPerS],
        }
    }
}

/// Unit of CPU time for a scenario: time per unit of work.
pub(crate) fn cpu_unit(scenario: Scenario) -> &'static str {
    match scenario {
        Scenario::RoundTrips { .. } | Scenario::Fanout { .. } => "µs per round trip",
        Scenario::Calls { .. } => "µs per call",
        Scenario::FirstEvents { .. } => "µs per call and its events",
        Scenario::Bulk { .. } => "s per GiB",
        Scenario::Connect { .. } => "µs per connection",
        Scenario::Handshakes { .. } => "µs per handshake",
        Scenario::Idle { .. } | Scenario::Streams { .. } => "ms per second",
        Scenario::Mixed { .. } => "s per GiB of the bulk, the messages included",
    }
}

/// CPU time of each role in the unit of [`cpu_unit`]; processes of the same role are added up.
pub(super) fn cpu(scenario: Scenario, measurement: &Measurement) -> BTreeMap<Role, f64> {
    let tally = &measurement.tally;
    let bytes = (tally.up_bytes + tally.down_bytes) as f64;
    let (units, scale) = match scenario {
        Scenario::Bulk { .. } | Scenario::Mixed { .. } => (bytes / GIB, 1.0),
        Scenario::Idle { .. } | Scenario::Streams { .. } => (measurement.length.as_secs_f64(), 1e3),
        _ => (tally.answered_in_window as f64, 1e6),
    };
    cpu_per(units, scale, measurement)
}

/// CPU time of each role per unit of work, in seconds times `scale`.
pub(super) fn cpu_per(units: f64, scale: f64, measurement: &Measurement) -> BTreeMap<Role, f64> {
    let mut cpu = BTreeMap::new();
    for (role, time) in measurement.cpu.iter().filter(|_| units > 0.0) {
        *cpu.entry(*role).or_insert(0.0) += time.as_secs_f64() * scale / units;
    }
    cpu.values_mut().for_each(|value| *value = round3(*value));
    cpu
}

/// All metrics of a measurement that it has values for.
pub(super) fn values(
    scenario: Scenario,
    measurement: &Measurement,
    cpu: &BTreeMap<Role, f64>,
) -> BTreeMap<Metric, f64> {
    let mut values: BTreeMap<Metric, f64> = latencies(scenario, &measurement.tally).collect();
    values.extend(rates(scenario, measurement));
    if let Scenario::Handshakes { .. } = scenario {
        let server = cpu.get(&Role::NearHop).or_else(|| cpu.get(&Role::Target));
        let server = server.filter(|server| **server > 0.0);
        values.extend(server.map(|server| (Metric::HandshakesPerCpuS, 1e6 / server)));
    }
    if measurement.hops_known {
        values.extend(of_hops(scenario, measurement, cpu));
    }
    values
        .values_mut()
        .for_each(|value| *value = round3(*value));
    values
}

/// Latency of answers and of bursts, and the generator's own delay.
fn latencies(scenario: Scenario, tally: &Recorder) -> impl Iterator<Item = (Metric, f64)> {
    let answers = (!tally.latency.is_empty()).then(|| {
        [
            (Metric::P50Us, microseconds(&tally.latency, 0.5)),
            (Metric::P90Us, microseconds(&tally.latency, 0.9)),
            (Metric::P99Us, microseconds(&tally.latency, 0.99)),
            (Metric::P999Us, microseconds(&tally.latency, 0.999)),
            (Metric::MaxUs, tally.latency.max() as f64 / 1e3),
        ]
    });
    let bursts = (!tally.bursts.is_empty()).then(|| {
        [
            (Metric::LastP50Us, microseconds(&tally.bursts, 0.5)),
            (Metric::LastMaxUs, tally.bursts.max() as f64 / 1e3),
        ]
    });
    let delay = scenario.rate().map(|_| {
        let late = microseconds(&tally.send_delay, 0.99);
        (Metric::SendDelayP99Us, late)
    });
    let answers = answers.into_iter().flatten();
    answers.chain(bursts.into_iter().flatten()).chain(delay)
}

/// Answers, connections and bytes per second.
fn rates(scenario: Scenario, measurement: &Measurement) -> impl Iterator<Item = (Metric, f64)> {
    let tally = &measurement.tally;
    let per_second = |count: u64| count as f64 / measurement.length.as_secs_f64();
    let counted = match scenario {
        Scenario::Connect { .. } | Scenario::Handshakes { .. } => Some(Metric::ConnectionsPerS),
        Scenario::RoundTrips { .. }
        | Scenario::Fanout { .. }
        | Scenario::Mixed { .. }
        | Scenario::Calls { .. }
        | Scenario::FirstEvents { .. } => Some(Metric::AnswersPerS),
        Scenario::Bulk { .. } | Scenario::Idle { .. } | Scenario::Streams { .. } => None,
    };
    let is_bulk = matches!(scenario, Scenario::Bulk { .. } | Scenario::Mixed { .. });
    let moved = is_bulk.then(|| {
        let (up, down) = (tally.up_bytes, tally.down_bytes);
        [
            (Metric::MibPerS, per_second(up + down) / MIB),
            (Metric::UpMibPerS, per_second(up) / MIB),
            (Metric::DownMibPerS, per_second(down) / MIB),
        ]
    });
    let counted = counted.map(|metric| (metric, per_second(tally.answered_in_window)));
    counted.into_iter().chain(moved.into_iter().flatten())
}

/// CPU time and memory of the hops.
fn of_hops(
    scenario: Scenario,
    measurement: &Measurement,
    cpu: &BTreeMap<Role, f64>,
) -> impl Iterator<Item = (Metric, f64)> {
    let is_hop = |role: Role| matches!(role, Role::NearHop | Role::FarHop);
    let of_hops = cpu.iter().filter(|(role, _)| is_hop(**role));
    let now = &measurement.memory_kib;
    let both = memory(now, Role::NearHop) + memory(now, Role::FarHop);
    let near = cpu.get(&Role::NearHop).copied().unwrap_or_default();
    let in_use = [
        (Metric::NearCpu, near),
        (Metric::HopsCpu, of_hops.map(|(_, value)| value).sum()),
        (Metric::HopsRssMib, both / 1024.0),
    ];
    let growth = scenario.grows_memory().then(|| {
        let grown = |role| {
            let before = memory(&measurement.memory_before_kib, role);
            (memory(now, role) - before) / scenario.connections() as f64
        };
        let (near, far) = (grown(Role::NearHop), grown(Role::FarHop));
        [
            (Metric::NearKib, near),
            (Metric::FarKib, far),
            (Metric::HopsKib, near + far),
        ]
    });
    in_use.into_iter().chain(growth.into_iter().flatten())
}

/// A quantile of a latency histogram, in microseconds.
pub(super) fn microseconds(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1e3
}

/// Memory of all processes of a role, in KiB.
pub(super) fn memory(list: &[(Role, u64)], role: Role) -> f64 {
    let own = list.iter().filter(|(one, _)| *one == role);
    own.map(|(_, kib)| *kib as f64).sum()
}
