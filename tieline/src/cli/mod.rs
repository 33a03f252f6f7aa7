//! Parses the command line; `settings` and `command` decide what it means.

pub(crate) mod environment;

use std::borrow::Cow;
use std::ffi::OsString;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use tieline_agent::plain::masked;

use crate::paint::{say_lines, say_lines_to_stderr};

/// Publishes a local MCP server under a stable URL, through a Tieline relay.
#[derive(Debug, Parser)]
#[command(name = "tieline", version, about)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Parses a command line; environment variables with an empty value count as not set.
    ///
    /// # Errors
    /// Help, or clap's error about the line.
    pub fn read<T>(line: impl IntoIterator<Item = T>) -> Result<Self, clap::Error>
    where
        T: Into<OsString> + Clone,
    {
        let command = environment::without_empty(Self::command());
        Self::from_arg_matches(&command.try_get_matches_from(line)?)
    }

    /// Parses a command line and ignores all environment variables.
    ///
    /// # Errors
    /// Those of [`Cli::read`].
    pub fn read_alone<T>(line: impl IntoIterator<Item = T>) -> Result<Self, clap::Error>
    where
        T: Into<OsString> + Clone,
    {
        let command = environment::without_variables(Self::command());
        Self::from_arg_matches(&command.try_get_matches_from(line)?)
    }
}

/// The commands of `tieline`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Publish a local server until stopped.
    Serve(Box<crate::settings::ServeArgs>),
    /// Show the agents that run here: tunnel, URL, round trip, sessions.
    Status(crate::status::StatusArgs),
    /// Run relay, agent and a small MCP server in one process, to see that a tunnel works.
    Demo(DemoArgs),
    /// Write a tunnel's URL into the configuration of MCP clients.
    Init(crate::init::InitArgs),
    /// Reach a relay's tunnels through a local address that adds your token.
    Connect(crate::connect::ConnectArgs),
    /// List the tunnels at a relay that you may reach.
    List(crate::list::ListArgs),
    /// Keep tieline serve running through log-ins and restarts.
    Service(crate::service::ServiceArgs),
    /// Find out why an agent cannot reach its relay or its target, one line for each check; takes the flags of serve.
    Diag(Box<crate::diag::DiagArgs>),
    /// Show what a token contains.
    Token(crate::token_show::TokenArgs),
    /// Print the completion script for a shell.
    Completions(crate::completions::CompletionsArgs),
    /// Print the manual page, in roff.
    Man(crate::completions::ManArgs),
}

/// Flags of `tieline demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Make the two calls, then exit with 0 if they worked and 1 if not
    #[arg(long)]
    pub once: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

/// Shows help, or what is wrong with a command line.
pub(crate) fn show_usage(error: &clap::Error) {
    let text = environment::explained(error);
    match masked(&text) {
        // A misplaced token must not stay in the terminal's scroll-back.
        Cow::Owned(text) if error.use_stderr() => say_lines_to_stderr(&text.trim_end()),
        // Help prints the values of environment variables.
        Cow::Owned(text) => say_lines(&text.trim_end()),
        Cow::Borrowed(text) if text != error.render().to_string() => {
            say_lines_to_stderr(&text.trim_end());
        }
        Cow::Borrowed(_) => drop(error.print()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
