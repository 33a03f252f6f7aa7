//! The load generator: cost of a relay path compared with direct TCP and with bare forwarders.
//!
//! Imports no other crate of this workspace: like any caller, it knows only a host, a port and a preamble.

#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("tieline-loadgen drives epoll and reads /proc, so it runs on Linux only");

mod blocks;
mod cli;
mod cpu;
mod emulator;
mod exchange;
mod histogram;
mod instructions;
mod interrupt;
mod machine;
mod memory;
mod path;
mod pattern;
mod process;
mod pump;
mod report;
mod scenario;
mod settings;
mod socket;
mod targets;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command, SingleFlags};
use interrupt::{Interrupt, Interrupted};
use scenario::Scenario;
use settings::UsageError;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) if error.is::<UsageError>() => {
            eprintln!("error: {error}\n\nFor more information, try '--help'.");
            ExitCode::from(2)
        }
        Err(error) if error.chain().any(|cause| cause.is::<Interrupted>()) => {
            eprintln!("stopped by a signal: nothing was written");
            // Exit code that a shell reports for a program ended by SIGINT: 128 + 2.
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn single(scenario: Scenario, flags: &SingleFlags) -> anyhow::Result<()> {
    scenario::single::run(scenario, flags, &Interrupt::listen()?)
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let done = match command {
        Command::Rtt(flags) => single(flags.scenario()?, &flags.single),
        Command::Bulk(flags) => single(flags.scenario()?, &flags.single),
        Command::Connect(flags) => single(flags.scenario()?, &flags.single),
        Command::Idle(flags) => single(flags.scenario()?, &flags.single),
        Command::Fanout(flags) => single(flags.scenario()?, &flags.single),
        Command::Mixed(flags) => single(flags.scenario()?, &flags.single),
        Command::Bench(flags) => scenario::bench::run(&flags, &Interrupt::listen()?),
        Command::Instructions(flags) => instructions::run(&flags, &Interrupt::listen()?),
        Command::Scaling(flags) => scenario::scaling::run(&flags, &Interrupt::listen()?),
        Command::Path(flags) => return emulator::run(&flags, &Interrupt::listen()?),
        Command::Target(flags) => targets::run(&flags),
        Command::Forwarder(flags) => path::forwarder::run(&flags),
        Command::Child(flags) => process::become_child(&flags),
        Command::PathGuard(flags) => emulator::guard::run(&flags),
    };
    done.map(|()| ExitCode::SUCCESS)
}
