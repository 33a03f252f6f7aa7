//! Metrics in the Prometheus text format: the name and help text of every family.

use std::fmt::{self, Write};
use std::sync::Arc;

use tieline_wire::{
    CallerRefusal, Eviction, LinkRefusal, RefusalReason, SessionEnd, SharedBudget, WithdrawalReason,
};

use super::{AuditCounts, Counter, Gauge, HTTP_CLASSES, ShardMetrics, ShardStatus};

const DIRECTIONS: [&str; 2] = ["to_target", "to_frontend"];
const FRONTEND_KINDS: [&str; 2] = ["tcp", "http"];
const HANDOFF_KINDS: [&str; 3] = ["link", "frontend", "lane"];
const DROP_KINDS: [&str; 2] = ["ended_session", "optional"];
pub(super) const LIMIT_KINDS: [&str; 6] = [
    "registrations",
    "sessions",
    "requests",
    "bytes",
    "tunnels",
    "links",
];
const STATUS_CLASSES: [&str; HTTP_CLASSES] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Reads the value of a family from the metrics of one shard.
type Pick<T> = fn(&ShardMetrics) -> &T;

/// A label, and its values in the order of the counters.
type Label = (&'static str, &'static [&'static str]);

/// Gauges: name, help text, value.
const GAUGES: &[(&str, &str, Pick<Gauge>)] = &[
    ("relay_links", "Links of agents.", |m| &m.links),
    ("relay_tunnels", "Registered tunnels.", |m| &m.tunnels),
    ("relay_sessions", "Open sessions.", |m| &m.sessions),
    ("relay_frontends", "Connected frontends.", |m| &m.frontends),
    ("relay_lanes", "Open bulk lanes.", |m| &m.lanes),
];

/// Counters without a label: name, help text, value.
const COUNTERS: &[(&str, &str, Pick<Counter>)] = &[
    (
        "relay_callers_revoked_total",
        "Callers cut off because their access was revoked.",
        |m| &m.callers_revoked,
    ),
    ("relay_links_total", "Links established.", |m| {
        &m.links_total
    }),
    ("relay_sessions_total", "Sessions opened.", |m| {
        &m.sessions_total
    }),
    ("relay_lane_offers_total", "Bulk lanes offered.", |m| {
        &m.lane_offers_total
    }),
    ("relay_lanes_total", "Bulk lanes established.", |m| {
        &m.lanes_total
    }),
    (
        "relay_mailbox_full_total",
        "Messages that found a mailbox full.",
        |m| &m.mailbox_full,
    ),
    (
        "relay_crossings_total",
        "Sessions that cross shards.",
        |m| &m.crossings,
    ),
    (
        "relay_spin_passes_total",
        "Times that a shard polled instead of sleeping.",
        |m| &m.spin_passes,
    ),
    (
        "relay_state_dropped_total",
        "Name bindings that were not written to the state folder.",
        |m| &m.state_dropped,
    ),
    ("relay_route_updates_total", "Route updates applied.", |m| {
        &m.route_updates
    }),
];

/// Words of the reasons of one type, in the order of the counters.
macro_rules! words {
    ($reason:ty) => {{
        const WORDS: [&str; <$reason>::ALL.len()] = {
            let mut words = [""; <$reason>::ALL.len()];
            let mut at = 0;
            while at < words.len() {
                words[at] = <$reason>::ALL[at].word();
                at += 1;
            }
            words
        };
        ("reason", &WORDS)
    }};
}

/// Counters with one value per value of a label: name, help text, label, values.
const BY_LABEL: &[(&str, &str, Label, Pick<[Counter]>)] = &[
    (
        "relay_link_evictions_total",
        "Links removed by the relay.",
        words!(Eviction),
        |m| &m.link_evictions.0,
    ),
    (
        "relay_link_refused_total",
        "Agents' connections that did not become a link.",
        words!(LinkRefusal),
        |m| &m.link_refused.0,
    ),
    (
        "relay_registration_refused_total",
        "Registrations refused.",
        words!(RefusalReason),
        |m| &m.registrations_refused.0,
    ),
    (
        "relay_tunnels_withdrawn_total",
        "Tunnels taken from links that go on.",
        words!(WithdrawalReason),
        |m| &m.tunnels_withdrawn.0,
    ),
    (
        "relay_session_resets_total",
        "Sessions aborted.",
        words!(SessionEnd),
        |m| &m.session_resets.0,
    ),
    (
        "relay_frontend_refused_total",
        "Frontends refused.",
        words!(CallerRefusal),
        |m| &m.frontend_refused.0,
    ),
    (
        "relay_frontends_total",
        "Frontends accepted.",
        ("kind", &FRONTEND_KINDS),
        |m| &m.frontends_total.0,
    ),
    (
        "relay_bytes_total",
        "Payload passed on, in bytes.",
        ("direction", &DIRECTIONS),
        |m| &m.bytes.0,
    ),
    (
        "relay_lane_bytes_total",
        "Payload passed on over bulk lanes, in bytes.",
        ("direction", &DIRECTIONS),
        |m| &m.lane_bytes.0,
    ),
    (
        "relay_frames_dropped_total",
        "Frames dropped on links that go on.",
        ("kind", &DROP_KINDS),
        |m| &m.frames_dropped.0,
    ),
    (
        "relay_handoffs_total",
        "Connections moved to another shard.",
        ("kind", &HANDOFF_KINDS),
        |m| &m.handoffs.0,
    ),
    (
        "relay_limited_total",
        "Refusals because of a limit.",
        ("limit", &LIMIT_KINDS),
        |m| &m.limited.0,
    ),
    (
        "relay_http_requests_total",
        "HTTP requests answered.",
        ("status", &STATUS_CLASSES),
        |m| &m.http_requests.0,
    ),
];

/// All metrics in the Prometheus text format.
pub(crate) fn render(
    metrics: &[Arc<ShardMetrics>],
    shards: &[ShardStatus],
    start_epoch_seconds: u64,
    audit: &AuditCounts,
) -> String {
    let mut page = Page {
        text: String::with_capacity(16 * 1024),
        metrics,
    };
    page.write(start_epoch_seconds, shards);
    page.family(
        "relay_audit_dropped_total",
        "counter",
        "Entries that did not reach the audit log.",
        [(String::new(), audit.dropped)],
    );
    page.family(
        "relay_audit_refusals_left_out_total",
        "counter",
        "Refusals that the audit log only counts, because there were too many.",
        [(String::new(), audit.refusals_left_out)],
    );
    page.text
}

struct Page<'a> {
    text: String,
    metrics: &'a [Arc<ShardMetrics>],
}

impl Page<'_> {
    fn write(&mut self, start_epoch_seconds: u64, shards: &[ShardStatus]) {
        self.process(start_epoch_seconds, shards);
        for (name, help, pick) in GAUGES {
            self.gauge(name, help, *pick);
        }
        for (name, help, pick) in COUNTERS {
            self.counter(name, help, *pick);
        }
        self.budget();
        for (name, help, label, pick) in BY_LABEL {
            self.counters(name, help, *label, *pick);
        }
    }

    /// Writes the families that describe the relay's process: its version, start and drivers.
    fn process(&mut self, start_epoch_seconds: u64, shards: &[ShardStatus]) {
        let build = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
        self.family(
            "relay_build_info",
            "gauge",
            "Version of the relay in a label; always 1.",
            [(build, 1)],
        );
        let start = [(String::new(), start_epoch_seconds)];
        self.family(
            "relay_start_epoch_seconds",
            "gauge",
            "Start time of the relay, in seconds since 1970.",
            start,
        );
        let drivers = shards.iter().map(|one| {
            (
                format!("driver=\"{}\",shard=\"{}\"", one.driver, one.shard),
                1,
            )
        });
        self.family(
            "relay_driver",
            "gauge",
            "Driver of each shard in a label; always 1.",
            drivers,
        );
    }

    fn budget(&mut self) {
        let metrics = self.metrics;
        let sum = |pick: fn(&SharedBudget) -> u64| {
            metrics
                .iter()
                .fold(0_u64, |sum, one| sum.saturating_add(pick(&one.budget)))
        };
        self.family(
            "relay_budget_bytes",
            "gauge",
            "Bytes that sessions may buffer per direction, beyond the first 16 KiB of each.",
            [(String::new(), sum(SharedBudget::limit))],
        );
        let used = [sum(SharedBudget::queued), sum(SharedBudget::windows)];
        let samples = DIRECTIONS
            .iter()
            .zip(used)
            .map(|(direction, used)| (format!("direction=\"{direction}\""), used));
        self.family(
            "relay_budget_used_bytes",
            "gauge",
            "Budget in use: payload that waits for links, and windows granted to agents.",
            samples,
        );
        self.family(
            "relay_budget_short_total",
            "counter",
            "Times that the budget kept a window from growing.",
            [(String::new(), sum(SharedBudget::short))],
        );
    }

    fn gauge(&mut self, name: &str, help: &str, pick: Pick<Gauge>) {
        let sum: i64 = self.metrics.iter().map(|one| pick(one).read()).sum();
        self.family(name, "gauge", help, [(String::new(), sum)]);
    }

    fn counter(&mut self, name: &str, help: &str, pick: Pick<Counter>) {
        let sum = self
            .metrics
            .iter()
            .fold(0_u64, |sum, one| sum.wrapping_add(pick(one).read()));
        self.family(name, "counter", help, [(String::new(), sum)]);
    }

    /// Writes a family with one sample per label value. Values that never occurred are written as 0, so that their
    /// first rise shows in a rate.
    fn counters(
        &mut self,
        name: &str,
        help: &str,
        (label, values): (&str, &[&str]),
        pick: Pick<[Counter]>,
    ) {
        let samples: Vec<_> = values
            .iter()
            .enumerate()
            .map(|(index, value)| {
                let sum = self.metrics.iter().map(|one| pick(one)[index].read());
                (
                    format!("{label}=\"{value}\""),
                    sum.fold(0, u64::wrapping_add),
                )
            })
            .collect();
        self.family(name, "counter", help, samples);
    }

    fn family<N: fmt::Display>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = (String, N)>,
    ) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = match labels.as_str() {
                "" => writeln!(self.text, "{name} {value}"),
                labels => writeln!(self.text, "{name}{{{labels}}} {value}"),
            };
        }
    }
}
