//! The `bench` command: starts all programs, runs the scenarios and writes the report.

use std::io::{BufWriter, Write};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use hdrhistogram::Histogram;

use crate::cli::BenchFlags;
use crate::histogram::{Interval, write_log};
use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::path::set::PathSet;
use crate::report::files::Files;
use crate::report::{Circumstances, Report, ScenarioReport, document, page};
use crate::scenario::{Outcome, descriptors, rounds};

/// Runs the command.
pub(crate) fn run(flags: &BenchFlags, interrupt: &Interrupt) -> anyhow::Result<()> {
    let (scenarios, method, wanted) = flags.checked()?;
    let files = flags.output.files(&flags.name)?;
    let limit = descriptors::check(&scenarios)?;
    files.prepare()?;
    // Read before pinning, which reduces the number of usable cores.
    let (machine, date) = (Machine::read(), SystemTime::now());
    let mut set = PathSet::start(&wanted, interrupt)?;
    let pinned = if set.is_pinned() {
        "pinned to separate cores"
    } else {
        "not pinned"
    };
    eprintln!("seed {}, processes {pinned}", method.seed);
    let mut random = fastrand::Rng::with_seed(method.seed);
    let mut outcomes = Vec::with_capacity(scenarios.len());
    for scenario in &scenarios {
        outcomes.push(rounds::run(
            *scenario,
            &method,
            &mut set,
            limit,
            &mut random,
            interrupt,
        )?);
    }
    let report = Report {
        circumstances: Circumstances::new(machine, date, method, &set),
        scenarios: outcomes.iter().map(ScenarioReport::new).collect(),
    };
    drop(set);
    write(&files, &report, &outcomes)?;
    if flags.output.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.text());
    }
    eprintln!(
        "written: {} (and .json, .hlog, .html)",
        files.path("md").display()
    );
    Ok(())
}

fn write(files: &Files, report: &Report, outcomes: &[Outcome]) -> anyhow::Result<()> {
    let mut out = BufWriter::new(files.create("hlog")?);
    write_merged(&mut out, outcomes)?;
    out.flush().context("cannot write the histograms")?;
    // On one line, because the file is read by programs and committed to the repository.
    files.save("json", &(serde_json::to_string(report)? + "\n"))?;
    files.save("html", &page::html(report))?;
    files.save("md", &document::markdown(report, files.name()))
}

/// Latencies of one path in one scenario, all rounds together.
struct Merged {
    tag: String,
    started: SystemTime,
    length: Duration,
    latency: Histogram<u64>,
}

/// Writes one histogram per scenario and path, not per round, to keep the committed file small. `rtt --log`
/// writes one per round.
fn write_merged(out: &mut impl Write, outcomes: &[Outcome]) -> anyhow::Result<()> {
    let mut all: Vec<Merged> = Vec::new();
    for outcome in outcomes {
        for measurement in outcome.rounds.iter().flatten() {
            if measurement.tally.latency.is_empty() {
                continue;
            }
            let tag = format!("{}:{}", outcome.scenario.name(), measurement.path);
            if let Some(merged) = all.iter_mut().find(|merged| merged.tag == tag) {
                merged.started = merged.started.min(measurement.started);
                merged.length += measurement.length;
                merged
                    .latency
                    .add(&measurement.tally.latency)
                    .context("cannot add histograms")?;
            } else {
                all.push(Merged {
                    tag,
                    started: measurement.started,
                    length: measurement.length,
                    latency: measurement.tally.latency.clone(),
                });
            }
        }
    }
    let intervals: Vec<Interval<'_>> = all
        .iter()
        .map(|merged| Interval {
            tag: merged.tag.clone(),
            started: merged.started,
            length: merged.length,
            latency: &merged.latency,
        })
        .collect();
    let title = "latency in ns; one line for each scenario and path";
    write_log(out, title, &intervals)
}
