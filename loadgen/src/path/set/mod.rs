//! Starts the processes of all paths of a run and keeps them until the run ends.

mod start;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;

use crate::interrupt::Interrupt;
use crate::path::cores::{Cores, pin_client};
use crate::path::fleet::{Fleet, folder_for_keys, tunnel_name};
use crate::path::peer::known::{PeerFacts, RunningPeer};
use crate::path::peer::{PeerPid, PeerSpec};
use crate::path::relay::{Binaries, RelayFacts, RelayPair};
use crate::path::{Path, PathKind, Role, tunnel_preamble};
use crate::process::Running;

/// What the forwarders run on, as their flag says it.
const TOKIO: &str = "tokio";
const TOKIO_URING: &str = "tokio-uring";

/// Path of the target's URL. It takes any.
const TARGET_PAGE: &str = "/mcp";

/// A relay that somebody else runs.
#[derive(Clone, Debug)]
pub(crate) struct ExternalRelay {
    /// Its raw TCP listener.
    pub(crate) address: SocketAddr,
    /// The tunnels to ask for.
    pub(crate) tunnels: Vec<String>,
    /// Process id of the relay, for its CPU time and memory.
    pub(crate) relay_pid: Option<u32>,
    /// Process ids of the agents.
    pub(crate) agent_pids: Vec<u32>,
}

/// Where the relay path comes from.
#[derive(Clone, Debug)]
pub(crate) enum RelaySource {
    /// This program starts relay and agent.
    Start(Binaries),
    /// They run already.
    External(ExternalRelay),
}

/// A target that somebody else runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExternalTarget {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Its process id, for its CPU time.
    pub(crate) pid: Option<u32>,
}

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct PathsWanted {
    /// The paths to compare.
    pub(crate) kinds: Vec<PathKind>,
    /// A target to use in place of our own.
    pub(crate) target: Option<ExternalTarget>,
    /// Relay and agent, if that path is wanted.
    pub(crate) relay: Option<RelaySource>,
    /// Peers that run already.
    pub(crate) peers: Vec<PeerSpec>,
    /// Their processes.
    pub(crate) peer_pids: Vec<PeerPid>,
    /// Start known peers from this folder.
    pub(crate) known_peers: Option<PathBuf>,
    /// Whether the loads speak HTTP: then so does the target, and the paths have pages.
    pub(crate) is_http: bool,
    /// Whether processes may be pinned to cores.
    pub(crate) pin: bool,
}

/// The running processes. Fields are dropped in order: those that dial before those that listen.
#[derive(Debug)]
pub(crate) struct PathSet {
    wanted: PathsWanted,
    pairs: Vec<RelayPair>,
    peers: Vec<RunningPeer>,
    hops: Vec<Running>,
    target: Option<Running>,
    /// Where all paths end.
    address: Option<SocketAddr>,
    directory: TempDir,
    /// Keys of a fleet, made when the first one starts and used by all.
    keys: Option<TempDir>,
    cores: Option<Cores>,
    /// The paths that work here.
    pub(crate) paths: Vec<Path>,
    /// What a reader of the numbers should know, such as a path that was left out.
    pub(crate) notes: Vec<String>,
}

impl PathSet {
    /// Starts what is wanted. A forwarder whose runtime cannot work here is left out with a note.
    pub(crate) fn start(wanted: &PathsWanted, interrupt: &Interrupt) -> anyhow::Result<Self> {
        let mut set = Self {
            wanted: wanted.clone(),
            pairs: Vec::new(),
            peers: Vec::new(),
            hops: Vec::new(),
            target: None,
            address: None,
            directory: tempfile::Builder::new()
                .prefix("tieline-loadgen-")
                .tempdir()?,
            keys: None,
            cores: if wanted.pin { pin_client()? } else { None },
            paths: Vec::new(),
            notes: Vec::new(),
        };
        set.fill(interrupt)?;
        Ok(set)
    }

    /// Ends every process that this program started and starts it anew: memory that an earlier
    /// load left behind must not hide what the next one needs.
    pub(crate) fn restart(&mut self, interrupt: &Interrupt) -> anyhow::Result<()> {
        self.pairs.clear();
        self.peers.clear();
        self.hops.clear();
        self.target = None;
        self.paths.clear();
        self.notes.clear();
        self.fill(interrupt)
    }

    /// Publishes `tunnels` more tunnels by a fleet of agents, whose process is the far hop of the
    /// relay path from now on. Answers how long it took until all were up.
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
        let relay = relay.context("no path over the relay was wanted")?;
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
                PathKind::Direct => Ok(Path {
                    kind: *kind,
                    address: target.address,
                    preambles: Vec::new(),
                    pages: vec![TARGET_PAGE.to_owned()],
                    processes: Vec::new(),
                    hops_known: false,
                    connections_max: None,
                }),
                PathKind::ForwarderTokio => self.start_forwarder(*kind, TOKIO, target, interrupt),
                PathKind::ForwarderTokioUring => {
                    match self.start_forwarder(*kind, TOKIO_URING, target, interrupt) {
                        Err(error) if !interrupt.is_raised() => {
                            self.notes.push(format!("{kind} left out: {error:#}"));
                            continue;
                        }
                        started => started,
                    }
                }
                PathKind::Relay | PathKind::RelayEpoll => {
                    let source = wanted.relay.as_ref().context("no relay was given")?;
                    self.start_relay(*kind, source, target, interrupt)
                }
                PathKind::Peer(_) => continue,
            };
            self.paths.push(started?);
        }
        for peer in &wanted.peers {
            self.paths.push(peer.path(&wanted.peer_pids));
        }
        match &wanted.known_peers {
            Some(from) if wanted.is_http => self.start_proxies(from, target, interrupt)?,
            Some(from) => self.start_known_peers(from, target, interrupt)?,
            None => {}
        }
        for path in &mut self.paths {
            path.processes
                .extend(target.pid.map(|pid| (Role::Target, pid)));
            path.processes.sort_unstable();
        }
        self.paths.sort_by_key(|path| path.kind);
        self.notes.extend(same_driver(&self.relay_facts()));
        Ok(())
    }

    /// Whether each role has cores of its own.
    pub(crate) fn is_pinned(&self) -> bool {
        self.cores.is_some()
    }

    /// Settings and drivers of the relays that this program started, that with defaults first.
    pub(crate) fn relay_facts(&self) -> Vec<RelayFacts> {
        self.pairs.iter().map(|pair| pair.facts.clone()).collect()
    }

    /// Versions and configurations of the peers that this program started.
    pub(crate) fn peer_facts(&self) -> Vec<PeerFacts> {
        self.peers.iter().map(|peer| peer.facts.clone()).collect()
    }

    /// What to say about processes of ours that have ended although nobody asked them to.
    pub(crate) fn obituaries(&mut self) -> Vec<String> {
        let pairs = self
            .pairs
            .iter_mut()
            .flat_map(|pair| std::iter::once(&mut pair.relay).chain(&mut pair.agents));
        let own = pairs
            .chain(&mut self.hops)
            .chain(&mut self.target)
            .filter_map(Running::obituary);
        let peers = self.peers.iter_mut().flat_map(RunningPeer::obituaries);
        own.chain(peers).collect()
    }
}

/// A warning if two relays that should differ in their driver do not.
fn same_driver(relays: &[RelayFacts]) -> Option<String> {
    let on_epoll = |kind| {
        let mut facts = relays.iter().filter(|facts| facts.path == kind);
        facts.any(|facts| facts.driver().as_deref() == Some("epoll"))
    };
    (on_epoll(PathKind::Relay) && on_epoll(PathKind::RelayEpoll)).then(|| {
        format!(
            "{} runs on epoll here as {} does, because io_uring cannot be used: the two differ by \
             chance only",
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
