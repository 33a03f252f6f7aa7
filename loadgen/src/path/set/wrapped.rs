//! Starts what only wrapped paths need: targets that speak TLS, WebSocket or QUIC, and peers whose hops are wrapped.

use anyhow::Context;

use super::{ExternalTarget, PathSet, RelaySource, TARGET_PAGE, TOKIO};
use crate::interrupt::Interrupt;
use crate::path::peer::known::PeerKind;
use crate::path::{Path, PathKind, Role, Wrapped, Wrapping};
use crate::process::{Program, Running};
use crate::socket::{Certificate, Wrap};

/// Peers of the wrapped paths. nginx and HAProxy end or begin TLS on either hop; rathole and wstunnel have TLS only
/// between their two processes.
const PEERS: [(PeerKind, Wrapped); 10] = [
    (PeerKind::HaProxy, Wrapped::PLAIN),
    (PeerKind::HaProxy, Wrapped::TLS_CALLER),
    (PeerKind::HaProxy, Wrapped::TLS_LINK),
    (PeerKind::HaProxy, Wrapped::TLS),
    (PeerKind::Nginx, Wrapped::PLAIN),
    (PeerKind::Nginx, Wrapped::TLS_CALLER),
    (PeerKind::Nginx, Wrapped::TLS_LINK),
    (PeerKind::Nginx, Wrapped::TLS),
    (PeerKind::Rathole, Wrapped::TLS_LINK),
    (PeerKind::Wstunnel, Wrapped::WSS_LINK),
];

impl PathSet {
    /// What the client puts around its bytes on a hop with this wrapping.
    pub(super) fn wrap(&self, caller: Wrapping) -> Wrap {
        caller.wrap(self.certificate.as_ref())
    }

    /// The path to a target of this wrapping.
    pub(super) fn wrapped_direct(
        &mut self,
        wrapping: Wrapping,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Path> {
        let target = self.wrapped_target(wrapping, interrupt)?;
        Ok(Path {
            kind: PathKind::DirectOver(wrapping),
            address: target.address,
            wrap: self.wrap(wrapping),
            preambles: Vec::new(),
            pages: vec![TARGET_PAGE.to_owned()],
            processes: target
                .pid
                .map(|pid| (Role::Target, pid))
                .into_iter()
                .collect(),
            hops_known: false,
            connections_max: None,
        })
    }

    /// The target of this wrapping, which is started if it does not run yet.
    pub(super) fn wrapped_target(
        &mut self,
        wrapping: Wrapping,
        interrupt: &Interrupt,
    ) -> anyhow::Result<ExternalTarget> {
        let mut running = self.wrapped_targets.iter();
        if let Some((_, target, _)) = running.find(|(of, _, _)| *of == wrapping) {
            return Ok(*target);
        }
        let mut arguments = ["target", "any", "--listen", "127.0.0.1:0"]
            .map(str::to_owned)
            .to_vec();
        if wrapping.is_tls() {
            let certificate = self.certificate.as_ref();
            let Certificate { cert, key, .. } = certificate.context("no certificate was made")?;
            arguments.push(format!("--tls-cert={}", cert.display()));
            arguments.push(format!("--tls-key={}", key.display()));
        }
        if wrapping.is_websocket() {
            arguments.push("--websocket".to_owned());
        }
        if wrapping == Wrapping::Quic {
            arguments.push("--quic".to_owned());
        }
        let cores = self.cores.as_ref().map(|cores| cores.target.clone());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let name = format!("target-{}", PathKind::DirectOver(wrapping));
        let program = Program::own(&name, &arguments, cores.unwrap_or_default())?;
        let mut running = Running::start(&program, self.directory.path())?;
        let target = ExternalTarget {
            address: running.wait_for_address("target", interrupt)?,
            pid: Some(running.pid()),
        };
        self.wrapped_targets.push((wrapping, target, running));
        Ok(target)
    }

    /// Starts the peers of the wrapped paths. A peer that is missing or cannot be started is left out with a note.
    pub(super) fn start_wrapped_peers(
        &mut self,
        from: &std::path::Path,
        target: ExternalTarget,
        interrupt: &Interrupt,
    ) -> anyhow::Result<()> {
        self.start_known_peers(&PEERS, from, target, interrupt)?;
        let kind = PeerKind::Nginx.kind_over(Wrapped::PASSED);
        match self.passing_proxy(kind, from, interrupt) {
            Ok(path) => self.paths.push(path),
            Err(error) => self.leave_out(kind, &error, interrupt)?,
        }
        Ok(())
    }

    /// Relay and agent that pass WebSockets on to a target that speaks WebSocket.
    pub(super) fn passing_relay(
        &mut self,
        kind: PathKind,
        source: &RelaySource,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Path> {
        let target = self.wrapped_target(Wrapping::WebSocket, interrupt)?;
        let mut path = self.start_relay(kind, source, target, interrupt)?;
        path.processes
            .extend(target.pid.map(|pid| (Role::Target, pid)));
        Ok(path)
    }

    /// nginx as a reverse proxy that passes WebSockets on, in front of two forwarders.
    fn passing_proxy(
        &mut self,
        kind: PathKind,
        from: &std::path::Path,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Path> {
        let target = self.wrapped_target(Wrapping::WebSocket, interrupt)?;
        let mut path = self.start_proxy(kind, TOKIO, from, target, interrupt)?;
        path.wrap = self.wrap(Wrapping::PassedWebSocket);
        path.processes
            .extend(target.pid.map(|pid| (Role::Target, pid)));
        Ok(path)
    }
}
