//! Metrics in the Prometheus text format.

use std::fmt::{self, Write};
use std::sync::Arc;

use tieline_wire::SharedBudget;

use super::{
    AuditCounts, BY_LABEL, COUNTERS, DIRECTIONS, GAUGES, ShardMetrics, ShardStatus, TlsReport,
};

/// All metrics in the Prometheus text format.
pub(crate) fn render(
    metrics: &[Arc<ShardMetrics>],
    shards: &[ShardStatus],
    start_epoch_seconds: u64,
    audit: &AuditCounts,
    tls: &TlsReport,
) -> String {
    let mut page = Page(String::with_capacity(16 * 1024));
    page.process(start_epoch_seconds, shards);
    for &(name, help, pick) in GAUGES {
        let sum: i64 = metrics.iter().map(|one| pick(one).read()).sum();
        page.family(name, "gauge", help, [(String::new(), sum)]);
    }
    for &(name, help, pick) in COUNTERS {
        let sum = sum(metrics, |one| pick(one).read());
        page.family(name, "counter", help, [(String::new(), sum)]);
    }
    page.budget(metrics);
    for &(name, help, (label, values), pick) in BY_LABEL {
        // Values that never occurred are written as 0, so that their first rise shows in a rate.
        let samples = values.iter().enumerate().map(|(index, value)| {
            let sum = sum(metrics, |one| pick(one)[index].read());
            (format!("{label}=\"{value}\""), sum)
        });
        page.family(name, "counter", help, samples);
    }
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
    page.tls(tls);
    page.0
}

fn sum(metrics: &[Arc<ShardMetrics>], read: impl Fn(&ShardMetrics) -> u64) -> u64 {
    let add = |sum: u64, one: &Arc<ShardMetrics>| sum.saturating_add(read(one));
    metrics.iter().fold(0, add)
}

struct Page(String);

impl Page {
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

    fn tls(&mut self, tls: &TlsReport) {
        let ends = tls.certificates.iter().enumerate().map(|(index, it)| {
            let name = escaped(it.names.first().map_or("", String::as_str));
            let labels = format!("certificate=\"{}\",name=\"{name}\"", index + 1);
            (labels, it.end_epoch_seconds)
        });
        self.family(
            "relay_tls_certificate_end_epoch_seconds",
            "gauge",
            "End of each certificate, in seconds since 1970, with the first of its names.",
            ends,
        );
        let renewal = tls.acme.as_ref().and_then(|it| it.renewal_epoch_seconds);
        self.family(
            "relay_acme_renewal_epoch_seconds",
            "gauge",
            "Time at which the relay orders its next certificate, in seconds since 1970.",
            renewal.map(|at| (String::new(), at)),
        );
        let orders = tls.acme.iter().flat_map(|it| {
            let outcomes = [("issued", it.orders_issued), ("failed", it.orders_failed)];
            outcomes.map(|(outcome, count)| (format!("outcome=\"{outcome}\""), count))
        });
        self.family(
            "relay_acme_orders_total",
            "counter",
            "Orders of certificates by the relay itself (ACME).",
            orders,
        );
    }

    fn budget(&mut self, metrics: &[Arc<ShardMetrics>]) {
        let sum = |pick: fn(&SharedBudget) -> u64| sum(metrics, |one| pick(&one.budget));
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

    fn family<N: fmt::Display>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = (String, N)>,
    ) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = match labels.as_str() {
                "" => writeln!(self.0, "{name} {value}"),
                labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
            };
        }
    }
}

/// A label's value as the text format writes it.
fn escaped(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    value.replace('\n', "\\n")
}
