//! Commands that run one scenario and print its report.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::time::SystemTime;

use anyhow::Context;

use crate::cli::SingleFlags;
use crate::histogram::{Interval, write_log};
use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::path::set::PathSet;
use crate::report::{Circumstances, Report, ScenarioReport, page};
use crate::scenario::{Outcome, Scenario, descriptors, rounds};

/// Runs the scenario over all paths and writes the requested files.
pub(crate) fn run(
    scenario: Scenario,
    flags: &SingleFlags,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let (method, wanted) = flags.checked()?;
    let limit = descriptors::check(&[scenario])?;
    // Read before pinning, which reduces the number of usable cores.
    let (machine, date) = (Machine::read(), SystemTime::now());
    let mut set = PathSet::start(&wanted, interrupt)?;
    eprintln!("seed {}", method.seed);
    let mut random = fastrand::Rng::with_seed(method.seed);
    let outcome = rounds::run(scenario, &method, &mut set, limit, &mut random, interrupt)?;
    if let Some(path) = &flags.log {
        let file = File::create(path)
            .with_context(|| format!("cannot write the log {}", path.display()))?;
        let mut out = BufWriter::new(file);
        write_rounds(&mut out, &outcome)?;
        out.flush()
            .with_context(|| format!("cannot write the log {}", path.display()))?;
    }
    let report = Report {
        circumstances: Circumstances::new(machine, date, method, &set),
        scenarios: vec![ScenarioReport::new(&outcome)],
    };
    if let Some(path) = &flags.html {
        std::fs::write(path, page::html(&report))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.text());
    }
    Ok(())
}

/// Writes the histogram of each path and round as an interval log, in order of time.
fn write_rounds(out: &mut impl Write, outcome: &Outcome) -> anyhow::Result<()> {
    let mut intervals: Vec<Interval<'_>> = outcome
        .rounds
        .iter()
        .flatten()
        .map(|measurement| Interval {
            tag: measurement.path.to_string(),
            started: measurement.started,
            length: measurement.length,
            latency: &measurement.tally.latency,
        })
        .collect();
    intervals.sort_by_key(|interval| interval.started);
    write_log(
        out,
        &format!("{}; latency in ns", outcome.scenario),
        &intervals,
    )
}
