//! Starts the processes of one path each.

use anyhow::Context;

use super::{ExternalTarget, PathSet, RelaySource};
use crate::interrupt::Interrupt;
use crate::path::peer::known::{CONNECTIONS_MAX, Known, Place};
use crate::path::relay::RelayPair;
use crate::path::{Path, PathKind, Role, tunnel_preamble};
use crate::process::{Program, Running};

impl PathSet {
    pub(super) fn start_target(&mut self, interrupt: &Interrupt) -> anyhow::Result<ExternalTarget> {
        let cores = self.cores.as_ref().map(|cores| cores.target.clone());
        let arguments = ["target", "any", "--listen", "127.0.0.1:0"];
        let mut target = Running::start(
            &Program::own("target", &arguments, cores.unwrap_or_default())?,
            self.directory.path(),
        )?;
        let address = target.wait_for_address("target", interrupt)?;
        let pid = Some(target.pid());
        self.target = Some(target);
        Ok(ExternalTarget { address, pid })
    }

    /// Two hops: the far one dials the target, the near one dials the far one.
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
            // Before the hops that are there: the near one dials the far one and ends first.
            self.hops.insert(0, hop);
        }
        Ok(Path {
            kind,
            address,
            preambles: Vec::new(),
            processes,
            hops_known: true,
            connections_max: None,
        })
    }

    /// One that cannot be started here is left out with a note.
    pub(super) fn start_known_peers(
        &mut self,
        from: &std::path::Path,
        target: ExternalTarget,
        interrupt: &Interrupt,
    ) -> anyhow::Result<()> {
        for known in Known::ALL {
            let place = Place {
                from,
                target: target.address,
                cores: (
                    self.cores.as_ref().map(|cores| cores.near),
                    self.cores.as_ref().map(|cores| cores.far),
                ),
                directory: self.directory.path(),
            };
            match known.start(&place, interrupt) {
                Ok(peer) => {
                    self.paths.push(Path {
                        kind: known.kind(),
                        address: peer.address,
                        preambles: Vec::new(),
                        processes: peer.processes(),
                        hops_known: true,
                        connections_max: Some(CONNECTIONS_MAX),
                    });
                    self.peers.push(peer);
                }
                Err(error) => {
                    interrupt.check()?;
                    self.notes
                        .push(format!("{} left out: {error:#}", known.name()));
                }
            }
        }
        Ok(())
    }

    pub(super) fn start_relay(
        &mut self,
        kind: PathKind,
        source: &RelaySource,
        target: ExternalTarget,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Path> {
        let (address, tunnels, relay_pid, agent_pids) = match source {
            RelaySource::External(relay) => {
                let note = "relay and agent ran already: their settings are not known here";
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
                let pair = RelayPair::start(
                    kind,
                    binaries,
                    target.address,
                    cores,
                    self.directory.path(),
                    interrupt,
                )?;
                let found = (
                    pair.frontend,
                    pair.tunnels.clone(),
                    Some(pair.relay.pid()),
                    pair.agents.iter().map(Running::pid).collect(),
                );
                self.pairs.push(pair);
                found
            }
        };
        let preamble = |tunnel: &String| {
            tunnel_preamble(tunnel)
                .with_context(|| format!("`{tunnel}` cannot be the name of a tunnel"))
        };
        let preambles = tunnels.iter().map(preamble).collect::<Result<_, _>>()?;
        let hops_known = relay_pid.is_some() && !agent_pids.is_empty();
        let near = relay_pid.into_iter().map(|pid| (Role::NearHop, pid));
        let far = agent_pids.into_iter().map(|pid| (Role::FarHop, pid));
        Ok(Path {
            kind,
            address,
            preambles,
            processes: near.chain(far).collect(),
            hops_known,
            connections_max: None,
        })
    }
}
