//! Grids of text, for a terminal and for Markdown.

use std::fmt::Write;

use super::{PathReport, Ratio, Report, ScenarioReport};
use crate::path::{PathKind, Role};

/// A table; the first column is text, the others are numbers.
#[derive(Debug)]
pub(super) struct Grid {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    fn new<const N: usize>(head: [&str; N]) -> Self {
        Self {
            head: head.map(str::to_owned).into(),
            rows: Vec::new(),
        }
    }

    /// With blanks between the columns.
    pub(super) fn text(&self) -> String {
        let width = |column: usize| {
            let cells = self
                .rows
                .iter()
                .chain([&self.head])
                .filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut out = String::new();
        for row in [&self.head].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if column == 0 {
                    let _ = write!(line, "  {cell:<width$}");
                } else {
                    let _ = write!(line, "  {cell:>width$}");
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    /// With bars between the columns.
    pub(super) fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut out = line(&self.head);
        out.push_str("|---|");
        out.push_str(&"---:|".repeat(self.head.len().saturating_sub(1)));
        out.push('\n');
        self.rows.iter().for_each(|row| out.push_str(&line(row)));
        out
    }
}

/// Latency and rate of each path.
pub(super) fn latency(report: &ScenarioReport) -> Grid {
    let head = [
        "path",
        "p50 µs",
        "p90 µs",
        "p99 µs",
        "p99.9 µs",
        "max µs",
        "answers/s",
    ];
    let mut grid = Grid::new(head);
    for path in &report.paths {
        let us = |value: f64| format!("{value:.1}");
        grid.rows.push(vec![
            path.path.to_string(),
            format!("{:.1}", path.p50_us),
            us(path.p90_us.median),
            format!("{:.1}", path.p99_us),
            us(path.p999_us.median),
            us(path.max_us.max),
            format!("{:.0}", path.answers_per_s),
        ]);
    }
    grid
}

/// What each path costs beside direct TCP; none if there is no direct path.
pub(super) fn overhead(report: &ScenarioReport) -> Option<Grid> {
    let direct = report
        .paths
        .iter()
        .find(|path| path.path == PathKind::Direct)?;
    let mut grid = Grid::new([
        "against direct",
        "p50 added µs",
        "p50 ×",
        "p99 ×",
        "answers/s ×",
    ]);
    for path in &report.paths {
        let Some(ratios) = &path.to_direct else {
            continue;
        };
        grid.rows.push(vec![
            path.path.to_string(),
            format!("{:+.1}", path.p50_us.median - direct.p50_us.median),
            ratio(ratios.p50.as_ref()),
            ratio(ratios.p99.as_ref()),
            ratio(ratios.answers_per_s.as_ref()),
        ]);
    }
    (!grid.rows.is_empty()).then_some(grid)
}

/// What the relay costs beside the bare forwarders; none without both.
pub(super) fn against_forwarder(report: &ScenarioReport) -> Option<Grid> {
    let mut grid = Grid::new([
        "against the better forwarder",
        "p50 ×",
        "p99 ×",
        "answers/s ×",
        "hops' CPU ×",
    ]);
    for path in report
        .paths
        .iter()
        .filter(|path| path.path == PathKind::Relay)
    {
        let Some(ratios) = &path.to_forwarder else {
            continue;
        };
        grid.rows.push(vec![
            path.path.to_string(),
            named(ratios.p50.as_ref()),
            named(ratios.p99.as_ref()),
            named(ratios.answers_per_s.as_ref()),
            named(ratios.hops_cpu.as_ref()),
        ]);
    }
    (!grid.rows.is_empty()).then_some(grid)
}

/// CPU time of each process per round trip.
pub(super) fn cpu(report: &ScenarioReport) -> Grid {
    let head = [
        "CPU µs per round trip",
        "client",
        "target",
        "near hop",
        "far hop",
        "both hops",
    ];
    let mut grid = Grid::new(head);
    for path in &report.paths {
        let role = |role| match path.cpu_us.get(&role) {
            Some(spread) => format!("{:.2}", spread.median),
            None => "–".to_owned(),
        };
        let hops = path
            .hops_cpu_us
            .map_or_else(|| "–".to_owned(), |spread| format!("{spread:.2}"));
        grid.rows.push(vec![
            path.path.to_string(),
            role(Role::Client),
            role(Role::Target),
            role(Role::NearHop),
            role(Role::FarHop),
            hops,
        ]);
    }
    grid
}

fn ratio(ratio: Option<&Ratio>) -> String {
    ratio.map_or_else(|| "–".to_owned(), |ratio| ratio.spread.to_string())
}

fn named(ratio: Option<&Ratio>) -> String {
    let Some(ratio) = ratio else {
        return "–".to_owned();
    };
    let runtime = if ratio.to == PathKind::ForwarderTokio {
        "tokio"
    } else {
        "uring"
    };
    format!("{} {runtime}", ratio.spread)
}

/// What a reader of one scenario should be told beside its tables.
pub(super) fn remarks(report: &ScenarioReport) -> Vec<String> {
    let mut remarks = Vec::new();
    let all: usize = report.paths.iter().map(|path| path.rounds.len()).sum();
    let noisy = report.noisy_rounds();
    let count: usize = noisy.iter().map(|(_, rounds)| rounds.len()).sum();
    if count > 0 {
        let list: Vec<String> = noisy
            .iter()
            .map(|(path, rounds)| {
                let rounds: Vec<String> = rounds.iter().map(usize::to_string).collect();
                format!("{path} in round {}", rounds.join(", "))
            })
            .collect();
        remarks.push(format!(
            "Doubtful: other processes took much CPU in {count} of {all} measurements: {}.",
            list.join("; ")
        ));
    }
    for path in &report.paths {
        if path.unanswered > 0 {
            remarks.push(format!(
                "{}: {} of {} requests had no answer 5 s after the end; they count with the time \
                 they waited.",
                path.path, path.unanswered, path.round_trips
            ));
        }
        if let Some(late) = late_generator(path) {
            remarks.push(late);
        }
    }
    remarks
}

/// A note if the generator itself makes up a good part of what it measured.
fn late_generator(path: &PathReport) -> Option<String> {
    let delay = path.send_delay_p99_us?.median;
    let p99 = path.p99_us.median;
    (delay > p99 / 4.0).then(|| {
        format!(
            "{}: the generator was up to {delay:.0} µs late for 99 % of its sends, which is part \
             of the {p99:.0} µs of p99.",
            path.path
        )
    })
}

impl Report {
    /// The whole report for a terminal.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        for scenario in &self.scenarios {
            let _ = writeln!(
                out,
                "\n{}; {} rounds of {} s, seed {}",
                scenario.scenario, self.method.rounds, self.method.measured_s, self.method.seed
            );
            out.push_str(&latency(scenario).text());
            for grid in [overhead(scenario), against_forwarder(scenario)]
                .iter()
                .flatten()
            {
                out.push('\n');
                out.push_str(&grid.text());
            }
            out.push('\n');
            out.push_str(&cpu(scenario).text());
            for remark in remarks(scenario) {
                let _ = writeln!(out, "  {remark}");
            }
        }
        out.push('\n');
        for (name, value) in self.facts() {
            let _ = writeln!(out, "{name}: {value}");
        }
        for note in &self.notes {
            let _ = writeln!(out, "note: {note}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let mut grid = Grid::new(["path", "µs"]);
        grid.rows.push(vec!["direct".to_owned(), "22.5".to_owned()]);
        grid.rows.push(vec!["relay".to_owned(), "102.6".to_owned()]);
        grid
    }

    #[test]
    fn numbers_are_aligned_to_the_right() {
        assert_eq!(
            grid().text(),
            "  path       µs\n  direct   22.5\n  relay   102.6\n"
        );
    }

    #[test]
    fn markdown_has_a_line_under_the_head() {
        assert_eq!(
            grid().markdown(),
            "| path | µs |\n|---|---:|\n| direct | 22.5 |\n| relay | 102.6 |\n"
        );
    }
}
