//! The command line as typed; what it means is decided in `config` and `command`.

pub(crate) mod environment;
mod serve;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use self::serve::ServeArgs;

/// Publishes a local MCP server under a stable URL, through a Tieline relay.
#[derive(Debug, Parser)]
#[command(name = "tieline", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads a command line, and the variables that have a value.
    ///
    /// # Errors
    /// Help, or what is wrong with the line, as clap has it.
    pub fn read<T>(line: impl IntoIterator<Item = T>) -> Result<Self, clap::Error>
    where
        T: Into<OsString> + Clone,
    {
        let command = environment::without_empty(Self::command());
        Self::from_arg_matches(&command.try_get_matches_from(line)?)
    }

    /// Reads a command line alone, whatever variables there are.
    ///
    /// # Errors
    /// As of [`Cli::read`].
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
    Serve(Box<ServeArgs>),
    /// Show the agents that run here: tunnel, URL, round trip, sessions.
    Status(StatusArgs),
    /// Relay, agent and a small MCP server in one process, to see it work.
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
    /// Look at a token.
    Token(crate::token_show::TokenArgs),
    /// Print what a shell needs to complete this command line.
    Completions(crate::completions::CompletionsArgs),
    /// Print the manual page, in roff.
    Man(crate::completions::ManArgs),
}

/// Flags of `tieline status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub state: StateArgs,
}

/// Flags of `tieline demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Make the two calls, then end with 0 if they worked and 1 if not
    #[arg(long)]
    pub once: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

/// Where the agent keeps what survives a restart.
#[derive(Debug, Args)]
pub struct StateArgs {
    /// Directory of the agent's key and status socket
    #[arg(long, value_name = "DIR", env = "TIELINE_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
