//! The flags of `tieline serve`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};

use super::stdio::StdioArgs;
use super::time::parse_time;
use crate::proxy::ProxyArgs;

/// Flags of `tieline serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The relay: https://host, which takes QUIC where UDP gets through, and else a WebSocket, which goes through most
    /// firewalls and proxies. wss://host, tls://host (its port for agents) and quic://host force one transport (port
    /// 443 if none is given). Without encryption: tcp://host:port (port 9001 unless the relay's operator says
    /// otherwise), or ws://host:port and its HTTP port
    #[arg(long, value_name = "URL", env = "TIELINE_RELAY")]
    pub relay: Option<String>,
    /// Local server to publish: host:port, http://host:port/path, or 'stdio:COMMAND' for a program that speaks MCP
    /// over standard input and output, which is started when a caller needs it; may be repeated. NAME= in front asks
    /// for that tunnel name. Commas separate several targets (TIELINE_TO=maya=7001,comfy=8188); after a target with a
    /// path, the next target needs its http://, since a path may contain commas, and a command reaches to the end
    #[arg(long, value_name = "[NAME=]TARGET", env = "TIELINE_TO")]
    pub to: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub stdio: StdioArgs,
    /// Tunnel name to ask for; by default a name derived from this agent's key
    #[arg(long, env = "TIELINE_NAME")]
    pub name: Option<String>,
    /// Kind of application, such as maya or blender
    #[arg(long, env = "TIELINE_DCC")]
    pub dcc: Option<String>,
    /// Let callers use every path of an HTTP target, not only those under the target's own path
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
    /// File with certificates (PEM) to trust for an https://, wss://, tls:// or quic:// relay, besides the system's
    #[arg(long, value_name = "FILE", env = "TIELINE_CA")]
    pub ca: Option<PathBuf>,
    /// File with this agent's own certificate (PEM), for a relay that asks agents for one: it does so over tls:// and
    /// quic://, and over https:// if QUIC gets through, but not over a WebSocket
    #[arg(long, value_name = "FILE", env = "TIELINE_CLIENT_CERT")]
    pub client_cert: Option<PathBuf>,
    /// File (mode 0600) with the private key (PEM) of --client-cert
    #[arg(long, value_name = "FILE", env = "TIELINE_CLIENT_KEY")]
    pub client_key: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub proxy: ProxyArgs,
    /// Word that lists of tunnels show beside this one, such as gpu; may be repeated
    #[arg(
        long = "capability",
        value_name = "C",
        env = "TIELINE_CAPABILITIES",
        value_delimiter = ','
    )]
    pub capabilities: Vec<String>,
    /// Text that a derived tunnel name is made from; by default the target
    #[arg(long, env = "TIELINE_LABEL")]
    pub label: Option<String>,
    /// Number of links (connections to the relay), spread over the relay's cores [default: 1]
    #[arg(long, value_name = "N", env = "TIELINE_LINKS")]
    pub links: Option<u16>,
    /// Time that calls in flight get to finish after a signal to stop, at most 1h; a second signal ends
    /// them at once [default: 30s]
    #[arg(long, value_name = "TIME", env = "TIELINE_DRAIN_TIMEOUT", value_parser = parse_time)]
    pub drain_timeout: Option<Duration>,
    /// Use one link (connection to the relay), and end with it instead of dialling again
    #[arg(long)]
    pub once: bool,
    /// When a newer run of this agent takes over, wait for the end of that run and then come back,
    /// instead of ending with exit code 3; tieline service install sets this flag
    #[arg(long, conflicts_with = "once")]
    pub stand_by: bool,
    /// Once a tunnel is up, neither probe its target nor ask the relay whether callers need a token
    #[arg(long)]
    pub no_look: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
    /// Name of this machine, for hosts that share an image and therefore a machine id (containers)
    #[arg(long, value_name = "NAME", env = "TIELINE_MACHINE")]
    pub machine: Option<String>,
    /// Settings file, instead of the nearest tieline.toml in this folder or above it; flags and variables
    /// take precedence over the file
    #[arg(long, value_name = "FILE", env = "TIELINE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Read no settings file
    #[arg(long)]
    pub no_config: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub state: StateArgs,
    /// A program to publish, with its arguments as they are: one more target, as with --to 'stdio:COMMAND'
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Directory for the state that survives a restart of the agent.
#[derive(Debug, Args)]
pub struct StateArgs {
    /// Directory of the agent's key and status socket
    #[arg(long, value_name = "DIR", env = "TIELINE_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
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
