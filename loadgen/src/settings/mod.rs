//! Turns flags into settings: checked once, before any process is started.

mod bench;
mod instructions;
mod scaling;

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::{
    BulkFlags, ConnectFlags, DirectionFlag, FanoutFlags, IdleFlags, MethodFlags, MixedFlags,
    OutputFlags, PathFlag, PathFlags, PeerFlags, ProgramFlags, RttFlags, SingleFlags,
};
use crate::emulator::settings::SettingsError;
use crate::path::peer::{PeerPid, PeerSpec};
use crate::path::relay::Binaries;
use crate::path::set::{ExternalRelay, ExternalTarget, PathsWanted, RelaySource};
use crate::path::{PathKind, Wrapped, Wrapping, tunnel_preamble};
use crate::report::files::Files;
use crate::scenario::{Direction, Messages, Method, Pacing, Scenario, ScenarioError};

/// Largest value of `--rounds`.
const ROUNDS_MAX: usize = 1_000;

/// Largest value of `--threads`.
const THREADS_MAX: usize = 64;

/// Longest measured or warm-up time of one round.
const ROUND_TIME_MAX: Duration = Duration::from_secs(600);

/// Shortest measured time: without exact CPU times, they have a resolution of a hundredth of a second.
const MEASURED_MIN: Duration = Duration::from_millis(50);

/// Invalid or conflicting flags; leads to exit code 2.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    /// Invalid scenario.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// Invalid flag of `path`.
    #[error(transparent)]
    Emulator(#[from] SettingsError),
    /// A number is out of range.
    #[error("{flag} must be {range}")]
    Range {
        flag: &'static str,
        /// Allowed range, such as `1 to 64`.
        range: String,
    },
    /// `--path relay` was given without a relay.
    #[error(
        "--path relay needs --relay-tcp ADDR and --tunnel ID; `bench` starts a relay by itself"
    )]
    NoRelay,
    /// `--path relay-epoll` was given to a command that does not start relays.
    #[error(
        "--path relay-epoll works with `bench` only, which starts relays by itself; start a relay with `--driver \
         epoll` and give --path relay --relay-tcp ADDR --tunnel ID"
    )]
    NoRelayEpoll,
    /// A wrapped path was given to a command that starts neither relays nor targets that are wrapped.
    #[error("--path {0} works with `bench` only, which starts the programs of wrapped paths")]
    OnlyInBench(PathKind),
    /// A scenario over HTTP was given with a wrapped path.
    #[error("scenarios over HTTP are not measured over --path {0}")]
    HttpWrapped(PathKind),
    /// Two transports need different settings of one listener.
    #[error(
        "ws and wss share the relay's HTTP listener: give --agent-transport and --frontend-transport the same"
    )]
    Transports,
    /// `--path relay-epoll` conflicts with a driver set by `--relay-arg`.
    #[error("--path relay-epoll sets the driver itself: leave --relay-arg=--driver out")]
    Driver,
    /// HTTP and raw scenarios were mixed; they need different targets.
    #[error("scenarios over HTTP need a different target: run them separately from the others")]
    TwoTargets,
    /// Two peers have the same name.
    #[error("--peer {0} is given twice: each peer needs a unique name")]
    PeerTwice(String),
    /// A peer process was given for an unknown peer.
    #[error("--peer-pid {0}: no --peer has this name")]
    NoPeer(String),
    /// Invalid tunnel name.
    #[error("--tunnel `{0}`: a tunnel's name has 1 to 63 bytes")]
    Tunnel(String),
    /// Invalid base name of the report's files.
    #[error("--name `{0}` must be a plain file name of letters, digits, `-`, `_` and `.`")]
    Name(String),
}

fn rounds_checked(rounds: usize) -> Result<usize, UsageError> {
    if (1..=ROUNDS_MAX).contains(&rounds) {
        return Ok(rounds);
    }
    Err(UsageError::Range {
        flag: "--rounds",
        range: format!("1 to {ROUNDS_MAX}"),
    })
}

impl MethodFlags {
    fn checked(&self) -> Result<Method, UsageError> {
        let range = |flag, range: String| Err(UsageError::Range { flag, range });
        let rounds = rounds_checked(self.rounds)?;
        if self.repeat_noisy > ROUNDS_MAX {
            return range("--repeat-noisy", format!("at most {ROUNDS_MAX}"));
        }
        if !(1..=THREADS_MAX).contains(&self.threads) {
            return range("--threads", format!("1 to {THREADS_MAX}"));
        }
        if !(MEASURED_MIN..=ROUND_TIME_MAX).contains(&self.duration) {
            return range(
                "--duration",
                format!("50ms to {}s", ROUND_TIME_MAX.as_secs()),
            );
        }
        if self.warm_up > ROUND_TIME_MAX {
            return range(
                "--warm-up",
                format!("at most {}s", ROUND_TIME_MAX.as_secs()),
            );
        }
        Ok(Method {
            rounds,
            warm_up_s: self.warm_up.as_secs_f64(),
            measured_s: self.duration.as_secs_f64(),
            threads: self.threads,
            repeat_noisy: self.repeat_noisy,
            // Short, so that a user can type the seed again.
            seed: self.seed.unwrap_or_else(|| fastrand::u64(1..1_000_000)),
        })
    }

    fn pin(&self) -> bool {
        !self.no_pin && self.threads == 1
    }
}

impl RttFlags {
    /// Checks the flags and builds the scenario.
    pub(crate) fn scenario(&self) -> Result<Scenario, UsageError> {
        let scenario = Scenario::RoundTrips {
            messages: Messages {
                connections: self.connections,
                bytes: self.size,
            },
            pacing: self
                .rate
                .map_or(Pacing::Closed, |requests_per_s| Pacing::Open {
                    requests_per_s,
                }),
        };
        Ok(scenario.checked()?)
    }
}

impl BulkFlags {
    /// Checks the flags and builds the scenario.
    pub(crate) fn scenario(&self) -> Result<Scenario, UsageError> {
        let scenario = Scenario::Bulk {
            direction: match self.direction {
                DirectionFlag::Up => Direction::Up,
                DirectionFlag::Down => Direction::Down,
                DirectionFlag::Both => Direction::Both,
            },
            connections: self.connections,
        };
        Ok(scenario.checked()?)
    }
}

impl ConnectFlags {
    /// Checks the flags and builds the scenario.
    pub(crate) fn scenario(&self) -> Result<Scenario, UsageError> {
        let at_once = self.at_once;
        Ok(Scenario::Connect { at_once }.checked()?)
    }
}

impl IdleFlags {
    /// Checks the flags and builds the scenario.
    pub(crate) fn scenario(&self) -> Result<Scenario, UsageError> {
        let sessions = self.sessions;
        Ok(Scenario::Idle { sessions }.checked()?)
    }
}

impl FanoutFlags {
    /// Checks the flags and builds the scenario.
    pub(crate) fn scenario(&self) -> Result<Scenario, UsageError> {
        let messages = Messages {
            connections: self.connections,
            bytes: self.size,
        };
        Ok(Scenario::Fanout { messages }.checked()?)
    }
}

impl MixedFlags {
    /// Checks the flags and builds the scenario.
    pub(crate) fn scenario(&self) -> Result<Scenario, UsageError> {
        let scenario = Scenario::Mixed {
            messages: Messages {
                connections: self.connections,
                bytes: self.size,
            },
            requests_per_s: self.rate,
            // At most 100 Gbit/s.
            bulk_kbit: self
                .bulk_rate
                .and_then(|rate| u32::try_from(rate.bits() / 1000).ok()),
        };
        Ok(scenario.checked()?)
    }
}

impl PathFlags {
    fn target(&self) -> Option<ExternalTarget> {
        let pid = self.target_pid;
        self.target.map(|address| ExternalTarget { address, pid })
    }
}

impl PeerFlags {
    fn checked(&self) -> Result<(Vec<PeerSpec>, Vec<PeerPid>), UsageError> {
        for (place, peer) in self.peers.iter().enumerate() {
            if self.peers[..place].iter().any(|one| one.name == peer.name) {
                return Err(UsageError::PeerTwice(peer.name.clone()));
            }
        }
        let is_known = |pid: &&PeerPid| self.peers.iter().any(|peer| peer.name == pid.name);
        if let Some(pid) = self.peer_pids.iter().find(|pid| !is_known(pid)) {
            return Err(UsageError::NoPeer(pid.name.clone()));
        }
        Ok((self.peers.clone(), self.peer_pids.clone()))
    }
}

impl SingleFlags {
    /// Checks the flags; returns method and paths.
    pub(crate) fn checked(&self) -> Result<(Method, PathsWanted), UsageError> {
        let wrong = |tunnel: &&String| tunnel_preamble(tunnel).is_none();
        if let Some(tunnel) = self.tunnels.iter().find(wrong) {
            return Err(UsageError::Tunnel(tunnel.clone()));
        }
        let relay = self.relay_tcp.map(|address| {
            RelaySource::External(ExternalRelay {
                address,
                tunnels: self.tunnels.clone(),
                relay_pid: self.relay_pid,
                agent_pids: self.agent_pids.clone(),
            })
        });
        let by_default: &[PathKind] = if relay.is_some() {
            &[PathKind::Relay]
        } else {
            &[]
        };
        let kinds = path_kinds(&self.paths.paths, by_default);
        if kinds.contains(&PathKind::RelayEpoll) {
            return Err(UsageError::NoRelayEpoll);
        }
        if let Some(kind) = kinds.iter().find(|kind| kind.plain() != **kind) {
            return Err(UsageError::OnlyInBench(*kind));
        }
        if kinds.contains(&PathKind::Relay) && relay.is_none() {
            return Err(UsageError::NoRelay);
        }
        let (peers, peer_pids) = self.peers.checked()?;
        let wanted = PathsWanted {
            kinds,
            target: self.paths.target(),
            relay,
            peers,
            peer_pids,
            known_peers: None,
            is_http: false,
            is_wrapped: false,
            pin: self.method.pin(),
        };
        Ok((self.method.checked()?, wanted))
    }
}

impl ProgramFlags {
    /// Binaries to start, with `tunnels` agents.
    fn binaries(&self, tunnels: usize) -> Binaries {
        Binaries {
            relay: beside(self.relay_bin.as_ref(), "tieline-relay"),
            agent: beside(self.agent_bin.as_ref(), "tieline"),
            relay_arguments: self.relay_arguments.clone(),
            agent_arguments: self.agent_arguments.clone(),
            tunnels,
            counter: None,
        }
    }
}

/// The file `given`, or the file `name` next to this program.
fn beside(given: Option<&PathBuf>, name: &str) -> PathBuf {
    given.cloned().unwrap_or_else(|| {
        std::env::current_exe().map_or_else(|_| PathBuf::from(name), |own| own.with_file_name(name))
    })
}

impl OutputFlags {
    /// Checks the base name and returns the report's files.
    pub(crate) fn files(&self, name: &str) -> Result<Files, UsageError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            return Err(UsageError::Name(name.to_owned()));
        }
        Ok(Files::new(&self.out, name))
    }
}

/// Kinds of the paths that a value of `--path` names.
fn named(flag: PathFlag) -> Vec<PathKind> {
    let over = |caller, link| PathKind::RelayOver(Wrapped::new(caller, link));
    let kind = match flag {
        PathFlag::Forwarder => {
            // Without monoio: it is for the comparison of runtimes alone, and would change the base of every ratio.
            return vec![PathKind::ForwarderTokio, PathKind::ForwarderTokioUring];
        }
        PathFlag::Direct => PathKind::Direct,
        PathFlag::ForwarderTokio => PathKind::ForwarderTokio,
        PathFlag::ForwarderTokioUring => PathKind::ForwarderTokioUring,
        PathFlag::ForwarderMonoio => PathKind::ForwarderMonoio,
        PathFlag::Relay => PathKind::Relay,
        PathFlag::RelayEpoll => PathKind::RelayEpoll,
        PathFlag::DirectTls => PathKind::DirectOver(Wrapping::Tls),
        PathFlag::DirectWs => PathKind::DirectOver(Wrapping::WebSocket),
        PathFlag::DirectWss => PathKind::DirectOver(Wrapping::WebSocketTls),
        PathFlag::DirectQuic => PathKind::DirectOver(Wrapping::Quic),
        PathFlag::RelayQuicCaller => over(Wrapping::Quic, Wrapping::Plain),
        PathFlag::RelayQuicLink => over(Wrapping::Plain, Wrapping::Quic),
        PathFlag::RelayQuic => over(Wrapping::Quic, Wrapping::Quic),
        PathFlag::RelayTlsCaller => over(Wrapping::Tls, Wrapping::Plain),
        PathFlag::RelayTlsLink => over(Wrapping::Plain, Wrapping::Tls),
        PathFlag::RelayTls => over(Wrapping::Tls, Wrapping::Tls),
        PathFlag::RelayWsCaller => over(Wrapping::WebSocket, Wrapping::Plain),
        PathFlag::RelayWssCaller => over(Wrapping::WebSocketTls, Wrapping::Plain),
        PathFlag::RelayWsLink => over(Wrapping::Plain, Wrapping::WebSocket),
        PathFlag::RelayWssLink => over(Wrapping::Plain, Wrapping::WebSocketTls),
        PathFlag::RelayWsPassed => over(Wrapping::PassedWebSocket, Wrapping::Plain),
    };
    vec![kind]
}

/// Kinds of the paths named by `--path`, sorted and without duplicates; the defaults if there are none.
fn path_kinds(flags: &[PathFlag], relays_by_default: &[PathKind]) -> Vec<PathKind> {
    let mut kinds: Vec<PathKind> = flags.iter().flat_map(|flag| named(*flag)).collect();
    if flags.is_empty() {
        kinds.push(PathKind::Direct);
        kinds.extend(named(PathFlag::Forwarder));
        kinds.extend(relays_by_default);
    }
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

#[cfg(test)]
mod tests;
