//! Command line as parsed by clap, unchecked; `settings` checks the values.

mod emulator;
mod flags;
mod scaling;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::emulator::units::Rate;
use crate::scenario::Scenario;

pub(crate) use emulator::{EmulatorFlags, GuardFlags};
pub(crate) use flags::{
    MethodFlags, OutputFlags, PathFlag, PathFlags, PeerFlags, ProgramFlags, SingleFlags,
    TransportFlag, TransportFlags,
};
pub(crate) use scaling::{ScalingFlags, SeriesFlag};

/// Measures the cost of a relay path compared with direct TCP, bare two-hop forwarders and other programs
#[derive(Debug, Parser)]
#[command(name = "tieline-loadgen", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Round trips: latency and rate; checks every byte
    Rtt(RttFlags),
    /// Bulk transfer up, down or both ways: MiB/s and CPU time per GiB; checks every byte
    Bulk(BulkFlags),
    /// New connections per second, each with one answered request
    Connect(ConnectFlags),
    /// Memory per idle session on each hop
    Idle(IdleFlags),
    /// Bursts: one message on every connection at once; measures the time to the last answer
    Fanout(FanoutFlags),
    /// Small messages at a constant rate next to one bulk download on the same tunnel
    Mixed(MixedFlags),
    /// Start relay, agent, forwarders and target, run a set of scenarios, write a report
    // Recipes in the justfile pass flags; a flag that the caller adds after them overrides them.
    #[command(args_override_self = true)]
    Bench(BenchFlags),
    /// Count instructions of relay and agent per round trip, per call over HTTP and per MiB; write a report
    #[command(args_override_self = true)]
    Instructions(InstructionsFlags),
    /// Cost of a session and of a tunnel as their number grows from 1 to 10,000: restarts relay, agents
    /// and target for each number and writes a report
    #[command(args_override_self = true)]
    Scaling(ScalingFlags),
    /// Run a command at each end of a path with delay, loss and a rate; needs root and Linux's TUN devices
    ///
    /// The ends are two network namespaces, which exist as long as this program runs. Both commands find the
    /// addresses in EMULATED_NEAR and EMULATED_FAR, and their own end, near or far, in EMULATED_END.
    /// The counters of both directions are printed at the end.
    Path(EmulatorFlags),
    /// Run a target server; prints its address as one JSON line
    Target(TargetFlags),
    /// Run one hop of the bare forwarder; prints its address as one JSON line
    Forwarder(ForwarderFlags),
    /// Set up this child process and replace it with another program; for internal use
    #[command(hide = true)]
    Child(ChildFlags),
    /// Wait for the end of standard input, then end all other processes of this network namespace; for
    /// internal use
    #[command(hide = true)]
    PathGuard(GuardFlags),
}

#[derive(Args, Debug)]
pub(crate) struct RttFlags {
    /// Concurrent connections
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
    /// Direction of the bulk bytes, seen from the client
    #[arg(value_enum, default_value = "down")]
    pub(crate) direction: DirectionFlag,
    /// Concurrent connections
    #[arg(short, long, default_value_t = 1)]
    pub(crate) connections: usize,
    #[command(flatten)]
    pub(crate) single: SingleFlags,
}

/// Direction of bulk bytes.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DirectionFlag {
    /// Client to target
    Up,
    /// Target to client
    Down,
    /// Both directions at once on each connection
    Both,
}

#[derive(Args, Debug)]
pub(crate) struct ConnectFlags {
    /// Connections open at the same time
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
    /// Connections, spread over the tunnels in round-robin order
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
    /// Connections that carry small messages
    #[arg(short, long, default_value_t = 16)]
    pub(crate) connections: usize,
    /// Bytes of each message
    #[arg(short, long, default_value_t = 256)]
    pub(crate) size: usize,
    /// Messages per second over all connections
    #[arg(long, default_value_t = 3000)]
    pub(crate) rate: u32,
    /// Rate of the download, such as 3mbit [default: as fast as possible]
    #[arg(long)]
    pub(crate) bulk_rate: Option<Rate>,
    #[command(flatten)]
    pub(crate) single: SingleFlags,
}

#[derive(Args, Debug)]
pub(crate) struct BenchFlags {
    /// Scenarios to run if --scenario is not given
    #[arg(long, value_enum, default_value = "quick")]
    pub(crate) suite: Suite,
    /// Scenario to run; may be repeated: CONNECTIONSxBYTES (closed loop), CONNECTIONSxBYTES@RATE (open loop),
    /// bulk-up-N, bulk-down-N, bulk-both-N, connect-N, idle-N, fanout-CONNECTIONSxBYTES,
    /// mixed-CONNECTIONSxBYTES@RATE, with +KBIT for a download of so many kbit/s; over HTTP:
    /// calls-CONNECTIONS, events-CONNECTIONS@RATE,
    /// streams-N; over TLS: handshakes-x25519-N, handshakes-x25519mlkem768-N, handshakes-resumed-N
    #[arg(long = "scenario", value_delimiter = ',')]
    pub(crate) scenarios: Vec<Scenario>,
    #[command(flatten)]
    pub(crate) method: MethodFlags,
    #[command(flatten)]
    pub(crate) paths: PathFlags,
    #[command(flatten)]
    pub(crate) peers: PeerFlags,
    /// Start nginx, HAProxy, rathole and bore, those that exist in this folder, as additional paths;
    /// for scenarios over HTTP, nginx as a reverse proxy in front of the bare forwarders; for the suite `tls`,
    /// nginx, HAProxy, rathole and wstunnel with wrapped hops, from this folder or from PATH
    #[arg(long, value_name = "DIR")]
    pub(crate) known_peers: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) transports: TransportFlags,
    #[command(flatten)]
    pub(crate) programs: ProgramFlags,
    /// Number of tunnels, each with its own agent; connections are spread over them in round-robin order
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) tunnels: usize,
    /// Base name of the report's files; existing files are replaced
    #[arg(long, default_value = "bench")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
}

#[derive(Args, Debug)]
pub(crate) struct InstructionsFlags {
    /// Rounds; in each, every load runs twice on fresh processes: a short and a long run
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
    /// The most important points of every scenario
    Quick,
    /// The quick suite, plus bulk over several connections and in both directions at once
    Peers,
    /// More sizes and connections, and the cost from 1 to 4,096 connections
    Full,
    /// Calls, first events and open event streams over HTTP
    Http,
    /// What TLS and WebSockets add on each hop, TLS handshakes, and memory of wrapped idle sessions
    Tls,
}

#[derive(Args, Debug)]
pub(crate) struct TargetFlags {
    #[command(subcommand)]
    pub(crate) kind: TargetKind,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TargetKind {
    /// Serve every raw scenario: echo, or what the connection requests (sink, source or both)
    Any(AnyFlags),
    /// Echo only; enough for rtt, connect, idle and fanout
    Echo(ListenFlags),
    /// Answer HTTP calls with JSON and with event streams, as an MCP server does
    Http(ListenFlags),
}

#[derive(Args, Debug)]
pub(crate) struct AnyFlags {
    #[command(flatten)]
    pub(crate) listen: ListenFlags,
    #[command(flatten)]
    pub(crate) wrap: WrapFlags,
}

/// What wraps the connections of a target.
#[derive(Args, Debug)]
pub(crate) struct WrapFlags {
    /// Accept TLS, with the certificate in this file (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// File with the private key (PEM) of --tls-cert
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Accept WebSockets, and only those of this program
    #[arg(long)]
    pub(crate) websocket: bool,
    /// Accept streams of QUIC, and nothing over TCP
    #[arg(long, requires = "tls_cert", conflicts_with = "websocket")]
    pub(crate) quic: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ListenFlags {
    /// Address to listen on; port 0 picks a free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
}

#[derive(Args, Debug)]
pub(crate) struct ForwarderFlags {
    /// Async runtime of the forwarder
    #[arg(long, value_enum, default_value = "tokio")]
    pub(crate) runtime: ForwarderRuntime,
    /// Address to listen on; port 0 picks a free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    /// Address to forward to
    #[arg(long, value_name = "ADDR")]
    pub(crate) to: SocketAddr,
}

/// Async runtime of a forwarder.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ForwarderRuntime {
    /// epoll
    Tokio,
    /// io_uring
    TokioUring,
    /// io_uring
    Monoio,
}

#[derive(Args, Debug)]
pub(crate) struct ChildFlags {
    /// Process id of the parent; the child refuses to start if its parent is another process
    #[arg(long)]
    pub(crate) parent: u32,
    /// Core to pin the process to; may be repeated
    #[arg(long = "core")]
    pub(crate) cores: Vec<usize>,
    /// Program to execute, and its arguments
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
