//! The report as Markdown: results first, then how they came about.

use std::fmt::Write;

use super::Report;
use super::table::{against_forwarder, cpu, latency, overhead, remarks};

/// The whole document. `log` is the name of the histogram log beside it.
pub(crate) fn markdown(report: &Report, log: &str) -> String {
    let mut out = String::from("# Round trips\n\n");
    out.push_str(
        "What a round trip costs over relay and agent, beside direct TCP and beside two bare \
         forwarders in a row. Written by `tieline-loadgen bench`; the next run replaces it.\n\n\
         Each number is the median over the rounds, with the smallest and the largest in \
         brackets. `max` is the largest of all rounds.\n",
    );
    for scenario in &report.scenarios {
        let _ = writeln!(out, "\n## {}\n", scenario.scenario);
        out.push_str(&latency(scenario).markdown());
        let grids = [
            overhead(scenario),
            against_forwarder(scenario),
            Some(cpu(scenario)),
        ];
        for grid in grids.iter().flatten() {
            out.push('\n');
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
    out.push_str("\n## Where and how\n\n");
    for (name, value) in report.facts() {
        let _ = writeln!(out, "- {name}: {value}");
    }
    for note in &report.notes {
        let _ = writeln!(out, "- note: {note}");
    }
    if let Some(health) = &report.relay_health {
        let _ = writeln!(out, "\nThe relay about itself:\n\n```text\n{health}\n```");
    }
    let _ = writeln!(out, "\nLatency histograms: [{log}]({log}).");
    out.push_str("The method is described in [README.md](README.md).\n");
    out
}
