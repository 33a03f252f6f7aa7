//! The values of one number of sessions or of tunnels, and how each is worked out.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::path::Role;
use crate::report::metric::{cpu_per, memory, microseconds};
use crate::report::round3;
use crate::scenario::Measurement;
use crate::scenario::scaling::Count;

/// From so many on, memory and idle CPU time are divided by their number. What fewer need does not
/// show: memory is counted in pages of 4 KiB, and a process has timers of its own.
pub(super) const SHARED_MIN: usize = 100;

/// One value.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Value {
    /// CPU time of the relay, µs per round trip.
    RelayCpuUs,
    /// CPU time of the agent, or of all agents, µs per round trip.
    AgentCpuUs,
    /// Latency that half of all requests stay below.
    P50Us,
    /// 99 of 100.
    P99Us,
    /// The same without relay and agent.
    DirectP50Us,
    /// And 99 of 100.
    DirectP99Us,
    /// What the relay's memory grew by, per session or tunnel.
    RelayKib,
    /// The agent's, per session.
    AgentKib,
    /// What the relay's memory grew by.
    RelayMib,
    /// The agent's.
    AgentMib,
    /// CPU time of the relay while nothing happens, ms per second.
    IdleMs,
    /// The same per tunnel, µs per second.
    IdleUs,
    /// From the attempt to connect to the first answer, half of all callers.
    ConnectP50Us,
    /// 99 of 100.
    ConnectP99Us,
    /// Until all tunnels were up after all agents started at once.
    UpMs,
}

impl Value {
    /// Heading of a column.
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

    /// Digits behind the point.
    pub(super) fn digits(self) -> usize {
        match self {
            Self::UpMs => 0,
            Self::RelayKib | Self::AgentKib | Self::RelayMib | Self::AgentMib => 2,
            Self::IdleMs | Self::IdleUs => 2,
            _ => 1,
        }
    }
}

/// What one number of sessions or tunnels yielded in one round.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// How many.
    pub(crate) count: Count,
    /// The values.
    pub(crate) values: BTreeMap<Value, f64>,
    /// Whether others took so much of the machine that it deserves doubt.
    pub(crate) noisy: bool,
}

/// Tunnels on which nothing happens.
#[derive(Debug)]
pub(crate) struct IdleTunnels {
    /// From the start of all agents to the last tunnel.
    pub(crate) up: Duration,
    /// Memory of the processes before.
    pub(crate) before_kib: Vec<(Role, u64)>,
    /// And with the tunnels.
    pub(crate) after_kib: Vec<(Role, u64)>,
    /// The processes' time during a heartbeat, where that was watched.
    pub(crate) watched: Option<Measurement>,
}

impl Sample {
    /// Of sessions that did nothing, then of requests over the relay, then without it.
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

    /// Of tunnels that did nothing, then of callers that came and went, then of requests.
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
