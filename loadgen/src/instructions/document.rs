//! Markdown report: results first, then machine and method.

use std::fmt::Write;
use std::process::Command;
use std::time::SystemTime;

use super::Counted;
use super::counter::Counter;
use crate::machine::{Machine, command_line, commit, utc};

pub(super) fn markdown(
    results: &[Counted],
    rounds: usize,
    counter: Counter,
    machine: &Machine,
    date: SystemTime,
) -> String {
    let mut out = String::from(
        "# Instructions\n\n\
         Instructions that relay and agent execute in user space per unit of work over one session, on epoll \
         with one shard. Written by\n`tieline-loadgen instructions`; the next run replaces it. \
         Kernel instructions are not counted.\n\n\
         Each load runs twice on fresh processes, short and long; each number is the difference of \
         the two counts divided by the\ndifference in work, the median over the rounds with the \
         smallest and the largest in brackets. Bulk stays on the link\n(`--bulk-run-bytes=0`). Bulk \
         numbers spread: bytes that the next socket does not take at once are copied, which \
         depends on timing.\n\n\
         | unit of work | short, long run | relay | agent |\n|---|---:|---:|---:|\n",
    );
    for Counted { load, relay, agent } in results {
        let [short, long] = load.units();
        let name = load.name();
        let _ = writeln!(
            out,
            "| {name} | {short}, {long} | {relay:.0} | {agent:.0} |"
        );
    }
    out.push_str("\n## Where and how\n\n");
    for (name, value) in [
        ("date", utc(date)),
        ("commit", commit()),
        ("command", format!("`{}`", command_line())),
        ("machine", machine.to_string()),
        ("kernel", machine.system()),
        ("compiler", version("rustc")),
        (
            "counted by",
            format!("`{counter}`, {}", version(counter.program())),
        ),
        ("rounds", rounds.to_string()),
    ] {
        let _ = writeln!(out, "- {name}: {value}");
    }
    out
}

/// Version line of a program; the compiler's is in the report because counts change with it.
fn version(program: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    output.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
