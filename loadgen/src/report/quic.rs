//! Table of bulk transfers over QUIC through the relay, compared with `quinn` to `quinn` without a hop.

use super::arithmetic::ratios;
use super::grid::{Grid, or_dash};
use super::metric::Metric;
use super::{PathReport, ScenarioReport};
use crate::path::{PathKind, Role, Wrapping};
use crate::scenario::Scenario;

/// The path whose client and target are `quinn`.
const QUINN: PathKind = PathKind::DirectOver(Wrapping::Quic);

/// Formats the table; `None` for other loads, and without `direct-quic` or a relay path with QUIC.
pub(super) fn grid(report: &ScenarioReport) -> Option<Grid> {
    let Scenario::Bulk { .. } = report.scenario else {
        return None;
    };
    let quinn = report.paths.iter().find(|path| path.path == QUINN)?;
    let mut grid = Grid::new([
        format!("against {QUINN}"),
        format!("{} ×", Metric::MibPerS.label()),
        format!("{}, × its server's", Metric::NearCpu.label()),
    ]);
    let is_wanted = |path: &&PathReport| path.path.is_relay() && path.path.wrapped().has_quic();
    for path in report.paths.iter().filter(is_wanted) {
        let rates = (
            path.over_rounds(Metric::MibPerS),
            quinn.over_rounds(Metric::MibPerS),
        );
        let times = (cpu(path, Role::NearHop), cpu(quinn, Role::Target));
        let mut row = vec![path.path.to_string()];
        row.extend([rates, times].map(|(own, base)| {
            let spread = own.zip(base).and_then(|(own, base)| ratios(&own, &base));
            or_dash(spread.map(|spread| spread.to_string()))
        }));
        grid.rows.push(row);
    }
    (!grid.rows.is_empty()).then_some(grid)
}

/// CPU time of a role in all rounds, in seconds per GiB; `None` if a round lacks it.
fn cpu(path: &PathReport, role: Role) -> Option<Vec<f64>> {
    let rounds = path.rounds.iter();
    rounds.map(|round| round.cpu.get(&role).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::quic_outcome;

    #[test]
    fn a_bulk_over_quic_is_compared_with_quinn_to_quinn_and_the_relay_with_its_server() {
        let report = ScenarioReport::new(&quic_outcome("bulk-up-1"));
        let text = grid(&report).unwrap().text();
        // The server takes 0.4 s for a GiB.
        for (path, rate, cpu) in [
            ("relay-quic-link", "0.75", "1.20"),
            ("relay-quic-caller", "0.75", "1.67"),
            ("relay-quic", "0.50", "3.00"),
        ] {
            let mut lines = text.lines().map(str::split_whitespace);
            let cells: Vec<&str> = lines
                .find_map(|mut cells| (cells.next() == Some(path)).then(|| cells.collect()))
                .unwrap_or_else(|| panic!("no {path}: {text}"));
            assert_eq!(cells, [rate, cpu], "{path}");
        }
        assert_eq!(text.lines().count(), 4, "{text}");
    }

    #[test]
    fn other_loads_and_runs_without_quinn_have_no_such_table() {
        assert!(grid(&ScenarioReport::new(&quic_outcome("64x256"))).is_none());
        let mut outcome = quic_outcome("bulk-up-1");
        for round in &mut outcome.rounds {
            round.retain(|one| one.path != QUINN);
        }
        assert!(grid(&ScenarioReport::new(&outcome)).is_none());
    }
}
