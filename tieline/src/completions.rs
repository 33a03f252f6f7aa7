//! `tieline completions` and `tieline man`: shell completions and manual pages, made from the definition of the
//! command line.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

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
pub(crate) fn completions(args: &CompletionsArgs, mut command: Command) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "tieline", &mut script);
    print(&script)
}

/// Prints the manual page, or writes one for each command; returns the exit code.
pub(crate) fn man(args: &ManArgs, command: Command) -> u8 {
    // `tieline help` shows the pages of its commands.
    let pages = command.disable_help_subcommand(true);
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        return match clap_mangen::Man::new(pages).render(&mut page) {
            Ok(()) => print(&page),
            Err(error) => failed(&error),
        };
    };
    let written = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(pages, dir));
    match written {
        Ok(()) => DONE,
        Err(error) => failed(&format!("{}: {error}", dir.display())),
    }
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
