//! `tieline completions` and `tieline man`: shell completions and manual pages, made from the definition of the
//! command line.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::exit::{DONE, Ended};

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
pub(crate) fn completions(args: &CompletionsArgs, mut command: Command) -> Result<u8, Ended> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "tieline", &mut script);
    print(&script)
}

/// Prints the manual page, or writes one for each command; returns the exit code.
pub(crate) fn man(args: &ManArgs, command: Command) -> Result<u8, Ended> {
    // `tieline help` shows the pages of its commands.
    let pages = command.disable_help_subcommand(true);
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(pages).render(&mut page);
        rendered.map_err(Ended::failed)?;
        return print(&page);
    };
    let written = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(pages, dir));
    match written {
        Ok(()) => Ok(DONE),
        Err(error) => Err(Ended::failed(format!("{}: {error}", dir.display()))),
    }
}

fn print(text: &[u8]) -> Result<u8, Ended> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        // A reader such as head(1) closes the pipe when it has enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Ended::failed(error)),
        _ => Ok(DONE),
    }
}
