//! Starts the processes of all paths of a run and keeps them until the run ends.

mod start;
mod wrapped;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;

use crate::interrupt::Interrupt;
use crate::path::cores::{Cores, pin_client};
use crate::path::fleet::{Fleet, folder_for_keys, tunnel_name};
use crate::path::peer::known::{PeerFacts, PeerKind, RunningPeer};
use crate::path::peer::{PeerPid, PeerSpec};
use crate::path::relay::{Binaries, RelayFacts, RelayPair};
use crate::path::{Path, PathKind, Role, Wrapped, Wrapping, tunnel_preamble};
use crate::process::Running;
use crate::socket::{Certificate, Wrap};

/// Values of the forwarder's `--runtime` flag.
const TOKIO: &str = "tokio";
const TOKIO_URING: &str = "tokio-uring";
const MONOIO: &str = "monoio";

/// URL path of the target, which accepts any path.
const TARGET_PAGE: &str = "/mcp";

/// A relay that was started outside this program.
#[derive(Clone, Debug)]
pub(crate) struct ExternalRelay {
    /// Address of the raw TCP listener.
    pub(crate) address: SocketAddr,
    /// Tunnels to connect to.
    pub(crate) tunnels: Vec<String>,
    /// Process id of the relay, for its CPU time and memory.
    pub(crate) relay_pid: Option<u32>,
    /// Process ids of the agents, for their CPU time and memory.
    pub(crate) agent_pids: Vec<u32>,
}

/// Origin of the relay on the relay path.
#[derive(Clone, Debug)]
pub(crate) enum RelaySource {
    /// Relay and agent are started by this program.
    Start(Binaries),
    /// Relay and agent are already running.
    External(ExternalRelay),
}

/// A target that was started outside this program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExternalTarget {
    /// Address that it listens on.
    pub(crate) address: SocketAddr,
    /// Process id, for its CPU time.
    pub(crate) pid: Option<u32>,
}

/// Paths to compare, and the programs to start for them.
#[derive(Clone, Debug)]
pub(crate) struct PathsWanted {
    pub(crate) kinds: Vec<PathKind>,
    /// External target; if `None`, this program starts one.
    pub(crate) target: Option<ExternalTarget>,
    /// Relay and agent, for the relay paths.
    pub(crate) relay: Option<RelaySource>,
    /// Peers that are already running.
    pub(crate) peers: Vec<PeerSpec>,
    /// Process ids of those peers.
    pub(crate) peer_pids: Vec<PeerPid>,
    /// Folder with the binaries of known peers to start.
    pub(crate) known_peers: Option<PathBuf>,
    /// Whether the scenarios use HTTP, which needs an HTTP target and URL paths.
    pub(crate) is_http: bool,
    /// Whether the known peers are started with the hops of the wrapped paths.
    pub(crate) is_wrapped: bool,
    /// Whether to pin processes to cores.
    pub(crate) pin: bool,
}

/// Running processes of all paths. Fields drop in order: dialing processes before listening ones.
#[derive(Debug)]
pub(crate) struct PathSet {
    wanted: PathsWanted,
    pairs: Vec<RelayPair>,
    peers: Vec<RunningPeer>,
    hops: Vec<Running>,
    target: Option<Running>,
    /// Targets that speak TLS, WebSocket or QUIC, with their addresses.
    wrapped_targets: Vec<(Wrapping, ExternalTarget, Running)>,
    /// Certificate of the wrapped paths.
    certificate: Option<Certificate>,
    /// Address of the target, where all paths end.
    address: Option<SocketAddr>,
    directory: TempDir,
    /// Folder with the agent keys, created for the first fleet and reused by later ones.
    keys: Option<TempDir>,
    cores: Option<Cores>,
    /// Paths that can be measured on this machine.
    pub(crate) paths: Vec<Path>,
    /// Notes for the report, such as a path that was left out.
    pub(crate) notes: Vec<String>,
}

impl PathSet {
    /// Starts the wanted paths. A forwarder on io_uring or known peer that does not work here is left out with a note.
    pub(crate) fn start(wanted: &PathsWanted, interrupt: &Interrupt) -> anyhow::Result<Self> {
        let mut set = Self {
            wanted: wanted.clone(),
            pairs: Vec::new(),
            peers: Vec::new(),
            hops: Vec::new(),
            target: None,
            wrapped_targets: Vec::new(),
            certificate: None,
            address: None,
            directory: tempfile::Builder::new()
                .prefix("tieline-loadgen-")
                .tempdir()?,
            keys: None,
            cores: if wanted.pin { pin_client()? } else { None },
            paths: Vec::new(),
            notes: Vec::new(),
        };
        let has_tls = |kind: &PathKind| kind.wrapped().has_tls();
        if wanted.is_wrapped || wanted.kinds.iter().any(has_tls) {
            set.certificate = Some(Certificate::make(set.directory.path())?);
        }
        set.fill(interrupt)?;
        Ok(set)
    }

    /// Ends every process that this program started and starts it again, because memory left over from an
    /// earlier load would hide what the next one needs.
    pub(crate) fn restart(&mut self, interrupt: &Interrupt) -> anyhow::Result<()> {
        self.pairs.clear();
        self.peers.clear();
        self.hops.clear();
        self.target = None;
        self.wrapped_targets.clear();
        self.paths.clear();
        self.notes.clear();
        self.fill(interrupt)
    }

    /// Starts a fleet of agents that publish `tunnels` tunnels, and makes its process the far hop of the
    /// relay path. Returns the time until all tunnels were up.
    pub(crate) fn publish(
        &mut self,
        fleet: &std::path::Path,
        tunnels: usize,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Duration> {
        let keys = match self.keys.take() {
            Some(keys) => keys,
            None => tempfile::Builder::new()
                .prefix("tieline-fleet-")
                .tempdir_in(folder_for_keys())?,
        };
        let keys = self.keys.insert(keys);
        let own = |pair: &&mut RelayPair| pair.facts.path == PathKind::Relay;
        let pair = self.pairs.iter_mut().find(own);
        let pair = pair.context("no relay was started")?;
        let target = self.address.context("no target was started")?;
        let fleet = Fleet::start(
            fleet,
            tunnels,
            (pair.links, target),
            self.cores.as_ref().map(|cores| cores.far),
            (keys.path(), self.directory.path()),
            interrupt,
        )?;
        let relay = self
            .paths
            .iter_mut()
            .find(|path| path.kind == PathKind::Relay);
        let relay = relay.context("there is no relay path")?;
        relay.preambles = (0..tunnels)
            .filter_map(|agent| tunnel_preamble(&tunnel_name(agent)))
            .collect();
        relay.processes.retain(|(role, _)| *role != Role::FarHop);
        relay.processes.push((Role::FarHop, fleet.process.pid()));
        pair.agents.push(fleet.process);
        Ok(fleet.up)
    }

    fn fill(&mut self, interrupt: &Interrupt) -> anyhow::Result<()> {
        let wanted = self.wanted.clone();
        let target = match wanted.target {
            Some(external) => external,
            None => self.start_target(interrupt)?,
        };
        self.address = Some(target.address);
        for kind in &wanted.kinds {
            let started = match kind {
                PathKind::DirectOver(wrapping) => self.wrapped_direct(*wrapping, interrupt),
                PathKind::Direct => Ok(Path {
                    kind: *kind,
                    address: target.address,
                    wrap: Wrap::default(),
                    preambles: Vec::new(),
                    pages: vec![TARGET_PAGE.to_owned()],
                    processes: Vec::new(),
                    hops_known: false,
                    connections_max: None,
                }),
                PathKind::ForwarderTokio => self.start_forwarder(*kind, TOKIO, target, interrupt),
                PathKind::ForwarderTokioUring | PathKind::ForwarderMonoio => {
                    match self.start_forwarder(*kind, on_ring(*kind), target, interrupt) {
                        Err(error) if !interrupt.is_raised() => {
                            self.notes.push(format!("{kind} left out: {error:#}"));
                            continue;
                        }
                        started => started,
                    }
                }
                PathKind::Relay | PathKind::RelayOver(_) | PathKind::RelayEpoll => {
                    let source = wanted.relay.as_ref().context("no relay was given")?;
                    if kind.wrapped().caller == Wrapping::PassedWebSocket {
                        self.passing_relay(*kind, source, interrupt)
                    } else {
                        self.start_relay(*kind, source, target, interrupt)
                    }
                }
                PathKind::Peer(_) | PathKind::PeerOver(..) => continue,
            };
            self.paths.push(started?);
        }
        for peer in &wanted.peers {
            self.paths.push(peer.path(&wanted.peer_pids));
        }
        match &wanted.known_peers {
            Some(from) if wanted.is_http => self.start_proxies(from, target, interrupt)?,
            Some(from) if wanted.is_wrapped => {
                self.start_wrapped_peers(from, target, interrupt)?;
            }
            Some(from) => {
                let plain = PeerKind::ALL.map(|known| (known, Wrapped::PLAIN));
                self.start_known_peers(&plain, from, target, interrupt)?;
            }
            None => {}
        }
        for path in &mut self.paths {
            // A path that ends in a target of its own lists that target's process already.
            let has_target = path.processes.iter().any(|(role, _)| *role == Role::Target);
            let pid = target.pid.filter(|_| !has_target);
            path.processes.extend(pid.map(|pid| (Role::Target, pid)));
            path.processes.sort_unstable();
        }
        self.paths.sort_by_key(|path| path.kind);
        self.notes.extend(same_driver(&self.relay_facts()));
        Ok(())
    }

    /// Whether each role has its own cores.
    pub(crate) fn is_pinned(&self) -> bool {
        self.cores.is_some()
    }

    /// Settings and drivers of the relays that this program started, the relay with defaults first.
    pub(crate) fn relay_facts(&self) -> Vec<RelayFacts> {
        self.pairs.iter().map(|pair| pair.facts.clone()).collect()
    }

    /// Versions and configurations of the peers that this program started.
    pub(crate) fn peer_facts(&self) -> Vec<PeerFacts> {
        self.peers.iter().map(|peer| peer.facts.clone()).collect()
    }

    /// Messages about own processes that have ended unexpectedly.
    pub(crate) fn obituaries(&mut self) -> Vec<String> {
        let pairs = self
            .pairs
            .iter_mut()
            .flat_map(|pair| std::iter::once(&mut pair.relay).chain(&mut pair.agents));
        let own = pairs
            .chain(&mut self.hops)
            .chain(&mut self.target)
            .chain(self.wrapped_targets.iter_mut().map(|(_, _, it)| it))
            .filter_map(Running::obituary);
        let peers = self.peers.iter_mut().flat_map(RunningPeer::obituaries);
        own.chain(peers).collect()
    }
}

/// The runtime of a forwarder on io_uring.
fn on_ring(kind: PathKind) -> &'static str {
    match kind {
        PathKind::ForwarderMonoio => MONOIO,
        _ => TOKIO_URING,
    }
}

/// A note if the relay with its default driver runs on epoll too, like the relay-epoll path.
fn same_driver(relays: &[RelayFacts]) -> Option<String> {
    let on_epoll = |kind| {
        let mut facts = relays.iter().filter(|facts| facts.path == kind);
        facts.any(|facts| facts.driver().as_deref() == Some("epoll"))
    };
    (on_epoll(PathKind::Relay) && on_epoll(PathKind::RelayEpoll)).then(|| {
        format!(
            "{} fell back to epoll, the driver of {}, because io_uring cannot be used: differences \
             between the two are noise",
            PathKind::Relay,
            PathKind::RelayEpoll
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(path: PathKind, driver: &str) -> RelayFacts {
        RelayFacts {
            path,
            changed: Vec::new(),
            settings: Vec::new(),
            health: Some(format!("{{\"shards\":[{{\"driver\":\"{driver}\"}}]}}")),
        }
    }

    #[test]
    fn a_relay_that_fell_back_to_epoll_is_not_told_as_another_driver() {
        let epoll = facts(PathKind::RelayEpoll, "epoll");
        let told = same_driver(&[facts(PathKind::Relay, "epoll"), epoll.clone()]);
        assert!(told.is_some_and(|told| told.contains("io_uring cannot be used")));
        assert!(same_driver(&[facts(PathKind::Relay, "uring"), epoll]).is_none());
        assert!(same_driver(&[facts(PathKind::Relay, "epoll")]).is_none());
    }
}
