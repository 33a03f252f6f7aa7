//! The `instructions` command: instructions of relay and agent per round trip, call and MiB.
//!
//! CPU time depends on the machine and its other load; instruction counts hardly do. Each load runs
//! twice on fresh processes, short and long. The difference of the counts is divided by the difference
//! in work, which cancels the cost of start, registration and shutdown.

pub(crate) mod counter;
mod document;
mod load;

use std::fs;
use std::time::{Duration, SystemTime};

use anyhow::Context;

use crate::cli::InstructionsFlags;
use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::path::PathKind;
use crate::path::relay::{Binaries, RelayPair};
use crate::process::{Program, Running};
use crate::report::Spread;
use counter::Counter;
use load::Load;

/// How long a process may take to exit: callgrind writes its counts then.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// Instruction counts of relay and agent.
#[derive(Clone, Copy, Debug)]
struct Counts {
    relay: f64,
    agent: f64,
}

/// One load over all rounds: instructions per unit of work.
#[derive(Debug)]
struct Counted {
    load: Load,
    relay: Spread,
    agent: Spread,
}

/// Runs the command and writes the report.
pub(crate) fn run(flags: &InstructionsFlags, interrupt: &Interrupt) -> anyhow::Result<()> {
    fs::create_dir_all(&flags.out)
        .with_context(|| format!("cannot create the folder {}", flags.out.display()))?;
    let date = SystemTime::now();
    let directory = tempfile::Builder::new()
        .prefix("tieline-loadgen-")
        .tempdir()?;
    let counter = Counter::find(directory.path())?;
    let (rounds, binaries) = flags.checked(counter)?;
    eprintln!("counted by `{counter}`");

    let mut counted: Vec<Vec<Counts>> = vec![Vec::new(); Load::ALL.len()];
    for round in 1..=rounds {
        for (load, counted) in Load::ALL.into_iter().zip(&mut counted) {
            let [short, long] = load
                .units()
                .map(|units| once(load, units, &binaries, counter, interrupt));
            let ((short, short_units), (long, long_units)) = (short?, long?);
            let units = long_units - short_units;
            let counts = Counts {
                relay: (long.relay - short.relay) / units,
                agent: (long.agent - short.agent) / units,
            };
            eprintln!(
                "round {round}, {}: relay {:.0}, agent {:.0}",
                load.name(),
                counts.relay,
                counts.agent
            );
            counted.push(counts);
        }
    }
    let results: Vec<Counted> = Load::ALL
        .into_iter()
        .zip(&counted)
        .map(|(load, counts)| Counted {
            load,
            relay: Spread::of(counts.iter().map(|it| it.relay)),
            agent: Spread::of(counts.iter().map(|it| it.agent)),
        })
        .collect();
    let text = document::markdown(&results, rounds, counter, &Machine::read(), date);
    let path = flags.out.join("instructions.md");
    fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    print!("{text}");
    eprintln!("written: {}", path.display());
    Ok(())
}

/// Starts a target, a relay and an agent, does the work over one connection and stops relay and agent.
/// Returns their instruction counts from start to exit, and the units of work done.
fn once(
    load: Load,
    units: u64,
    binaries: &Binaries,
    counter: Counter,
    interrupt: &Interrupt,
) -> anyhow::Result<(Counts, f64)> {
    interrupt.check()?;
    let directory = tempfile::Builder::new()
        .prefix("tieline-loadgen-")
        .tempdir()?;
    let (word, kind) = load.target();
    let program = Program::own("target", &["target", word], Vec::new())?;
    let mut target = Running::start(&program, directory.path())?;
    let address = target.wait_for_address(kind, interrupt)?;
    let mut binaries = binaries.clone();
    let arguments = load.relay_arguments().iter().map(|&word| word.to_owned());
    binaries.relay_arguments.extend(arguments);
    let pair = RelayPair::start(
        PathKind::Relay,
        &binaries,
        &address.to_string(),
        (None, None),
        (directory.path(), None),
        interrupt,
    )?;
    let done = load
        .run(&pair, units)
        .with_context(|| format!("{} failed", load.name()))?;
    for process in pair.agents.into_iter().chain([pair.relay]) {
        process.end(END_PATIENCE)?;
    }
    let total = |name| Ok::<_, anyhow::Error>(counter.total(name, directory.path())? as f64);
    let counts = Counts {
        relay: total("relay")?,
        agent: total("agent-0")?,
    };
    Ok((counts, done))
}
