//! Starts the processes of all paths of a run and keeps them until the run ends.

use std::net::SocketAddr;

use anyhow::Context;
use tempfile::TempDir;

use crate::interrupt::Interrupt;
use crate::machine::usable_cores;
use crate::path::relay::{Binaries, RelayPair};
use crate::path::{Path, PathKind, Role, tunnel_preamble};
use crate::process::{Program, Running, pin_to};

/// A relay that somebody else runs.
#[derive(Clone, Debug)]
pub(crate) struct ExternalRelay {
    /// Its raw TCP listener.
    pub(crate) address: SocketAddr,
    /// The tunnel to ask for.
    pub(crate) tunnel: String,
    /// Process id of the relay, for its CPU time.
    pub(crate) relay_pid: Option<u32>,
    /// Process id of the agent.
    pub(crate) agent_pid: Option<u32>,
}

/// Where the relay path comes from.
#[derive(Clone, Debug)]
pub(crate) enum RelaySource {
    /// This program starts relay and agent.
    Start(Binaries),
    /// They run already.
    External(ExternalRelay),
}

/// An echo target that somebody else runs.
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
    /// Whether processes may be pinned to cores.
    pub(crate) pin: bool,
}

/// The running processes. Fields are dropped in order: those that dial before those that listen.
#[derive(Debug)]
pub(crate) struct PathSet {
    pair: Option<RelayPair>,
    hops: Vec<Running>,
    target: Option<Running>,
    directory: TempDir,
    cores: Option<Cores>,
    /// The paths that work here.
    pub(crate) paths: Vec<Path>,
    /// What a reader of the numbers should know, such as a path that was left out.
    pub(crate) notes: Vec<String>,
}

/// The core of each role, when processes are pinned.
#[derive(Clone, Copy, Debug)]
struct Cores {
    target: usize,
    near: usize,
    far: usize,
}

impl PathSet {
    /// Starts what is wanted. A forwarder whose runtime cannot work here is left out with a note.
    pub(crate) fn start(wanted: &PathsWanted, interrupt: &Interrupt) -> anyhow::Result<Self> {
        let mut set = Self {
            pair: None,
            hops: Vec::new(),
            target: None,
            directory: tempfile::Builder::new()
                .prefix("tieline-loadgen-")
                .tempdir()?,
            cores: if wanted.pin { pin_client()? } else { None },
            paths: Vec::new(),
            notes: Vec::new(),
        };
        let target = match wanted.target {
            Some(external) => external,
            None => set.start_target(interrupt)?,
        };
        for kind in &wanted.kinds {
            let started = match kind {
                PathKind::Direct => Ok(Path {
                    kind: *kind,
                    address: target.address,
                    preamble: Vec::new(),
                    processes: Vec::new(),
                }),
                PathKind::ForwarderTokio => set.start_forwarder(*kind, "tokio", target, interrupt),
                PathKind::ForwarderTokioUring => {
                    match set.start_forwarder(*kind, "tokio-uring", target, interrupt) {
                        Err(error) if !interrupt.is_raised() => {
                            set.notes.push(format!("{kind} left out: {error:#}"));
                            continue;
                        }
                        started => started,
                    }
                }
                PathKind::Relay => {
                    let source = wanted.relay.as_ref().context("no relay was given")?;
                    set.start_relay(source, target, interrupt)
                }
            };
            let mut path = started?;
            path.processes
                .extend(target.pid.map(|pid| (Role::Target, pid)));
            path.processes.sort_unstable();
            set.paths.push(path);
        }
        Ok(set)
    }

    /// Whether each role has a core of its own.
    pub(crate) fn is_pinned(&self) -> bool {
        self.cores.is_some()
    }

    /// What the relay says about its own configuration.
    pub(crate) fn relay_health(&self) -> Option<&str> {
        self.pair.as_ref()?.health.as_deref()
    }

    /// What to say about processes of ours that have ended although nobody asked them to.
    pub(crate) fn obituaries(&mut self) -> Vec<String> {
        let pair = self
            .pair
            .iter_mut()
            .flat_map(|pair| [&mut pair.relay, &mut pair.agent]);
        pair.chain(&mut self.hops)
            .chain(&mut self.target)
            .filter_map(Running::obituary)
            .collect()
    }

    fn start_target(&mut self, interrupt: &Interrupt) -> anyhow::Result<ExternalTarget> {
        let core = self.cores.map(|cores| cores.target);
        let arguments = ["target", "echo", "--listen", "127.0.0.1:0"];
        let mut target = Running::start(
            &Program::own("target", &arguments, core)?,
            self.directory.path(),
        )?;
        let address = target.wait_for_address("echo", interrupt)?;
        let pid = Some(target.pid());
        self.target = Some(target);
        Ok(ExternalTarget { address, pid })
    }

    /// Two hops: the far one dials the target, the near one dials the far one.
    fn start_forwarder(
        &mut self,
        kind: PathKind,
        runtime: &str,
        target: ExternalTarget,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Path> {
        let mut address = target.address;
        let mut processes = Vec::new();
        let hops = [
            (Role::FarHop, "far", self.cores.map(|cores| cores.far)),
            (Role::NearHop, "near", self.cores.map(|cores| cores.near)),
        ];
        for (role, place, core) in hops {
            let to = address.to_string();
            let arguments = [
                "forwarder",
                "--runtime",
                runtime,
                "--listen",
                "127.0.0.1:0",
                "--to",
                &to,
            ];
            let program = Program::own(&format!("{kind}-{place}"), &arguments, core)?;
            let mut hop = Running::start(&program, self.directory.path())?;
            address = hop.wait_for_address("forwarder", interrupt)?;
            processes.push((role, hop.pid()));
            // Before the hops that are there: the near one dials the far one and ends first.
            self.hops.insert(0, hop);
        }
        Ok(Path {
            kind,
            address,
            preamble: Vec::new(),
            processes,
        })
    }

    fn start_relay(
        &mut self,
        source: &RelaySource,
        target: ExternalTarget,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Path> {
        let (address, tunnel, pids) = match source {
            RelaySource::External(relay) => (
                relay.address,
                relay.tunnel.clone(),
                (relay.relay_pid, relay.agent_pid),
            ),
            RelaySource::Start(binaries) => {
                let cores = (
                    self.cores.map(|cores| cores.near),
                    self.cores.map(|cores| cores.far),
                );
                let pair = RelayPair::start(
                    binaries,
                    target.address,
                    cores,
                    self.directory.path(),
                    interrupt,
                )?;
                let found = (
                    pair.frontend,
                    pair.tunnel.clone(),
                    (Some(pair.relay.pid()), Some(pair.agent.pid())),
                );
                self.pair = Some(pair);
                found
            }
        };
        let preamble = tunnel_preamble(&tunnel)
            .with_context(|| format!("`{tunnel}` cannot be the name of a tunnel"))?;
        let mut processes = Vec::new();
        processes.extend(pids.0.map(|pid| (Role::NearHop, pid)));
        processes.extend(pids.1.map(|pid| (Role::FarHop, pid)));
        Ok(Path {
            kind: PathKind::Relay,
            address,
            preamble,
            processes,
        })
    }
}

/// Gives each role a core where there are enough, and puts this process on the first.
fn pin_client() -> anyhow::Result<Option<Cores>> {
    let usable = usable_cores();
    let [client, target, near, far, ..] = usable[..] else {
        return Ok(None);
    };
    pin_to(client)?;
    Ok(Some(Cores { target, near, far }))
}
