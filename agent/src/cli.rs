//! The command line as typed; what it means is decided in `config` and `command`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Publishes a local MCP server under a stable URL, through a Tieline relay.
#[derive(Debug, Parser)]
#[command(name = "tieline", version, about, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands of `tieline`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Publish a local server until stopped.
    Serve(ServeArgs),
    /// Show the agents that run here: tunnel, URL, round trip, sessions.
    Status(StatusArgs),
    /// Relay, agent and a small MCP server in one process, to see it work.
    Demo(DemoArgs),
    /// Write a tunnel's URL into the configuration of MCP clients.
    Init(crate::init::InitArgs),
    /// Reach a relay's tunnels through a local address that adds your token.
    Connect(crate::connect::ConnectArgs),
    /// Keep tieline serve running through log-ins and restarts.
    Service(crate::service::ServiceArgs),
    /// Look at a token.
    Token(crate::token_show::TokenArgs),
    /// Print what a shell needs to complete this command line.
    Completions(crate::completions::CompletionsArgs),
    /// Print the manual page, in roff.
    Man(crate::completions::ManArgs),
}

/// Flags of `tieline serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The relay: tcp://host:port
    #[arg(long, value_name = "URL", env = "TIELINE_RELAY")]
    pub relay: String,
    /// The local server: host:port or http://host:port/path
    #[arg(long, value_name = "TARGET", env = "TIELINE_TO")]
    pub to: String,
    /// Tunnel name to ask for; by default one that is derived from this agent's key
    #[arg(long, env = "TIELINE_NAME")]
    pub name: Option<String>,
    /// Kind of application, such as maya or blender
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        env = "TIELINE_DCC"
    )]
    pub dcc: String,
    /// File (mode 0600) with the token to register with
    #[arg(long, value_name = "FILE", env = "TIELINE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// A word to list beside the tunnel; may be repeated
    #[arg(
        long = "capability",
        value_name = "C",
        env = "TIELINE_CAPABILITIES",
        value_delimiter = ','
    )]
    pub capabilities: Vec<String>,
    /// What a derived name is made from; by default the target
    #[arg(long, env = "TIELINE_LABEL")]
    pub label: Option<String>,
    /// Links to the relay for this one tunnel, each served by another of the relay's cores
    #[arg(long, value_name = "N", default_value_t = 1, env = "TIELINE_LINKS")]
    pub links: u16,
    /// One link; end when it ends instead of dialling again
    #[arg(long)]
    pub once: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
    /// Name of this machine, where hosts share an image and so look like one (containers)
    #[arg(long, value_name = "NAME", env = "TIELINE_MACHINE")]
    pub machine: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub state: StateArgs,
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
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_takes_what_the_contract_lists() {
        let cli = Cli::try_parse_from([
            "tieline",
            "serve",
            "--relay",
            "tcp://r:1",
            "--to",
            "127.0.0.1:2",
            "--name",
            "n",
            "--dcc",
            "maya",
            "--token-file",
            "t",
            "--capability",
            "a",
            "--capability",
            "b",
            "--links",
            "2",
            "--once",
            "--json",
        ])
        .unwrap();
        let Command::Serve(args) = cli.command else {
            panic!("serve was asked for")
        };
        assert_eq!(args.capabilities, ["a", "b"]);
        assert_eq!(args.links, 2);
        assert!(args.once && args.json);
    }

    #[test]
    fn a_missing_flag_is_named() {
        let error = Cli::try_parse_from(["tieline", "serve", "--to", "127.0.0.1:2"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("--relay"), "{error}");
    }
}
