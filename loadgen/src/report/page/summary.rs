//! Summary tables at the top of the page: the relay compared with all other paths, then its epoll driver.

use std::fmt::Write;

use super::{label, words};
use crate::path::PathKind;
use crate::report::metric::Metric;
use crate::report::plot::{escape, grouped};
use crate::report::table::short_name;
use crate::report::{PathReport, Ratio, Ratios, Report, ScenarioReport, Spread};

/// A column of ratios in a summary table.
struct Column {
    title: &'static str,
    of: fn(&PathReport) -> Option<&Ratios>,
}

const TO_DIRECT: Column = Column {
    title: "× direct",
    of: |path| path.to_direct.as_ref(),
};

const TO_FORWARDER: Column = Column {
    title: "× better forwarder",
    of: |path| path.to_forwarder.as_ref(),
};

const TO_PEER: Column = Column {
    title: "× best peer",
    of: |path| path.to_peer.as_ref(),
};

const TO_RELAY: Column = Column {
    title: "× relay",
    of: |path| path.to_relay.as_ref(),
};

/// Formats one table for the relay and one for its epoll driver; empty if no relay was measured.
pub(super) fn summary(report: &Report) -> String {
    let relay = table(
        report,
        PathKind::Relay,
        &[&TO_DIRECT, &TO_FORWARDER, &TO_PEER],
    );
    let epoll = table(
        report,
        PathKind::RelayEpoll,
        &[&TO_RELAY, &TO_DIRECT, &TO_FORWARDER, &TO_PEER],
    );
    let mut out = String::new();
    if !relay.is_empty() || !epoll.is_empty() {
        let _ = writeln!(out, "<h2>In short</h2>\n<p>{}</p>\n{relay}", words::SUMMARY);
    }
    if !epoll.is_empty() {
        let _ = writeln!(
            out,
            "<h3>The same relay on its epoll driver</h3>\n<p>{}</p>\n{epoll}",
            words::EPOLL
        );
    }
    out
}

/// Table of the metrics of path `kind` and their ratios; empty if `kind` was not measured. Columns
/// without any ratio are left out.
fn table(report: &Report, kind: PathKind, columns: &[&Column]) -> String {
    let scenarios = report.scenarios.iter();
    let measured: Vec<(&ScenarioReport, &PathReport)> = scenarios
        .filter_map(|one| Some((one, one.paths.iter().find(|path| path.path == kind)?)))
        .collect();
    let is_used = |column: &&&Column| measured.iter().any(|(_, path)| (column.of)(path).is_some());
    let columns: Vec<&&Column> = columns.iter().filter(is_used).collect();
    let mut rows = String::new();
    for (scenario, path) in measured {
        let metrics = Metric::compared(scenario.scenario);
        let known = metrics
            .iter()
            .filter(|metric| path.values.contains_key(metric));
        for (place, metric) in known.clone().enumerate() {
            let name = if place == 0 {
                format!(
                    "<th rowspan=\"{}\"><a href=\"#{}\">{}</a>{}</th>",
                    known.clone().count(),
                    scenario.scenario.name(),
                    escape(&scenario.scenario.to_string()),
                    doubt(scenario)
                )
            } else {
                String::new()
            };
            let cells: String = columns
                .iter()
                .map(|column| {
                    let ratio = (column.of)(path).and_then(|ratios| ratios.get(metric));
                    judged(ratio, *metric, path.rounds.len())
                })
                .collect();
            let _ = writeln!(
                rows,
                "<tr>{name}<td class=\"t\">{}</td><td>{}</td>{cells}</tr>",
                escape(&label(*metric, scenario)),
                path.median(*metric)
                    .map_or_else(String::new, |value| grouped(value, metric.digits())),
            );
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let titles: String = columns
        .iter()
        .map(|column| format!("<th>{}</th>", column.title))
        .collect();
    format!(
        "<table><tr><th class=\"t\">load</th><th class=\"t\">value</th><th>{kind}</th>{titles}</tr>\n\
         {rows}</table>\n"
    )
}

/// Note on how many measurements of a scenario are doubtful; empty if there are none.
fn doubt(report: &ScenarioReport) -> String {
    let of_paths = report.paths.iter().flat_map(|path| &path.rounds);
    match of_paths.clone().filter(|round| round.noisy).count() {
        0 => String::new(),
        noisy => format!(
            "<small>{noisy} of {} measurements doubtful</small>",
            of_paths.count()
        ),
    }
}

/// Table cell of a ratio: coloured as better or worse only if all rounds agree.
fn judged(ratio: Option<&Ratio>, metric: Metric, rounds: usize) -> String {
    let Some(ratio) = ratio else {
        return "<td class=\"none\">–</td>".to_owned();
    };
    let Spread { median, min, max } = ratio.spread;
    let (class, mark) = match (metric.more_is_better(), min > 1.0, max < 1.0) {
        // With fewer than three rounds, agreement is likely by chance.
        _ if rounds < 3 => ("level", ""),
        (true, true, _) | (false, _, true) => ("better", "▲"),
        (true, _, true) | (false, true, _) => ("worse", "▼"),
        _ => ("level", "≈"),
    };
    let name = match short_name(ratio.to) {
        name if name.is_empty() => name,
        name => format!(" <i>{}</i>", escape(&name)),
    };
    let range = if max > min {
        format!("<span class=\"range\"> {min:.2}..{max:.2}</span>")
    } else {
        String::new()
    };
    format!("<td class=\"{class}\">{mark} {median:.2}{range}{name}</td>")
}
