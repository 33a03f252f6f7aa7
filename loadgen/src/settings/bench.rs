//! Settings of `bench`, checked.

use super::{UsageError, path_kinds};
use crate::cli::{BenchFlags, PathFlag, ProgramFlags, Suite, TransportFlag, TransportFlags};
use crate::path::set::{PathsWanted, RelaySource};
use crate::path::{PathKind, Wrapped, Wrapping};
use crate::scenario::{Method, Scenario, ScenarioError};

/// Most tunnels of a bench run; each has its own agent process.
const TUNNELS_MAX: usize = 256;

/// Scenarios of `just bench`; those that need fresh processes come last.
const QUICK: [&str; 10] = [
    "1x256",
    "64x256",
    "512x1024",
    "16x256@3000",
    "bulk-up-1",
    "bulk-down-1",
    "mixed-16x256@3000",
    "connect-16",
    "fanout-1000x256",
    "idle-2000",
];

/// Scenarios of `just bench-peers`.
const PEERS: [&str; 13] = [
    "1x256",
    "64x256",
    "512x1024",
    "16x256@3000",
    "bulk-up-1",
    "bulk-up-8",
    "bulk-down-1",
    "bulk-down-8",
    "bulk-both-1",
    "mixed-16x256@3000",
    "connect-16",
    "fanout-1000x256",
    "idle-2000",
];

/// Scenarios of `just bench-full`.
const FULL: [&str; 23] = [
    "1x256",
    "4x256",
    "16x256",
    "64x256",
    "256x256",
    "1024x256",
    "4096x256",
    "1x65536",
    "512x1024",
    "16x256@3000",
    "64x256@10000",
    "bulk-up-1",
    "bulk-up-8",
    "bulk-down-1",
    "bulk-down-8",
    "bulk-both-1",
    "mixed-16x256@3000",
    "connect-1",
    "connect-16",
    "fanout-1000x256",
    "fanout-9000x64",
    "idle-2000",
    "idle-10000",
];

/// Scenarios of `just bench http`. The rate of first events is low, so that the machine is idle between them.
const HTTP: [&str; 4] = ["calls-1", "calls-64", "events-16@200", "streams-2000"];

/// Scenarios of `just bench tls`; the one that needs fresh processes comes last.
const TLS: [&str; 9] = [
    "64x256",
    "512x1024",
    "16x256@3000",
    "bulk-up-1",
    "bulk-down-1",
    "handshakes-x25519-16",
    "handshakes-x25519mlkem768-16",
    "handshakes-resumed-16",
    "idle-2000",
];

/// Paths of `just bench tls`, beside the peers.
const TLS_PATHS: [PathFlag; 11] = [
    PathFlag::Direct,
    PathFlag::DirectTls,
    PathFlag::DirectWs,
    PathFlag::DirectWss,
    PathFlag::Relay,
    PathFlag::RelayTlsCaller,
    PathFlag::RelayTlsLink,
    PathFlag::RelayTls,
    PathFlag::RelayWsCaller,
    PathFlag::RelayWssCaller,
    PathFlag::RelayWsPassed,
];

impl BenchFlags {
    /// Checks the flags; returns scenarios, method and paths.
    pub(crate) fn checked(&self) -> Result<(Vec<Scenario>, Method, PathsWanted), UsageError> {
        let names: &[&str] = match self.suite {
            Suite::Quick => &QUICK,
            Suite::Peers => &PEERS,
            Suite::Full => &FULL,
            Suite::Http => &HTTP,
            Suite::Tls => &TLS,
        };
        let mut scenarios = self.scenarios.clone();
        if scenarios.is_empty() {
            let parsed = names.iter().map(|name| name.parse());
            scenarios = parsed.collect::<Result<_, ScenarioError>>()?;
        }
        let is_http = scenarios.iter().any(Scenario::is_http);
        if is_http && !scenarios.iter().all(Scenario::is_http) {
            return Err(UsageError::TwoTargets);
        }
        if !(1..=TUNNELS_MAX).contains(&self.tunnels) {
            return Err(UsageError::Range {
                flag: "--tunnels",
                range: format!("1 to {TUNNELS_MAX}"),
            });
        }
        let sets_driver = self.programs.sets_driver();
        let by_default: &[PathKind] = if sets_driver {
            &[PathKind::Relay]
        } else {
            &[PathKind::Relay, PathKind::RelayEpoll]
        };
        let is_wrapped = matches!(self.suite, Suite::Tls);
        let paths: &[PathFlag] = match self.paths.paths.as_slice() {
            [] if is_wrapped => &TLS_PATHS,
            given => given,
        };
        let mut kinds = path_kinds(paths, by_default);
        kinds.extend(self.transports.paths()?);
        kinds.sort_unstable();
        kinds.dedup();
        let mut wrapped = kinds.iter().filter(|kind| kind.plain() != **kind);
        if let (true, Some(kind)) = (is_http, wrapped.next()) {
            return Err(UsageError::HttpWrapped(*kind));
        }
        if sets_driver && kinds.contains(&PathKind::RelayEpoll) {
            return Err(UsageError::Driver);
        }
        let (peers, peer_pids) = self.peers.checked()?;
        let wanted = PathsWanted {
            kinds,
            target: self.paths.target(),
            relay: Some(RelaySource::Start(self.programs.binaries(self.tunnels))),
            peers,
            peer_pids,
            known_peers: self.known_peers.clone(),
            is_http,
            is_wrapped,
            pin: self.method.pin(),
        };
        Ok((scenarios, self.method.checked()?, wanted))
    }
}

impl TransportFlags {
    /// The paths that the flags add; none without flags.
    fn paths(&self) -> Result<Vec<PathKind>, UsageError> {
        use Wrapping::{WebSocket, WebSocketTls};
        let (agent, frontend) = (self.agent_transport, self.frontend_transport);
        if agent.or(frontend).is_none() {
            return Ok(Vec::new());
        }
        let (link, caller) = (wrapping(agent), wrapping(frontend));
        if let (WebSocket, WebSocketTls) | (WebSocketTls, WebSocket) = (link, caller) {
            return Err(UsageError::Transports);
        }
        let direct = match caller {
            Wrapping::Plain => PathKind::Direct,
            caller => PathKind::DirectOver(caller),
        };
        let relay = match Wrapped::new(caller, link) {
            Wrapped::PLAIN => PathKind::Relay,
            wrapped => PathKind::RelayOver(wrapped),
        };
        Ok(vec![direct, relay])
    }
}

/// What a transport wraps the bytes of a hop in; TCP if none is given.
fn wrapping(transport: Option<TransportFlag>) -> Wrapping {
    match transport {
        None | Some(TransportFlag::Tcp) => Wrapping::Plain,
        Some(TransportFlag::Tls) => Wrapping::Tls,
        Some(TransportFlag::Ws) => Wrapping::WebSocket,
        Some(TransportFlag::Wss) => Wrapping::WebSocketTls,
        Some(TransportFlag::Quic) => Wrapping::Quic,
    }
}

impl ProgramFlags {
    /// Whether the relay's arguments already set its driver.
    fn sets_driver(&self) -> bool {
        let is_driver = |argument: &String| argument.split('=').next() == Some("--driver");
        self.relay_arguments.iter().any(is_driver)
    }
}
