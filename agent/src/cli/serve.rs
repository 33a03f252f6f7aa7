//! The flags of `tieline serve` as typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};

use super::StateArgs;
use crate::config::parse_time;

/// Flags of `tieline serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The relay's port for agents (9001 unless its operator says otherwise): tcp://host:port
    #[arg(long, value_name = "URL", env = "TIELINE_RELAY")]
    pub relay: Option<String>,
    /// A local server: host:port or http://host:port/path; may be repeated, and NAME= in front of
    /// it asks for that tunnel name. Commas divide several (TIELINE_TO=maya=7001,comfy=8188); behind a
    /// path the next one needs its http://, since a path may have commas
    #[arg(long, value_name = "[NAME=]TARGET", env = "TIELINE_TO")]
    pub to: Vec<String>,
    /// Tunnel name to ask for; by default one that is derived from this agent's key
    #[arg(long, env = "TIELINE_NAME")]
    pub name: Option<String>,
    /// Kind of application, such as maya or blender
    #[arg(long, env = "TIELINE_DCC")]
    pub dcc: Option<String>,
    /// Let callers use every path of an HTTP target, not only those under its own
    #[arg(
        long,
        env = "TIELINE_EXPOSE_ALL",
        action = ArgAction::SetTrue,
        value_parser = BoolishValueParser::new()
    )]
    pub expose_all: bool,
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
    /// Links to the relay, each served by another of the relay's cores; 1 if nothing else is said
    #[arg(long, value_name = "N", env = "TIELINE_LINKS")]
    pub links: Option<u16>,
    /// On a signal to stop, how long calls in flight may go on: 30s unless given, at most 1h; a
    /// second signal ends them at once
    #[arg(long, value_name = "TIME", env = "TIELINE_DRAIN_TIMEOUT", value_parser = parse_time)]
    pub drain_timeout: Option<Duration>,
    /// One link; end when it ends instead of dialling again
    #[arg(long)]
    pub once: bool,
    /// When a newer run of this agent takes over, wait for its end and come back, in place of ending
    /// with exit code 3; what tieline service install asks for
    #[arg(long, conflicts_with = "once")]
    pub stand_by: bool,
    /// Do not look at the targets or ask the relay as a caller would once a tunnel is up
    #[arg(long)]
    pub no_look: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
    /// Name of this machine, where hosts share an image and so look like one (containers)
    #[arg(long, value_name = "NAME", env = "TIELINE_MACHINE")]
    pub machine: Option<String>,
    /// File with settings, in place of the nearest tieline.toml in this folder or above it; flags
    /// and variables come before what it says
    #[arg(long, value_name = "FILE", env = "TIELINE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Read no file with settings
    #[arg(long)]
    pub no_config: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub state: StateArgs,
}

#[cfg(test)]
mod tests {
    use crate::cli::{Cli, Command};

    #[test]
    fn serve_takes_what_the_contract_lists() {
        let cli = Cli::read_alone([
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
        assert_eq!(args.links, Some(2));
        assert!(args.once && args.json);
    }
}
