//! The tables of a report.

use std::fmt::Write;

use super::grid::{Grid, or_dash};
use super::metric::{GIB, Metric};
use super::{PathReport, Ratio, Ratios, Report, ScenarioReport, quic, wrapped};
use crate::path::{PathKind, Role};
use crate::scenario::{LeftOut, Scenario};

/// All tables of a scenario, the most important first.
pub(super) fn grids(report: &ScenarioReport) -> Vec<Grid> {
    let tables = [
        Some(values(report)),
        overhead(report),
        against(report, "the better forwarder", |path| {
            path.to_forwarder.as_ref()
        }),
        against(report, "the best peer", |path| path.to_peer.as_ref()),
        against(report, "relay", |path| path.to_relay.as_ref()),
        cpu(report),
        quic::grid(report),
        wrapped::grid(report),
    ];
    tables.into_iter().flatten().collect()
}

/// Table of the measured values of each path.
fn values(report: &ScenarioReport) -> Grid {
    let metrics = Metric::of(report.scenario);
    let head = metrics.iter().map(|metric| metric.label());
    let mut grid = Grid::new(std::iter::once("path").chain(head));
    let with_spread = Metric::compared(report.scenario);
    for path in &report.paths {
        let cell = |metric: &Metric| {
            let digits = metric.digits();
            let Some(spread) = path.values.get(metric) else {
                return "–".to_owned();
            };
            match metric {
                Metric::MaxUs | Metric::LastMaxUs => format!("{:.digits$}", spread.max),
                _ if with_spread.contains(metric) => format!("{spread:.digits$}"),
                _ => format!("{:.digits$}", spread.median),
            }
        };
        let cells = metrics.iter().map(cell);
        grid.rows.push(
            std::iter::once(path.path.to_string())
                .chain(cells)
                .collect(),
        );
    }
    grid
}

/// Table of each path's cost compared with direct TCP; `None` without a direct path.
pub(super) fn overhead(report: &ScenarioReport) -> Option<Grid> {
    let mut of_paths = report.paths.iter();
    let direct = of_paths.find(|path| path.path.is_direct())?;
    // The direct path has no hops, so CPU time and memory of hops cannot be compared with it.
    let metrics: Vec<Metric> = Metric::compared(report.scenario)
        .iter()
        .copied()
        .filter(|metric| direct.values.contains_key(metric))
        .collect();
    let has_latency = metrics.contains(&Metric::P50Us);
    let added: &[Metric] = match (has_latency, report.scenario.is_http()) {
        (true, true) => &Metric::ADDED,
        (true, false) => &Metric::ADDED[..1],
        (false, _) => &[],
    };
    let mut head = vec!["against direct".to_owned()];
    head.extend(added.iter().map(|metric| {
        let label = metric.label();
        format!("{} added µs", label.strip_suffix(" µs").unwrap_or(label))
    }));
    head.extend(metrics.iter().map(|metric| times(*metric)));
    let mut grid = Grid::new(head);
    for path in &report.paths {
        let Some(ratios) = &path.to_direct else {
            continue;
        };
        let mut row = vec![path.path.to_string()];
        let own = path.path.wrapped().caller.of_direct();
        let base = |base: &&PathReport| base.path.is_direct() && base.path.wrapped().caller == own;
        let base = report.paths.iter().find(base);
        row.extend(added.iter().map(|metric| {
            if let Some(spread) = path.added.get(metric) {
                return format!("{spread:.1}");
            }
            let medians = path
                .median(*metric)
                .zip(base.and_then(|base| base.median(*metric)));
            or_dash(medians.map(|(own, base)| format!("{:+.1}", own - base)))
        }));
        let ratio = |metric| {
            ratios
                .get(metric)
                .map(|ratio: &Ratio| ratio.spread.to_string())
        };
        row.extend(metrics.iter().map(|metric| or_dash(ratio(metric))));
        grid.rows.push(row);
    }
    (!grid.rows.is_empty()).then_some(grid)
}

/// Table of ratios to the best of several paths; `None` if no path has such ratios.
pub(super) fn against(
    report: &ScenarioReport,
    whom: &str,
    of: fn(&PathReport) -> Option<&Ratios>,
) -> Option<Grid> {
    let metrics = Metric::compared(report.scenario);
    let head = metrics.iter().map(|metric| times(*metric));
    let mut grid = Grid::new(std::iter::once(format!("against {whom}")).chain(head));
    for path in &report.paths {
        let Some(ratios) = of(path) else { continue };
        let cells = metrics.iter().map(|metric| {
            let ratio = ratios.get(metric);
            or_dash(ratio.map(|ratio| {
                let text = format!("{} {}", ratio.spread, short_name(ratio.to));
                text.trim_end().to_owned()
            }))
        });
        grid.rows.push(
            std::iter::once(path.path.to_string())
                .chain(cells)
                .collect(),
        );
    }
    (!grid.rows.is_empty()).then_some(grid)
}

/// Table of the CPU time of each role and the memory of the hops.
fn cpu(report: &ScenarioReport) -> Option<Grid> {
    let roles = [Role::Client, Role::Target, Role::NearHop, Role::FarHop];
    let mut grid = Grid::new([
        format!("CPU {}", report.cpu_unit),
        "client".to_owned(),
        "target".to_owned(),
        "near hop".to_owned(),
        "far hop".to_owned(),
        "all hops".to_owned(),
        Metric::HopsRssMib.label().to_owned(),
    ]);
    for path in &report.paths {
        let of_role = |role| {
            let spread = path.cpu.get(role);
            or_dash(spread.map(|spread| format!("{:.2}", spread.median)))
        };
        let mut row = vec![path.path.to_string()];
        row.extend(roles.iter().map(of_role));
        for metric in [Metric::HopsCpu, Metric::HopsRssMib] {
            let digits = metric.digits();
            let spread = path.values.get(&metric);
            row.push(or_dash(spread.map(|spread| format!("{spread:.digits$}"))));
        }
        grid.rows.push(row);
    }
    (!grid.rows.is_empty()).then_some(grid)
}

fn times(metric: Metric) -> String {
    let label = metric.label();
    format!("{} ×", label.strip_suffix(" µs").unwrap_or(label))
}

/// Short name of a path in a ratio cell; empty if the column has only one path to compare with.
pub(super) fn short_name(path: PathKind) -> String {
    match path {
        PathKind::ForwarderTokio => "tokio".to_owned(),
        PathKind::ForwarderTokioUring => "uring".to_owned(),
        PathKind::ForwarderMonoio => "monoio".to_owned(),
        PathKind::Direct | PathKind::DirectOver(_) | PathKind::Relay => String::new(),
        _ => path.to_string(),
    }
}

/// Remarks on one scenario, shown next to its tables.
pub(super) fn remarks(report: &ScenarioReport) -> Vec<String> {
    let mut remarks: Vec<String> = noise(report).into_iter().collect();
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for LeftOut { path, reason } in &report.left_out {
        match reasons
            .iter_mut()
            .find(|(known, _)| *known == reason.as_str())
        {
            Some((_, paths)) => paths.push(path.to_string()),
            None => reasons.push((reason.as_str(), vec![path.to_string()])),
        }
    }
    for (reason, paths) in reasons {
        let they = if paths.len() == 1 { "it" } else { "each" };
        let paths = paths.join(", ");
        remarks.push(format!("{paths} left out: {they} {reason}."));
    }
    if report.repeated > 0 {
        remarks.push(format!(
            "Discarded and repeated because other processes took much CPU: {} of {} rounds.",
            report.repeated,
            report.repeated + report.paths.first().map_or(0, |path| path.rounds.len())
        ));
    }
    let moved: Vec<String> = report
        .paths
        .iter()
        .filter(|path| path.bulk_bytes > 0)
        .map(|path| format!("{} {:.1} GiB", path.path, path.bulk_bytes as f64 / GIB))
        .collect();
    if !moved.is_empty() {
        remarks.push(format!(
            "Moved and checked byte by byte: {}.",
            moved.join(", ")
        ));
    }
    for path in &report.paths {
        remarks.extend(remarks_on(path, report.scenario));
    }
    remarks
}

/// A remark if other processes took much CPU during measurements that the tables contain.
fn noise(report: &ScenarioReport) -> Option<String> {
    let all: usize = report.paths.iter().map(|path| path.rounds.len()).sum();
    let noisy = report.noisy_rounds();
    let count: usize = noisy.iter().map(|(_, rounds)| rounds.len()).sum();
    if count == 0 {
        return None;
    }
    if count == all {
        return Some(format!(
            "Doubtful: other processes took much CPU in all {all} measurements."
        ));
    }
    let list: Vec<String> = noisy
        .iter()
        .map(|(path, rounds)| {
            let rounds: Vec<String> = rounds.iter().map(usize::to_string).collect();
            format!("{path} in round {}", rounds.join(", "))
        })
        .collect();
    Some(format!(
        "Doubtful: other processes took much CPU in {count} of {all} measurements: {}.",
        list.join("; ")
    ))
}

/// Remarks on the values of one path.
fn remarks_on(path: &PathReport, scenario: Scenario) -> Vec<String> {
    let mut remarks = Vec::new();
    if path.unanswered > 0 {
        remarks.push(format!(
            "{}: {} of {} requests had no answer 5 s after the end; they are counted with the time \
             they waited.",
            path.path, path.unanswered, path.round_trips
        ));
    }
    let is_fanout = matches!(scenario, Scenario::Fanout { .. });
    if is_fanout && path.median(Metric::LastP50Us).is_none() {
        remarks.push(format!(
            "{}: in at least one round no burst started within the measured time, because the burst of the \
             warm-up took longer: raise --duration.",
            path.path
        ));
    }
    if let Scenario::FirstEvents { .. } = scenario
        && let Some(added) = path.added.get(&Metric::P99Us)
    {
        remarks.push(format!(
            "{}: p99 of the first event is {added:.0} µs above that of direct.",
            path.path
        ));
    }
    remarks.extend(late_generator(path));
    remarks
}

/// A remark if the generator's own delay is a large part of the measured latency.
fn late_generator(path: &PathReport) -> Option<String> {
    let delay = path.median(Metric::SendDelayP99Us)?;
    let p99 = path.median(Metric::P99Us)?;
    (delay > p99 / 4.0).then(|| {
        format!(
            "{}: 99 % of the generator's sends were at most {delay:.0} µs late; this delay is part \
             of the p99 of {p99:.0} µs.",
            path.path
        )
    })
}

impl Report {
    /// Formats the whole report for the terminal.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let method = self.circumstances.method;
        for scenario in &self.scenarios {
            let _ = writeln!(
                out,
                "\n{}; {} rounds of {} s, seed {}",
                scenario.scenario, method.rounds, method.measured_s, method.seed
            );
            for (place, grid) in grids(scenario).iter().enumerate() {
                if place > 0 {
                    out.push('\n');
                }
                out.push_str(&grid.text());
            }
            for remark in remarks(scenario) {
                let _ = writeln!(out, "  {remark}");
            }
        }
        out.push_str(&self.circumstances.text());
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
