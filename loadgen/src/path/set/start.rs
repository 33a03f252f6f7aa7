//! Starts the processes of each kind of path.

use anyhow::Context;

use super::{ExternalTarget, PathSet, RelaySource, TARGET_PAGE, TOKIO, TOKIO_URING};
use crate::interrupt::Interrupt;
use crate::path::peer::known::{CONNECTIONS_MAX, PeerKind, PeerSetup};
use crate::path::peer::proxy;
use crate::path::relay::RelayPair;
use crate::path::{Path, PathKind, Role, Wrapped, Wrapping, tunnel_preamble};
use crate::process::{Program, Running};
use crate::socket::Wrap;

impl PathSet {
    pub(super) fn start_target(&mut self, interrupt: &Interrupt) -> anyhow::Result<ExternalTarget> {
        let cores = self.cores.as_ref().map(|cores| cores.target.clone());
        let (word, kind) = if self.wanted.is_http {
            ("http", "http-target")
        } else {
            ("any", "target")
        };
        let arguments = ["target", word, "--listen", "127.0.0.1:0"];
        let mut target = Running::start(
            &Program::own("target", &arguments, cores.unwrap_or_default())?,
            self.directory.path(),
        )?;
        let address = target.wait_for_address(kind, interrupt)?;
        let pid = Some(target.pid());
        self.target = Some(target);
        Ok(ExternalTarget { address, pid })
    }

    /// Starts two hops: the far hop dials the target, and the near hop dials the far hop.
    pub(super) fn start_forwarder(
        &mut self,
        kind: PathKind,
        runtime: &str,
        target: ExternalTarget,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Path> {
        let mut address = target.address;
        let mut processes = Vec::new();
        let hops = [
            (
                Role::FarHop,
                "far",
                self.cores.as_ref().map(|cores| cores.far),
            ),
            (
                Role::NearHop,
                "near",
                self.cores.as_ref().map(|cores| cores.near),
            ),
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
            let name = format!("{kind}-{place}");
            let program = Program::own(&name, &arguments, core.into_iter().collect())?;
            let mut hop = Running::start(&program, self.directory.path())?;
            address = hop.wait_for_address("forwarder", interrupt)?;
            processes.push((role, hop.pid()));
            // Inserted before the far hop: processes end in list order, and the near hop must end first.
            self.hops.insert(0, hop);
        }
        Ok(Path {
            kind,
            address,
            wrap: Wrap::default(),
            preambles: Vec::new(),
            pages: vec![TARGET_PAGE.to_owned()],
            processes,
            hops_known: true,
            connections_max: None,
        })
    }

    /// Starts nginx as a reverse proxy in front of two forwarders, once per forwarder runtime. A path
    /// that cannot be started is left out with a note.
    pub(super) fn start_proxies(
        &mut self,
        from: &std::path::Path,
        target: ExternalTarget,
        interrupt: &Interrupt,
    ) -> anyhow::Result<()> {
        for (runtime, name) in [(TOKIO, "nginx-tokio"), (TOKIO_URING, "nginx-uring")] {
            let kind = PathKind::Peer(name);
            match self.start_proxy(kind, runtime, from, target, interrupt) {
                Ok(path) => self.paths.push(path),
                Err(error) => self.leave_out(kind, &error, interrupt)?,
            }
        }
        Ok(())
    }

    pub(super) fn start_proxy(
        &mut self,
        kind: PathKind,
        runtime: &str,
        from: &std::path::Path,
        target: ExternalTarget,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Path> {
        let mut path = self.start_forwarder(kind, runtime, target, interrupt)?;
        let place = PeerSetup {
            wrapped: kind.wrapped(),
            ..self.place(from, path.address)
        };
        let nginx = proxy::start(&kind.to_string(), &place, interrupt)?;
        path.address = nginx.address;
        // Behind the proxy, both forwarders count as the far hop.
        path.processes
            .iter_mut()
            .for_each(|(role, _)| *role = Role::FarHop);
        path.processes.extend(nginx.processes());
        path.connections_max = Some(CONNECTIONS_MAX);
        self.peers.push(nginx);
        Ok(path)
    }

    /// Folders and cores for starting a known peer that forwards to `target`.
    pub(super) fn place<'a>(
        &'a self,
        from: &'a std::path::Path,
        target: std::net::SocketAddr,
    ) -> PeerSetup<'a> {
        PeerSetup {
            from,
            target,
            cores: (
                self.cores.as_ref().map(|cores| cores.near),
                self.cores.as_ref().map(|cores| cores.far),
            ),
            directory: self.directory.path(),
            wrapped: Wrapped::PLAIN,
            certificate: self.certificate.as_ref(),
        }
    }

    /// Starts known peers with this wrapping of their hops. A peer that cannot be started is left out with a note.
    pub(super) fn start_known_peers(
        &mut self,
        peers: &[(PeerKind, Wrapped)],
        from: &std::path::Path,
        target: ExternalTarget,
        interrupt: &Interrupt,
    ) -> anyhow::Result<()> {
        for &(known, wrapped) in peers {
            let kind = known.kind_over(wrapped);
            let place = PeerSetup {
                wrapped,
                ..self.place(from, target.address)
            };
            match known.start(&place, interrupt) {
                Ok(peer) => {
                    self.paths.push(Path {
                        kind,
                        address: peer.address,
                        wrap: self.wrap(wrapped.caller),
                        preambles: Vec::new(),
                        pages: Vec::new(),
                        processes: peer.processes(),
                        hops_known: true,
                        connections_max: Some(CONNECTIONS_MAX),
                    });
                    self.peers.push(peer);
                }
                Err(error) => self.leave_out(kind, &error, interrupt)?,
            }
        }
        Ok(())
    }

    /// Notes why a path could not be started; an error if the run was interrupted.
    pub(super) fn leave_out(
        &mut self,
        kind: PathKind,
        error: &anyhow::Error,
        interrupt: &Interrupt,
    ) -> anyhow::Result<()> {
        interrupt.check()?;
        self.notes.push(format!("{kind} left out: {error:#}"));
        Ok(())
    }

    pub(super) fn start_relay(
        &mut self,
        kind: PathKind,
        source: &RelaySource,
        target: ExternalTarget,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Path> {
        let caller = kind.wrapped().caller;
        let is_page = self.wanted.is_http || caller == Wrapping::PassedWebSocket;
        let (address, tunnels, relay_pid, agent_pids) = match source {
            RelaySource::External(relay) => {
                let note = "relay and agent were already running: their settings are unknown";
                self.notes.push(note.to_owned());
                (
                    relay.address,
                    relay.tunnels.clone(),
                    relay.relay_pid,
                    relay.agent_pids.clone(),
                )
            }
            RelaySource::Start(binaries) => {
                let cores = (
                    self.cores.as_ref().map(|cores| cores.near),
                    self.cores.as_ref().map(|cores| cores.far),
                );
                let to = if is_page {
                    format!("http://{}{TARGET_PAGE}", target.address)
                } else {
                    target.address.to_string()
                };
                let place = (self.directory.path(), self.certificate.as_ref());
                let pair = RelayPair::start(kind, binaries, &to, cores, place, interrupt)?;
                let found = (
                    match caller {
                        _ if is_page || caller.is_websocket() => pair.http,
                        Wrapping::Quic => pair.quic.context("the relay has no QUIC")?,
                        _ => pair.frontend,
                    },
                    pair.tunnels.clone(),
                    Some(pair.relay.pid()),
                    pair.agents.iter().map(Running::pid).collect(),
                );
                self.pairs.push(pair);
                found
            }
        };
        let (preambles, pages) = ways_in(&tunnels, caller, is_page)?;
        let hops_known = relay_pid.is_some() && !agent_pids.is_empty();
        let near = relay_pid.into_iter().map(|pid| (Role::NearHop, pid));
        let far = agent_pids.into_iter().map(|pid| (Role::FarHop, pid));
        Ok(Path {
            kind,
            address,
            wrap: self.wrap(caller),
            preambles,
            pages,
            processes: near.chain(far).collect(),
            hops_known,
            connections_max: None,
        })
    }
}

/// How callers name the tunnels: by preambles on raw TCP, or by URL paths over HTTP and WebSockets.
fn ways_in(
    tunnels: &[String],
    caller: Wrapping,
    is_page: bool,
) -> anyhow::Result<(Vec<Vec<u8>>, Vec<String>)> {
    let tunnels = tunnels.iter();
    if is_page {
        let pages = tunnels.map(|tunnel| format!("/w/{tunnel}{TARGET_PAGE}"));
        return Ok((Vec::new(), pages.collect()));
    }
    if caller.is_websocket() {
        let pages = tunnels.map(|tunnel| format!("/tunnel/{tunnel}"));
        return Ok((Vec::new(), pages.collect()));
    }
    let preambles = tunnels.map(|tunnel| {
        tunnel_preamble(tunnel).with_context(|| format!("`{tunnel}` is not a valid tunnel name"))
    });
    Ok((preambles.collect::<anyhow::Result<_>>()?, Vec::new()))
}
