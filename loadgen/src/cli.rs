//! Flags as typed, no meaning yet; `settings` checks them.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::scenario::Scenario;

/// Measures what a relay path costs beside direct TCP and beside a bare two-hop forwarder
#[derive(Debug, Parser)]
#[command(name = "tieline-loadgen", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure round trips over several paths in interleaved rounds; every byte is checked
    Rtt(RttFlags),
    /// Start relay, agent, forwarders and target, run a set of round-trip scenarios, write a report
    Bench(BenchFlags),
    /// Run a target server; prints its address as one JSON line
    Target(TargetFlags),
    /// Run one hop of the bare forwarder; prints its address as one JSON line
    Forwarder(ForwarderFlags),
    /// Become another program that ends with its parent
    #[command(hide = true)]
    Child(ChildFlags),
}

/// How long and how often.
#[derive(Args, Debug)]
pub(crate) struct MethodFlags {
    /// Rounds; in each, every path is measured once, in random order
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Measured time of each path and round, such as 1.5s or 300ms
    #[arg(long, value_parser = parse_duration, default_value = "1.5s")]
    pub(crate) duration: Duration,
    /// Load before each measurement
    #[arg(long, value_parser = parse_duration, default_value = "300ms")]
    pub(crate) warm_up: Duration,
    /// Threads of the generator; more than one switches pinning off
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,
    /// Seed of the order of the paths; printed, so that a run can be repeated
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Do not pin processes to cores (they are pinned where there are four or more)
    #[arg(long)]
    pub(crate) no_pin: bool,
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
    pub(crate) method: MethodFlags,
    /// Paths to compare [default: direct,forwarder and, with --relay-tcp, relay]
    #[arg(long = "path", value_enum, value_delimiter = ',')]
    pub(crate) paths: Vec<PathFlag>,
    /// Use the echo server at this address in place of an own one
    #[arg(long, value_name = "ADDR")]
    pub(crate) target: Option<SocketAddr>,
    /// Its process, for its CPU time
    #[arg(long, value_name = "PID", requires = "target")]
    pub(crate) target_pid: Option<u32>,
    /// The relay's raw TCP listener; its agent must forward to the target
    #[arg(long, value_name = "ADDR", requires = "tunnel")]
    pub(crate) relay_tcp: Option<SocketAddr>,
    /// The tunnel to ask the relay for
    #[arg(long, value_name = "ID", requires = "relay_tcp")]
    pub(crate) tunnel: Option<String>,
    /// The relay's process, for its CPU time
    #[arg(long, value_name = "PID", requires = "relay_tcp")]
    pub(crate) relay_pid: Option<u32>,
    /// The agent's process, for its CPU time
    #[arg(long, value_name = "PID", requires = "relay_tcp")]
    pub(crate) agent_pid: Option<u32>,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the histogram of each path and round to this file (HdrHistogram interval log, V2)
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct BenchFlags {
    /// Load as CONNECTIONSxBYTES for a closed loop, CONNECTIONSxBYTES@RATE for an open one; repeats
    #[arg(
        long = "scenario",
        value_delimiter = ',',
        default_values = ["1x256", "64x256", "512x1024", "16x256@3000"]
    )]
    pub(crate) scenarios: Vec<Scenario>,
    #[command(flatten)]
    pub(crate) method: MethodFlags,
    /// Paths to compare [default: direct,forwarder,relay]
    #[arg(long = "path", value_enum, value_delimiter = ',')]
    pub(crate) paths: Vec<PathFlag>,
    /// The relay [default: tieline-relay beside this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) relay_bin: Option<PathBuf>,
    /// The agent [default: tieline beside this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) agent_bin: Option<PathBuf>,
    /// One more argument for the relay, such as --relay-arg=--shards=1; repeats
    #[arg(long = "relay-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) relay_arguments: Vec<String>,
    /// One more argument for `tieline serve`; repeats
    #[arg(long = "agent-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) agent_arguments: Vec<String>,
    /// Folder for the report
    #[arg(long, value_name = "DIR", default_value = "docs/bench")]
    pub(crate) out: PathBuf,
    /// Name of the report's files; those of an earlier run are replaced
    #[arg(long, default_value = "rtt")]
    pub(crate) name: String,
    /// Print the report as JSON too
    #[arg(long)]
    pub(crate) json: bool,
}

/// A path, or several.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PathFlag {
    /// Client to target.
    Direct,
    /// Both bare forwarders.
    Forwarder,
    /// Two hops on tokio.
    ForwarderTokio,
    /// Two hops on tokio-uring.
    ForwarderTokioUring,
    /// Relay and agent.
    Relay,
}

#[derive(Args, Debug)]
pub(crate) struct TargetFlags {
    #[command(subcommand)]
    pub(crate) kind: TargetKind,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TargetKind {
    /// Send back what comes
    Echo(ListenFlags),
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
    /// Core to run on
    #[arg(long)]
    pub(crate) core: Option<usize>,
    /// Program and arguments
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

/// `1.5s`, `300ms` or a plain number of seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit_s) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let value: f64 = number
        .trim()
        .parse()
        .map_err(|_| "write 1.5s or 300ms".to_owned())?;
    Duration::try_from_secs_f64(value * unit_s).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_a_unit_or_are_seconds() {
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(parse_duration("2"), Ok(Duration::from_secs(2)));
        for text in ["", "s", "fast", "-1s", "1h", "NaN", "inf"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
