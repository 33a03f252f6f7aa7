//! Metrics in the Prometheus text format: the name and help text of every family.

use std::fmt::{self, Write};
use std::sync::Arc;

use tieline_wire::{Reason, SharedBudget};

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

        self.gauge("relay_links", "Links of agents.", |m| &m.links);
        self.gauge("relay_tunnels", "Registered tunnels.", |m| &m.tunnels);
        self.gauge("relay_sessions", "Open sessions.", |m| &m.sessions);
        self.gauge("relay_frontends", "Connected frontends.", |m| &m.frontends);
        self.gauge("relay_lanes", "Open bulk lanes.", |m| &m.lanes);

        self.counter(
            "relay_callers_revoked_total",
            "Callers cut off because their access was revoked.",
            |m| &m.callers_revoked,
        );
        self.counter("relay_links_total", "Links established.", |m| {
            &m.links_total
        });
        self.counter("relay_sessions_total", "Sessions opened.", |m| {
            &m.sessions_total
        });
        self.counter("relay_lane_offers_total", "Bulk lanes offered.", |m| {
            &m.lane_offers_total
        });
        self.counter("relay_lanes_total", "Bulk lanes established.", |m| {
            &m.lanes_total
        });
        self.counter(
            "relay_mailbox_full_total",
            "Messages that found a mailbox full.",
            |m| &m.mailbox_full,
        );
        self.counter(
            "relay_crossings_total",
            "Sessions that cross shards.",
            |m| &m.crossings,
        );
        self.counter(
            "relay_spin_passes_total",
            "Times that a shard polled instead of sleeping.",
            |m| &m.spin_passes,
        );
        self.counter(
            "relay_state_dropped_total",
            "Name bindings that were not written to the state folder.",
            |m| &m.state_dropped,
        );
        self.counter("relay_route_updates_total", "Route updates applied.", |m| {
            &m.route_updates
        });

        self.budget();

        let reasons = Reason::ALL
            .iter()
            .map(|reason| reason.word())
            .collect::<Vec<_>>();
        let reasons = ("reason", reasons.as_slice());
        self.counters(
            "relay_link_evictions_total",
            "Links removed by the relay.",
            reasons,
            |m| &m.link_evictions.0,
        );
        self.counters(
            "relay_link_refused_total",
            "Agents' connections that did not become a link.",
            reasons,
            |m| &m.link_refused.0,
        );
        self.counters(
            "relay_registration_refused_total",
            "Registrations refused.",
            reasons,
            |m| &m.registrations_refused.0,
        );
        self.counters(
            "relay_tunnels_withdrawn_total",
            "Tunnels taken from links that go on.",
            reasons,
            |m| &m.tunnels_withdrawn.0,
        );
        self.counters(
            "relay_session_resets_total",
            "Sessions aborted.",
            reasons,
            |m| &m.session_resets.0,
        );
        self.counters(
            "relay_frontend_refused_total",
            "Frontends refused.",
            reasons,
            |m| &m.frontend_refused.0,
        );

        let kinds = ("kind", FRONTEND_KINDS.as_slice());
        self.counters("relay_frontends_total", "Frontends accepted.", kinds, |m| {
            &m.frontends_total.0
        });
        let directions = ("direction", DIRECTIONS.as_slice());
        self.counters(
            "relay_bytes_total",
            "Payload passed on, in bytes.",
            directions,
            |m| &m.bytes.0,
        );
        self.counters(
            "relay_lane_bytes_total",
            "Payload passed on over bulk lanes, in bytes.",
            directions,
            |m| &m.lane_bytes.0,
        );
        let kinds = ("kind", DROP_KINDS.as_slice());
        self.counters(
            "relay_frames_dropped_total",
            "Frames dropped on links that go on.",
            kinds,
            |m| &m.frames_dropped.0,
        );
        let kinds = ("kind", HANDOFF_KINDS.as_slice());
        self.counters(
            "relay_handoffs_total",
            "Connections moved to another shard.",
            kinds,
            |m| &m.handoffs.0,
        );
        let kinds = ("limit", LIMIT_KINDS.as_slice());
        self.counters(
            "relay_limited_total",
            "Refusals because of a limit.",
            kinds,
            |m| &m.limited.0,
        );
        let classes = ("status", STATUS_CLASSES.as_slice());
        self.counters(
            "relay_http_requests_total",
            "HTTP requests answered.",
            classes,
            |m| &m.http_requests.0,
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

    fn gauge(&mut self, name: &str, help: &str, pick: impl Fn(&ShardMetrics) -> &Gauge) {
        let sum: i64 = self.metrics.iter().map(|one| pick(one).read()).sum();
        self.family(name, "gauge", help, [(String::new(), sum)]);
    }

    fn counter(&mut self, name: &str, help: &str, pick: impl Fn(&ShardMetrics) -> &Counter) {
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
        pick: impl Fn(&ShardMetrics) -> &[Counter],
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
