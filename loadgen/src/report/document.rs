//! Markdown report of `bench`: results first, then machine and method.

use std::fmt::Write;

use super::Report;
use super::table::{grids, remarks};

/// Formats the whole document. `name` is the base name of the report's other files.
pub(crate) fn markdown(report: &Report, name: &str) -> String {
    let mut out = String::from("# Measurements\n\n");
    out.push_str(
        "Cost of the path through relay and agent, compared with direct TCP, two bare forwarders in a row \
         and, if measured, other programs. Written by `tieline-loadgen bench`; the next run replaces it.\n\n\
         Each number is the median over the rounds, with the smallest and the largest in \
         brackets. `max` is the largest of all rounds.\n",
    );
    for scenario in &report.scenarios {
        let _ = writeln!(out, "\n## {}\n", scenario.scenario);
        for (place, grid) in grids(scenario).iter().enumerate() {
            if place > 0 {
                out.push('\n');
            }
            out.push_str(&grid.markdown());
        }
        let remarks = remarks(scenario);
        if !remarks.is_empty() {
            out.push('\n');
        }
        for remark in remarks {
            let _ = writeln!(out, "- {remark}");
        }
    }
    out.push_str(&report.circumstances.markdown());
    let _ = writeln!(
        out,
        "\nPlots: [{name}.html]({name}.html). Latency histograms: [{name}.hlog]({name}.hlog)."
    );
    out.push_str("The method is described in [README.md](README.md).\n");
    out
}
