//! Values at one number of sessions or tunnels, and how each is computed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::path::Role;
use crate::report::metric::{cpu_per, memory, microseconds};
use crate::report::round3;
use crate::scenario::Measurement;

/// A number of sessions or of tunnels.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Count {
    /// Number of sessions on one tunnel.
    Sessions(usize),
    /// Number of tunnels.
    Tunnels(usize),
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sessions(count) => write!(f, "{count} session(s) on one tunnel"),
            Self::Tunnels(count) => write!(f, "{count} tunnel(s)"),
        }
    }
}

/// Smallest number of sessions or tunnels for which memory and idle CPU time are divided by the number.
/// For fewer, pages of 4 KiB and the process's own timers would hide the cost of each.
pub(super) const SHARED_MIN: usize = 100;

/// A value that is measured at each number of sessions or tunnels.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Value {
    /// CPU time of the relay, µs per round trip.
    RelayCpuUs,
    /// CPU time of the agent, or of all agents, µs per round trip.
    AgentCpuUs,
    /// Median latency over the relay, in microseconds.
    P50Us,
    /// 99th percentile of latency over the relay, in microseconds.
    P99Us,
    /// Median latency without relay and agent, in microseconds.
    DirectP50Us,
    /// 99th percentile of latency without relay and agent, in microseconds.
    DirectP99Us,
    /// Memory growth of the relay per session or tunnel, in KiB.
    RelayKib,
    /// Memory growth of the agent per session, in KiB.
    AgentKib,
    /// Memory growth of the relay, in MiB.
    RelayMib,
    /// Memory growth of the agent, in MiB.
    AgentMib,
    /// CPU time of the relay while sessions and tunnels are idle, ms per second.
    IdleMs,
    /// Idle CPU time of the relay per tunnel, µs per second.
    IdleUs,
    /// Time from the attempt to connect to the first answer: median.
    ConnectP50Us,
    /// Time from the attempt to connect to the first answer: 99th percentile.
    ConnectP99Us,
    /// Time from the start of all agents until all tunnels were up, in milliseconds.
    UpMs,
}

impl Value {
    /// Heading of a table column.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::RelayCpuUs => "relay CPU, µs per round trip",
            Self::AgentCpuUs => "agent CPU, µs per round trip",
            Self::P50Us => "p50 µs",
            Self::P99Us => "p99 µs",
            Self::DirectP50Us => "direct p50 µs",
            Self::DirectP99Us => "direct p99 µs",
            Self::RelayKib => "relay memory, KiB each",
            Self::AgentKib => "agent memory, KiB each",
            Self::RelayMib => "relay memory, MiB more",
            Self::AgentMib => "agent memory, MiB more",
            Self::IdleMs => "relay CPU idle, ms per s",
            Self::IdleUs => "relay CPU idle, µs per s each",
            Self::ConnectP50Us => "connect p50 µs",
            Self::ConnectP99Us => "connect p99 µs",
            Self::UpMs => "all up after ms",
        }
    }

    /// Number of decimal places in reports.
    pub(super) fn digits(self) -> usize {
        match self {
            Self::UpMs => 0,
            Self::RelayKib | Self::AgentKib | Self::RelayMib | Self::AgentMib => 2,
            Self::IdleMs | Self::IdleUs => 2,
            _ => 1,
        }
    }
}

/// Values of one number of sessions or tunnels in one round.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Number of sessions or tunnels.
    pub(crate) count: Count,
    pub(crate) values: BTreeMap<Value, f64>,
    /// Whether other processes or the hypervisor took so much that the sample is doubtful.
    pub(crate) noisy: bool,
}

/// Measurement of idle tunnels.
#[derive(Debug)]
pub(crate) struct IdleTunnels {
    /// Time from the start of all agents until the last tunnel was up.
    pub(crate) up: Duration,
    /// Memory of the processes before the tunnels were published, in KiB.
    pub(crate) before_kib: Vec<(Role, u64)>,
    /// Memory of the processes with the idle tunnels, in KiB.
    pub(crate) after_kib: Vec<(Role, u64)>,
    /// CPU times over a heartbeat interval; measured in the first round only.
    pub(crate) watched: Option<Measurement>,
}

impl Sample {
    /// Sample of three measurements: idle sessions, requests over the relay, requests to the target directly.
    pub(crate) fn of_sessions(
        sessions: usize,
        idle: &Measurement,
        relay: &Measurement,
        direct: &Measurement,
    ) -> Self {
        let mut sample = Self::new(Count::Sessions(sessions), &[idle, relay, direct]);
        sample.put_steady(relay);
        sample.put_latency(direct, Value::DirectP50Us, Value::DirectP99Us);
        for (role, each, all) in [
            (Role::NearHop, Value::RelayKib, Value::RelayMib),
            (Role::FarHop, Value::AgentKib, Value::AgentMib),
        ] {
            let of = |list: &[(Role, u64)]| memory(list, role);
            let grown = of(&idle.memory_kib) - of(&idle.memory_before_kib);
            sample.put_memory(grown, sessions, each, all);
        }
        sample
    }

    /// Sample of three measurements: idle tunnels, new connections, requests over the relay.
    pub(crate) fn of_tunnels(
        tunnels: usize,
        idle: &IdleTunnels,
        connect: &Measurement,
        steady: &Measurement,
    ) -> Self {
        let mut measurements = vec![connect, steady];
        measurements.extend(&idle.watched);
        let mut sample = Self::new(Count::Tunnels(tunnels), &measurements);
        sample.put_steady(steady);
        sample.put_latency(connect, Value::ConnectP50Us, Value::ConnectP99Us);
        let relay = |list: &[(Role, u64)]| memory(list, Role::NearHop);
        let grown = relay(&idle.after_kib) - relay(&idle.before_kib);
        sample.put_memory(grown, tunnels, Value::RelayKib, Value::RelayMib);
        sample.put(Value::UpMs, idle.up.as_secs_f64() * 1e3);
        if let Some(watched) = &idle.watched {
            let time = cpu_per(watched.length.as_secs_f64(), 1e3, watched);
            if let Some(relay) = time.get(&Role::NearHop) {
                sample.put(Value::IdleMs, *relay);
            }
        }
        sample
    }

    fn new(count: Count, measurements: &[&Measurement]) -> Self {
        Self {
            count,
            values: BTreeMap::new(),
            noisy: measurements.iter().any(|one| one.is_noisy()),
        }
    }

    fn put(&mut self, value: Value, number: f64) {
        self.values.insert(value, round3(number));
    }

    fn put_steady(&mut self, measurement: &Measurement) {
        let answers = measurement.tally.answered_in_window as f64;
        let time = cpu_per(answers, 1e6, measurement);
        for (role, value) in [
            (Role::NearHop, Value::RelayCpuUs),
            (Role::FarHop, Value::AgentCpuUs),
        ] {
            if let Some(time) = time.get(&role) {
                self.put(value, *time);
            }
        }
        self.put_latency(measurement, Value::P50Us, Value::P99Us);
    }

    fn put_latency(&mut self, measurement: &Measurement, p50: Value, p99: Value) {
        let latency = &measurement.tally.latency;
        if !latency.is_empty() {
            self.put(p50, microseconds(latency, 0.5));
            self.put(p99, microseconds(latency, 0.99));
        }
    }

    fn put_memory(&mut self, grown_kib: f64, count: usize, each: Value, all: Value) {
        self.put(all, grown_kib / 1024.0);
        if count >= SHARED_MIN {
            self.put(each, grown_kib / count as f64);
        }
    }
}
