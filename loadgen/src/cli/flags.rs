//! Flag groups that several commands share.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::path::peer::{PeerPid, PeerSpec};

/// Number of rounds, durations, generator threads and pinning.
#[derive(Args, Debug)]
pub(crate) struct MethodFlags {
    /// Rounds; in each, every path is measured once, in random order
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Measured time per path and round, such as 1.5s or 300ms
    #[arg(long, value_parser = parse_duration, default_value = "1.5s")]
    pub(crate) duration: Duration,
    /// Unmeasured load before each measurement
    #[arg(long, value_parser = parse_duration, default_value = "300ms")]
    pub(crate) warm_up: Duration,
    /// Most rounds to run again per scenario because other processes took much CPU in them
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) repeat_noisy: usize,
    /// Generator threads; more than one disables pinning to cores
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,
    /// Seed for the random order of the paths [default: random]; printed, so that a run can be repeated
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Do not pin processes to cores (default: pin them if there are at least four cores)
    #[arg(long)]
    pub(crate) no_pin: bool,
}

/// Paths to compare, and the target where they end.
#[derive(Args, Debug)]
pub(crate) struct PathFlags {
    /// Paths to compare [default: direct, forwarder, relay if one is given or started, and relay-epoll
    /// if this program starts the relay; in the suite `tls`: direct, relay and most wrapped paths];
    /// peers given by --peer are always added
    #[arg(long = "path", value_enum, value_delimiter = ',')]
    pub(crate) paths: Vec<PathFlag>,
    /// Use the target at this address instead of starting one (`tieline-loadgen target any`)
    #[arg(long, value_name = "ADDR")]
    pub(crate) target: Option<SocketAddr>,
    /// Process id of the target given by --target, for its CPU time
    #[arg(long, value_name = "PID", requires = "target")]
    pub(crate) target_pid: Option<u32>,
}

/// Peers: other tunnel or proxy programs to compare with.
#[derive(Args, Debug)]
pub(crate) struct PeerFlags {
    /// Another program that forwards to the target: a name, the address to connect to, and a preamble to
    /// send first, as text (`\n`, `\r`, `\t`, `\0`, `\\`, `\x1f`) or hex; may be repeated.
    /// Examples: frp=127.0.0.1:7000 or proxy=127.0.0.1:1080,text:CONNECT\r\n,hex:0d0a
    #[arg(
        long = "peer",
        value_name = "NAME=HOST:PORT[,text:T|,hex:H]...",
        requires = "target"
    )]
    pub(crate) peers: Vec<PeerSpec>,
    /// Process id of a peer, for its CPU time and memory, the process next to the client first; may be repeated
    #[arg(long = "peer-pid", value_name = "NAME=PID", requires = "peers")]
    pub(crate) peer_pids: Vec<PeerPid>,
}

/// Relay and agent binaries to start, and their extra arguments.
#[derive(Args, Debug)]
pub(crate) struct ProgramFlags {
    /// Relay binary [default: tieline-relay next to this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) relay_bin: Option<PathBuf>,
    /// Agent binary [default: tieline next to this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) agent_bin: Option<PathBuf>,
    /// Extra argument for the relay, such as --relay-arg=--shards=1; may be repeated. TIELINE_...
    /// environment variables are not passed to the relay
    #[arg(long = "relay-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) relay_arguments: Vec<String>,
    /// Extra argument for `tieline serve`; may be repeated
    #[arg(long = "agent-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) agent_arguments: Vec<String>,
}

/// Output folder of a report that consists of several files.
#[derive(Args, Debug)]
pub(crate) struct OutputFlags {
    /// Folder for the report
    #[arg(long, value_name = "DIR", default_value = "docs/bench")]
    pub(crate) out: PathBuf,
    /// Also print the report as JSON
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
    /// Address of the relay's raw TCP listener; its agents must forward to the target
    #[arg(long, value_name = "ADDR", requires = "tunnels")]
    pub(crate) relay_tcp: Option<SocketAddr>,
    /// Tunnel to connect to; connections are spread over several in round-robin order
    #[arg(
        long = "tunnel",
        value_name = "ID",
        value_delimiter = ',',
        requires = "relay_tcp"
    )]
    pub(crate) tunnels: Vec<String>,
    /// Process id of the relay, for its CPU time and memory
    #[arg(long, value_name = "PID", requires = "relay_tcp")]
    pub(crate) relay_pid: Option<u32>,
    /// Process id of an agent, for its CPU time and memory; may be repeated
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

/// A path or a group of paths, as named by `--path`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PathFlag {
    /// Client to target without a hop between
    Direct,
    /// The bare forwarders on tokio and on tokio-uring. The one on monoio has to be named, so that ratios to the better
    /// forwarder mean the same in all reports
    Forwarder,
    /// Two bare forwarders in a row on tokio
    ForwarderTokio,
    /// Two bare forwarders in a row on tokio-uring
    ForwarderTokioUring,
    /// Two bare forwarders in a row on monoio
    ForwarderMonoio,
    /// Relay and agent
    Relay,
    /// Relay and agent, with the relay on its epoll driver; `bench` only
    RelayEpoll,
    /// Client to a target that speaks TLS; this path and those below: `bench` only
    DirectTls,
    /// Client to a target that speaks WebSocket
    DirectWs,
    /// Client to a target that speaks WebSocket over TLS
    DirectWss,
    /// Client to a target that speaks QUIC: quinn to quinn
    DirectQuic,
    /// Relay and agent, with TLS between client and relay
    RelayTlsCaller,
    /// Relay and agent, with TLS between relay and agent
    RelayTlsLink,
    /// Relay and agent, with TLS on both hops
    RelayTls,
    /// Relay and agent, with a WebSocket between client and relay
    RelayWsCaller,
    /// Relay and agent, with a WebSocket over TLS between client and relay
    RelayWssCaller,
    /// Relay and agent, with a WebSocket between relay and agent
    RelayWsLink,
    /// Relay and agent, with a WebSocket over TLS between relay and agent
    RelayWssLink,
    /// Relay and agent, with QUIC between client and relay
    RelayQuicCaller,
    /// Relay and agent, with QUIC between relay and agent
    RelayQuicLink,
    /// Relay and agent, with QUIC on both hops
    RelayQuic,
    /// Relay and agent that pass a WebSocket on to a target that speaks WebSocket
    RelayWsPassed,
}

/// A path with chosen transports.
#[derive(Args, Debug)]
pub(crate) struct TransportFlags {
    /// Add a path through relay and agent with this transport between them, and tcp between client and relay if
    /// --frontend-transport does not say otherwise
    #[arg(long, value_enum, value_name = "TRANSPORT")]
    pub(crate) agent_transport: Option<TransportFlag>,
    /// Add a path through relay and agent with this transport between client and relay, and with it the direct path
    /// to a target that speaks it
    #[arg(long, value_enum, value_name = "TRANSPORT")]
    pub(crate) frontend_transport: Option<TransportFlag>,
}

/// A transport of one hop.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum TransportFlag {
    /// TCP alone
    Tcp,
    /// TLS
    Tls,
    /// WebSocket
    Ws,
    /// WebSocket over TLS
    Wss,
    /// QUIC
    Quic,
}

/// Parses `1.5s`, `300ms` or a plain number of seconds.
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
