//! Flags as typed, no meaning yet; `settings` checks them.

mod flags;
mod scaling;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::scenario::Scenario;

pub(crate) use flags::{
    MethodFlags, OutputFlags, PathFlag, PathFlags, PeerFlags, ProgramFlags, SingleFlags,
};
pub(crate) use scaling::{ScalingFlags, SeriesFlag};

/// Measures what a relay path costs beside direct TCP, bare two-hop forwarders and other programs
#[derive(Debug, Parser)]
#[command(name = "tieline-loadgen", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Round trips: latency and rate; every byte is checked
    Rtt(RttFlags),
    /// As many bytes as fit, up, down or both ways: MiB/s and CPU time per GiB; every byte is checked
    Bulk(BulkFlags),
    /// New connections per second, each with its first answer
    Connect(ConnectFlags),
    /// Memory of each hop per open session that does nothing
    Idle(IdleFlags),
    /// Bursts: one message on every connection at the same moment, time to the last answer
    Fanout(FanoutFlags),
    /// Small messages at a constant rate beside one bulk download on the same tunnel
    Mixed(MixedFlags),
    /// Start relay, agent, forwarders and target, run a set of scenarios, write a report
    // A recipe sets flags, and whoever calls the recipe may set them otherwise.
    #[command(args_override_self = true)]
    Bench(BenchFlags),
    /// Instructions that relay and agent need for a round trip, a call over HTTP and a MiB; writes a report
    #[command(args_override_self = true)]
    Instructions(InstructionsFlags),
    /// Cost of a session and of a tunnel from 1 to 10,000 of them: starts relay, agents and target
    /// anew for each number, writes a report
    #[command(args_override_self = true)]
    Scaling(ScalingFlags),
    /// Run a target server; prints its address as one JSON line
    Target(TargetFlags),
    /// Run one hop of the bare forwarder; prints its address as one JSON line
    Forwarder(ForwarderFlags),
    /// Become another program that ends with its parent
    #[command(hide = true)]
    Child(ChildFlags),
}

#[derive(Args, Debug)]
pub(crate) struct RttFlags {
    /// Connections at once
    #[arg(short, long, default_value_t = 1)]
    pub(crate) connections: usize,
    /// Bytes of each message
    #[arg(short, long, default_value_t = 256)]
    pub(crate) size: usize,
    /// Open loop: requests per second over all connections [default: closed loop]
    #[arg(long)]
    pub(crate) rate: Option<u32>,
    #[command(flatten)]
    pub(crate) single: SingleFlags,
}

#[derive(Args, Debug)]
pub(crate) struct BulkFlags {
    /// Which way the bytes flow, seen from the client
    #[arg(value_enum, default_value = "down")]
    pub(crate) direction: DirectionFlag,
    /// Connections at once
    #[arg(short, long, default_value_t = 1)]
    pub(crate) connections: usize,
    #[command(flatten)]
    pub(crate) single: SingleFlags,
}

/// Which way bulk bytes flow.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DirectionFlag {
    /// Client to target
    Up,
    /// Target to client
    Down,
    /// Both at once on each connection
    Both,
}

#[derive(Args, Debug)]
pub(crate) struct ConnectFlags {
    /// Connections that are open at once
    #[arg(short = 'c', long, default_value_t = 16)]
    pub(crate) at_once: usize,
    #[command(flatten)]
    pub(crate) single: SingleFlags,
}

#[derive(Args, Debug)]
pub(crate) struct IdleFlags {
    /// Open sessions
    #[arg(short = 'c', long, default_value_t = 2000)]
    pub(crate) sessions: usize,
    #[command(flatten)]
    pub(crate) single: SingleFlags,
}

#[derive(Args, Debug)]
pub(crate) struct FanoutFlags {
    /// Connections; with several tunnels they take turns
    #[arg(short, long, default_value_t = 1000)]
    pub(crate) connections: usize,
    /// Bytes of each message
    #[arg(short, long, default_value_t = 256)]
    pub(crate) size: usize,
    #[command(flatten)]
    pub(crate) single: SingleFlags,
}

#[derive(Args, Debug)]
pub(crate) struct MixedFlags {
    /// Connections with small messages
    #[arg(short, long, default_value_t = 16)]
    pub(crate) connections: usize,
    /// Bytes of each message
    #[arg(short, long, default_value_t = 256)]
    pub(crate) size: usize,
    /// Messages per second over all connections
    #[arg(long, default_value_t = 3000)]
    pub(crate) rate: u32,
    #[command(flatten)]
    pub(crate) single: SingleFlags,
}

#[derive(Args, Debug)]
pub(crate) struct BenchFlags {
    /// Which scenarios, where none are named
    #[arg(long, value_enum, default_value = "quick")]
    pub(crate) suite: Suite,
    /// One load; repeats. CONNECTIONSxBYTES (closed loop), CONNECTIONSxBYTES@RATE (open loop),
    /// bulk-up-N, bulk-down-N, bulk-both-N, connect-N, idle-N, fanout-CONNECTIONSxBYTES,
    /// mixed-CONNECTIONSxBYTES@RATE; or, over HTTP, calls-CONNECTIONS, events-CONNECTIONS@RATE,
    /// streams-N
    #[arg(long = "scenario", value_delimiter = ',')]
    pub(crate) scenarios: Vec<Scenario>,
    #[command(flatten)]
    pub(crate) method: MethodFlags,
    #[command(flatten)]
    pub(crate) paths: PathFlags,
    #[command(flatten)]
    pub(crate) peers: PeerFlags,
    /// Start nginx, HAProxy, rathole and bore, as far as they are in this folder, as further paths;
    /// for loads over HTTP nginx as a reverse proxy in front of each forwarder
    #[arg(long, value_name = "DIR")]
    pub(crate) known_peers: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) programs: ProgramFlags,
    /// Tunnels over which the connections take turns, each with an agent of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) tunnels: usize,
    /// Name of the report's files; those of an earlier run are replaced
    #[arg(long, default_value = "bench")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
}

#[derive(Args, Debug)]
pub(crate) struct InstructionsFlags {
    /// Rounds; in each, every load runs twice with fresh processes, short and long
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    #[command(flatten)]
    pub(crate) programs: ProgramFlags,
    /// Folder for the report, instructions.md
    #[arg(long, value_name = "DIR", default_value = "docs/bench")]
    pub(crate) out: PathBuf,
}

/// A set of scenarios.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Suite {
    /// The important points of every scenario
    Quick,
    /// Those, and bulk over several connections and both ways at once
    Peers,
    /// More sizes, more connections, and the cost from 1 to 4,096 connections
    Full,
    /// Calls, first events and open event streams over HTTP
    Http,
}

#[derive(Args, Debug)]
pub(crate) struct TargetFlags {
    #[command(subcommand)]
    pub(crate) kind: TargetKind,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TargetKind {
    /// Serve every scenario: echo, or what the connection asks for (a sink, a source, or both)
    Any(ListenFlags),
    /// Send back what comes and nothing else; enough for rtt, connect, idle and fanout
    Echo(ListenFlags),
    /// Answer calls over HTTP with JSON and with events, as an MCP server does
    Http(ListenFlags),
}

#[derive(Args, Debug)]
pub(crate) struct ListenFlags {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
}

#[derive(Args, Debug)]
pub(crate) struct ForwarderFlags {
    /// What it runs on
    #[arg(long, value_enum, default_value = "tokio")]
    pub(crate) runtime: ForwarderRuntime,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    /// Where to connect to
    #[arg(long, value_name = "ADDR")]
    pub(crate) to: SocketAddr,
}

/// What a forwarder runs on.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ForwarderRuntime {
    /// epoll
    Tokio,
    /// io_uring
    TokioUring,
}

#[derive(Args, Debug)]
pub(crate) struct ChildFlags {
    /// The process that starts this one
    #[arg(long)]
    pub(crate) parent: u32,
    /// A core to run on; repeats
    #[arg(long = "core")]
    pub(crate) cores: Vec<usize>,
    /// Program and arguments
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
