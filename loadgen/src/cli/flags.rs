//! Flags that several commands share.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::path::peer::{PeerPid, PeerSpec};

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
    /// Run a round again in which other processes took much CPU, at most so often per scenario
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) repeat_noisy: usize,
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

/// Which paths, and where they end.
#[derive(Args, Debug)]
pub(crate) struct PathFlags {
    /// Paths to compare [default: direct, forwarder, the relay, if there is one, and relay-epoll, if
    /// this program starts it]; peers that are given are always among them
    #[arg(long = "path", value_enum, value_delimiter = ',')]
    pub(crate) paths: Vec<PathFlag>,
    /// Use the target at this address in place of an own one (`tieline-loadgen target any`)
    #[arg(long, value_name = "ADDR")]
    pub(crate) target: Option<SocketAddr>,
    /// Its process, for its CPU time
    #[arg(long, value_name = "PID", requires = "target")]
    pub(crate) target_pid: Option<u32>,
}

/// Other programs that do the same job.
#[derive(Args, Debug)]
pub(crate) struct PeerFlags {
    /// Another program that leads to the target: a name, where to connect, and what to send first,
    /// as text (`\n`, `\r`, `\t`, `\0`, `\\`, `\x1f`) or hex; repeats.
    /// Such as frp=127.0.0.1:7000 or proxy=127.0.0.1:1080,text:CONNECT\r\n,hex:0d0a
    #[arg(
        long = "peer",
        value_name = "NAME=HOST:PORT[,text:T|,hex:H]...",
        requires = "target"
    )]
    pub(crate) peers: Vec<PeerSpec>,
    /// A process of that peer, for its CPU time and memory, the one next to the client first; repeats
    #[arg(long = "peer-pid", value_name = "NAME=PID", requires = "peers")]
    pub(crate) peer_pids: Vec<PeerPid>,
}

/// The relay and the agent to start.
#[derive(Args, Debug)]
pub(crate) struct ProgramFlags {
    /// The relay [default: tieline-relay beside this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) relay_bin: Option<PathBuf>,
    /// The agent [default: tieline beside this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) agent_bin: Option<PathBuf>,
    /// One more argument for the relay, such as --relay-arg=--shards=1; repeats. The variables
    /// TIELINE_... of the environment do not reach it
    #[arg(long = "relay-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) relay_arguments: Vec<String>,
    /// One more argument for `tieline serve`; repeats
    #[arg(long = "agent-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) agent_arguments: Vec<String>,
}

/// Where a report of several files goes.
#[derive(Args, Debug)]
pub(crate) struct OutputFlags {
    /// Folder for the report
    #[arg(long, value_name = "DIR", default_value = "docs/bench")]
    pub(crate) out: PathBuf,
    /// Print the report as JSON too
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of the commands that run one scenario.
#[derive(Args, Debug)]
pub(crate) struct SingleFlags {
    #[command(flatten)]
    pub(crate) method: MethodFlags,
    #[command(flatten)]
    pub(crate) paths: PathFlags,
    #[command(flatten)]
    pub(crate) peers: PeerFlags,
    /// The relay's raw TCP listener; its agents must forward to the target
    #[arg(long, value_name = "ADDR", requires = "tunnels")]
    pub(crate) relay_tcp: Option<SocketAddr>,
    /// The tunnel to ask for; with several, connections take turns
    #[arg(
        long = "tunnel",
        value_name = "ID",
        value_delimiter = ',',
        requires = "relay_tcp"
    )]
    pub(crate) tunnels: Vec<String>,
    /// The relay's process, for its CPU time and memory
    #[arg(long, value_name = "PID", requires = "relay_tcp")]
    pub(crate) relay_pid: Option<u32>,
    /// An agent's process, for its CPU time and memory; repeats
    #[arg(long = "agent-pid", value_name = "PID", requires = "relay_tcp")]
    pub(crate) agent_pids: Vec<u32>,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the histogram of each path and round to this file (HdrHistogram interval log, V2)
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Write the report with plots to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// A path, or several.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PathFlag {
    /// Client to target
    Direct,
    /// Both bare forwarders
    Forwarder,
    /// Two hops on tokio
    ForwarderTokio,
    /// Two hops on tokio-uring
    ForwarderTokioUring,
    /// Relay and agent
    Relay,
    /// The same on the relay's epoll driver; `bench` only
    RelayEpoll,
}

/// `1.5s`, `300ms` or a plain number of seconds.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
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
