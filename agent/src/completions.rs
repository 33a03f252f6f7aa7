//! `tieline completions` and `tieline man`: shell completions and manual pages, made from the definition of the
//! command line.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::paint::complain;

const DONE: u8 = 0;
const FAILED: u8 = 1;

/// Flags of `tieline completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell to print completions for
    pub shell: Shell,
}

/// Flags of `tieline man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a manual page for each command into this folder
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Prints the completion script of a shell; returns the exit code.
pub(crate) fn completions(args: &CompletionsArgs) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tieline", &mut script);
    print(&script)
}

/// Prints the manual page, or writes one for each command; returns the exit code.
pub(crate) fn man(args: &ManArgs) -> u8 {
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        return match clap_mangen::Man::new(pages()).render(&mut page) {
            Ok(()) => print(&page),
            Err(error) => failed(&error),
        };
    };
    let written =
        std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(pages(), dir));
    match written {
        Ok(()) => DONE,
        Err(error) => failed(&format!("{}: {error}", dir.display())),
    }
}

/// The commands that get a manual page: all but `tieline help`, which shows the other commands' pages.
fn pages() -> clap::Command {
    Cli::command().disable_help_subcommand(true)
}

fn print(text: &[u8]) -> u8 {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        // A reader such as head(1) closes the pipe when it has enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => failed(&error),
        _ => DONE,
    }
}

fn failed(problem: &dyn std::fmt::Display) -> u8 {
    complain(&problem);
    FAILED
}
