//! The report as one self-contained HTML page, for readers who do not know the project.

mod charts;
mod circumstances;
mod summary;
mod words;

use std::fmt::Write;

use super::grid::Grid;
use super::metric::Metric;
use super::plot::{Bar, bars, escape};
use super::table::{grids, remarks};
use super::{Circumstances, PathReport, Report, ScenarioReport};
use crate::path::PathKind;
pub(super) use charts::legend;
use charts::{latency_plot, scaling};
pub(super) use circumstances::circumstances;

/// Colours and dash patterns of the paths. The colours suit colour-blind readers (Okabe and Ito).
pub(super) const RELAY: (&str, &str) = ("#d55e00", "");
const RELAY_EPOLL: (&str, &str) = ("#f0a36b", "6 3");
pub(super) const DIRECT: (&str, &str) = ("#777777", "2 3");
pub(super) const TOKIO: (&str, &str) = ("#0072b2", "");
const URING: (&str, &str) = ("#56b4e9", "6 3");
const MONOIO: (&str, &str) = ("#56b4e9", "1 3");
const PEERS: [(&str, &str); 5] = [
    ("#009e73", "6 2 2 2"),
    ("#cc79a7", "8 3"),
    ("#b8860b", "4 2"),
    ("#7b5ea7", "10 3 2 3"),
    ("#444444", "3 3"),
];
/// Dash patterns of wrapped paths, which have the colour of their plain path.
const DASHES: [&str; 5] = ["8 2", "4 2", "8 2 2 2", "2 2", "12 4"];

/// Formats the whole page.
pub(crate) fn html(report: &Report) -> String {
    let date = &report.circumstances.date;
    let mut out = begin(
        &format!("Tieline bench, {date}"),
        "Cost of the path through a relay",
        words::LEAD,
    );
    let styles = Styles::of(report);
    let _ = write!(out, "<p>{}</p>\n<ul class=\"paths\">", words::PATHS);
    for (path, (colour, _)) in &styles.0 {
        let _ = write!(
            out,
            "<li><span class=\"dot\" style=\"background:{colour}\"></span><b>{}</b> {}</li>",
            escape(&path.to_string()),
            escape(&described(report, *path))
        );
    }
    out.push_str("</ul>\n");
    out.push_str(&summary::summary(report));
    out.push_str(&scaling(report, &styles));
    for scenario in &report.scenarios {
        out.push_str(&section(scenario, &styles));
    }
    out.push_str(&circumstances(&report.circumstances, words::METHOD));
    out.push_str("</body></html>\n");
    out
}

/// Start of a page: head, style sheet, heading and introduction.
pub(super) fn begin(title: &str, heading: &str, lead: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
         <meta name=\"viewport\" content=\"width=device-width\"/><title>{}</title>\
         <style>{}</style></head>\n<body><h1>{heading}</h1>\n<p class=\"lead\">{lead}</p>\n",
        escape(title),
        words::STYLE
    )
}

/// Description of a path, for a peer with its version, for a relay with its settings.
fn described(report: &Report, path: PathKind) -> String {
    let name = path.to_string();
    let Circumstances { peers, relays, .. } = &report.circumstances;
    if let Some(peer) = peers.iter().find(|peer| peer.name == name) {
        return format!("{} ({})", words::path(path), peer.version);
    }
    match (path, relays.iter().find(|relay| relay.path == path)) {
        (PathKind::Relay, Some(relay)) => relay.described(),
        _ => words::path(path).to_owned(),
    }
}

/// Colour and dash pattern of each path, in the order of the report.
struct Styles(Vec<(PathKind, (&'static str, &'static str))>);

impl Styles {
    fn of(report: &Report) -> Self {
        let mut kinds: Vec<PathKind> = report
            .scenarios
            .iter()
            .flat_map(|scenario| scenario.paths.iter().map(|path| path.path))
            .collect();
        kinds.sort_unstable();
        kinds.dedup();
        let mut peers = PEERS.iter().cycle();
        let mut dashes = DASHES.iter().cycle();
        let mut style = |kind| match kind {
            PathKind::Direct => DIRECT,
            PathKind::DirectOver(_) => (DIRECT.0, *dashes.next().unwrap_or(&"")),
            PathKind::ForwarderTokio => TOKIO,
            PathKind::ForwarderTokioUring => URING,
            PathKind::ForwarderMonoio => MONOIO,
            PathKind::Peer(_) | PathKind::PeerOver(..) => *peers.next().unwrap_or(&DIRECT),
            PathKind::Relay => RELAY,
            PathKind::RelayOver(_) => (RELAY.0, *dashes.next().unwrap_or(&"")),
            PathKind::RelayEpoll => RELAY_EPOLL,
        };
        Self(kinds.into_iter().map(|kind| (kind, style(kind))).collect())
    }

    fn style(&self, kind: PathKind) -> (&'static str, &'static str) {
        let found = self.0.iter().find(|(path, _)| *path == kind);
        found.map_or(DIRECT, |(_, style)| *style)
    }
}

fn label(metric: Metric, scenario: &ScenarioReport) -> String {
    match metric {
        Metric::HopsCpu | Metric::NearCpu => format!("{}, {}", metric.label(), scenario.cpu_unit),
        _ => metric.label().to_owned(),
    }
}

/// Formats one scenario: description, bars, latency curve, remarks, tables.
fn section(report: &ScenarioReport, styles: &Styles) -> String {
    let scenario = report.scenario;
    let mut out = format!(
        "<section id=\"{}\"><h2>{}</h2>\n<p>{}</p>\n<div class=\"plots\">",
        scenario.name(),
        escape(&capital(&scenario.to_string())),
        words::scenario(scenario)
    );
    for metric in Metric::compared(scenario) {
        let of_path = |path: &PathReport| {
            Some(Bar {
                name: path.path.to_string(),
                colour: styles.style(path.path).0,
                spread: *path.values.get(metric)?,
            })
        };
        let list: Vec<Bar> = report.paths.iter().filter_map(of_path).collect();
        if list.is_empty() {
            continue;
        }
        let better = if metric.more_is_better() {
            "more is better"
        } else {
            "less is better"
        };
        let title = label(*metric, report);
        let _ = writeln!(
            out,
            "<figure><figcaption><b>{}</b> <span>{better}</span></figcaption>{}</figure>",
            escape(&title),
            bars(&title, &list, metric.digits())
        );
    }
    out.push_str(&latency_plot(report, styles));
    out.push_str("</div>\n");
    let remarks = remarks(report);
    if !remarks.is_empty() {
        out.push_str("<ul class=\"remarks\">");
        for remark in remarks {
            let class = if remark.starts_with("Doubtful") {
                " class=\"doubt\""
            } else {
                ""
            };
            let _ = write!(out, "<li{class}>{}</li>", escape(&remark));
        }
        out.push_str("</ul>\n");
    }
    out.push_str("<details><summary>All numbers</summary>\n");
    for grid in grids(report) {
        out.push_str(&table(&grid));
    }
    out.push_str("</details></section>\n");
    out
}

/// Formats a grid as an HTML table.
pub(super) fn table(grid: &Grid) -> String {
    let row = |cells: &[String], tag: &str| {
        let cells: String = cells
            .iter()
            .map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)))
            .collect();
        format!("<tr>{cells}</tr>\n")
    };
    let rows: String = grid.rows.iter().map(|cells| row(cells, "td")).collect();
    format!(
        "<table class=\"grid\">\n{}{rows}</table>\n",
        row(&grid.head, "th")
    )
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}
