//! Report of `scaling` as tables, for the terminal and as Markdown.

use std::fmt::Write;

use super::value::SHARED_MIN;
use super::{Change, ScalingReport, Series, Value};
use crate::report::grid::{Grid, or_dash};
use crate::report::plot::grouped;

/// Columns of the table by the number of sessions.
const SESSIONS: [Value; 10] = [
    Value::RelayCpuUs,
    Value::AgentCpuUs,
    Value::RelayKib,
    Value::AgentKib,
    Value::P50Us,
    Value::P99Us,
    Value::DirectP50Us,
    Value::DirectP99Us,
    Value::RelayMib,
    Value::AgentMib,
];

/// Columns of the table by the number of tunnels.
const TUNNELS: [Value; 11] = [
    Value::RelayCpuUs,
    Value::AgentCpuUs,
    Value::RelayKib,
    Value::IdleUs,
    Value::IdleMs,
    Value::ConnectP50Us,
    Value::ConnectP99Us,
    Value::P50Us,
    Value::P99Us,
    Value::UpMs,
    Value::RelayMib,
];

/// Values in the summary table: costs, and the latencies that a caller notices.
const IN_SHORT: [Value; 8] = [
    Value::RelayCpuUs,
    Value::AgentCpuUs,
    Value::RelayKib,
    Value::AgentKib,
    Value::IdleUs,
    Value::ConnectP50Us,
    Value::P50Us,
    Value::P99Us,
];

impl ScalingReport {
    /// Title, data and table columns of each series that was measured.
    pub(super) fn series(&self) -> impl Iterator<Item = (&'static str, &Series, &'static [Value])> {
        [
            ("Sessions on one tunnel", &self.sessions, &SESSIONS[..]),
            ("Tunnels", &self.tunnels, &TUNNELS[..]),
        ]
        .into_iter()
        .filter(|(_, series, _)| !series.points.is_empty())
    }

    /// Explains how a series was measured.
    pub(super) fn explained(&self, series: &Series) -> String {
        let load = &self.load;
        let (rate, bytes) = (
            grouped(f64::from(load.requests_per_s), 0),
            load.message_bytes,
        );
        if std::ptr::eq(series, &self.sessions) {
            format!(
                "One agent with one tunnel. Requests of {bytes} B fall due {rate} times per second over \
                 all sessions, which take turns: so the total load is \
                 the same for each number of sessions, and the difference is the cost of a session. (A closed loop \
                 would have more requests in flight with more sessions, and a relay handles those at a lower \
                 cost each.) Memory is the growth of the processes while the sessions were open and \
                 idle, from {SHARED_MIN} sessions on; smaller growth is lost in pages of 4 KiB. \
                 `direct` is the same load without relay and agent."
            )
        } else {
            let callers = grouped(load.callers as f64, 0);
            format!(
                "Each tunnel has an agent and a link of its own; all agents share one \
                 process. For every number of tunnels, {callers} sessions take turns over the \
                 tunnels with {rate} requests of {bytes} B per second in total. If there are more \
                 tunnels than sessions, each round leaves out different tunnels. Memory is the growth of the relay \
                 when the tunnels were published, from {SHARED_MIN} tunnels on. Idle CPU time is measured \
                 over {} s without callers, in the first round; idle CPU time each is the increase over \
                 the smallest number of tunnels. Connect time is from the attempt to connect to the first answer, \
                 one caller at a time, to the tunnels in turn.",
                load.idle_s
            )
        }
    }

    /// Remarks on noisy rounds.
    pub(super) fn doubts(&self) -> Vec<String> {
        let of_series = |(title, series, _): (&str, &Series, _)| {
            let noisy = series.points.iter().filter(|point| point.noisy_rounds > 0);
            let list: Vec<String> = noisy
                .map(|point| {
                    let count = grouped(point.count as f64, 0);
                    format!(
                        "{count} in {} of {}",
                        point.noisy_rounds,
                        point.rounds.len()
                    )
                })
                .collect();
            (!list.is_empty()).then(|| {
                format!(
                    "Doubtful: other processes took much CPU. {title}: {} rounds.",
                    list.join(", ")
                )
            })
        };
        self.series().filter_map(of_series).collect()
    }
}

/// Summary table: values at the smallest and the largest number, and their ratio.
pub(super) fn in_short(title: &str, series: &Series) -> Grid {
    let head = [title, "from", "value", "to", "value", "times"];
    let mut grid = Grid::new(head);
    for value in IN_SHORT {
        let Some(Change { from, to, ratio }) = series.changes.get(&value) else {
            continue;
        };
        let at = |wanted: usize| {
            let mut spreads = series.spreads(value);
            let found = spreads.find(|(count, _)| *count == wanted);
            or_dash(found.map(|(_, spread)| grouped(spread.median, value.digits())))
        };
        grid.rows.push(vec![
            value.label().to_owned(),
            grouped(*from as f64, 0),
            at(*from),
            grouped(*to as f64, 0),
            at(*to),
            ratio.to_string(),
        ]);
    }
    grid
}

/// Table of all values of a series.
pub(super) fn table(series: &Series, values: &[Value]) -> Grid {
    let labels = values.iter().map(|value| value.label());
    let mut grid = Grid::new(std::iter::once("number").chain(labels));
    for point in &series.points {
        let cell = |value: &Value| {
            let digits = value.digits();
            let spread = point.values.get(value);
            or_dash(spread.map(|spread| format!("{spread:.digits$}")))
        };
        let cells = values.iter().map(cell);
        let count = grouped(point.count as f64, 0);
        grid.rows
            .push(std::iter::once(count).chain(cells).collect());
    }
    grid
}

/// Formats the whole document. `name` is the base name of the report's other files.
pub(super) fn markdown(report: &ScalingReport, name: &str) -> String {
    let mut out = String::from(
        "# Cost by the number of sessions and of tunnels\n\n\
         Written by `tieline-loadgen scaling`; the next run replaces it. Each number is the median over \
         the rounds, with the smallest and the largest in brackets; \"times\" is the ratio within each \
         round.\n",
    );
    let _ = writeln!(out, "\nPlots: [{name}.html]({name}.html).");
    for (title, series, _) in report.series() {
        let _ = writeln!(out, "\n{}", in_short(title, series).markdown().trim_end());
    }
    for (title, series, values) in report.series() {
        let _ = writeln!(out, "\n## {title}\n\n{}\n", report.explained(series));
        out.push_str(&table(series, values).markdown());
    }
    let doubts = report.doubts();
    if !doubts.is_empty() {
        out.push('\n');
    }
    for doubt in doubts {
        let _ = writeln!(out, "- {doubt}");
    }
    out.push_str(&report.circumstances.markdown());
    out
}

/// Formats the tables for the terminal.
pub(super) fn text(report: &ScalingReport) -> String {
    let mut out = String::new();
    for (title, series, values) in report.series() {
        let _ = write!(out, "\n{}", in_short(title, series).text());
        let _ = write!(out, "\n{}", table(series, values).text());
    }
    for doubt in report.doubts() {
        let _ = writeln!(out, "  {doubt}");
    }
    out + &report.circumstances.text()
}
