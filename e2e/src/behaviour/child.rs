//! Relay and agent in separate processes, whose memory and descriptors can be measured without those of the
//! test.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::relay::{raw, until};
use super::{HttpStream, Metrics, SOON, TunnelRow, admin};
use crate::process::Process;

/// A relay, agent, fleet or target in a separate process. Dropping it kills the process.
pub struct Child {
    process: Process,
    _state_dir: Option<TempDir>,
}

impl Child {
    /// Starts an agent that publishes `target` at `relay` as `name`, and waits until the tunnel is
    /// up. `program` is the `child` binary of this crate.
    ///
    /// # Errors
    /// The agent does not start, or its tunnel is not up in time.
    pub fn agent(program: &Path, relay: &str, target: &str, name: &str) -> Result<Self> {
        let state_dir = TempDir::new()?;
        let mut command = Command::new(program);
        command
            .args([
                "agent",
                "serve",
                "--json",
                "--no-look",
                "--relay",
                relay,
                "--to",
                target,
            ])
            .args(["--name", name, "--state-dir"])
            .arg(state_dir.path());
        let process = Process::spawn("agent", &mut command)?;
        process.wait_for(SOON, |line| {
            let event: Value = serde_json::from_str(line).ok()?;
            (event["event"] == "registered").then_some(())
        })?;
        Ok(Self {
            process,
            _state_dir: Some(state_dir),
        })
    }

    /// Starts `agents` agents in one process, all of which publish `target`, and waits until all tunnels
    /// are up. They trust the certificates in the file `ca` in place of the system's. `program` is the `child` binary of
    /// this crate.
    ///
    /// # Errors
    /// The process does not start, or the tunnels are not up within `limit`.
    pub fn fleet(
        program: &Path,
        relay: &str,
        ca: Option<&Path>,
        target: &str,
        agents: usize,
        limit: Duration,
    ) -> Result<(Self, Up)> {
        let state_dir = TempDir::new()?;
        let mut command = Command::new(program);
        command
            .args(["fleet", "--relay", relay, "--to", target, "--agents"])
            .arg(agents.to_string())
            .arg("--state-dir")
            .arg(state_dir.path());
        if let Some(ca) = ca {
            // Each agent reads its own list: that of a system would be most of an agent's memory.
            command.env("SSL_CERT_FILE", ca).env_remove("SSL_CERT_DIR");
        }
        let fleet = Self {
            process: Process::spawn("fleet", &mut command)?,
            _state_dir: Some(state_dir),
        };
        let up = fleet.up_again(0, limit)?;
        Ok((fleet, up))
    }

    /// For a fleet: waits until it has reported more than `earlier` times that all tunnels are up.
    ///
    /// # Errors
    /// The report does not come within `limit`, or an agent gave up.
    pub fn up_again(&self, earlier: usize, limit: Duration) -> Result<Up> {
        let mut seen = 0;
        self.process.wait_for(limit, |line| {
            let line: FleetLine = serde_json::from_str(line).ok()?;
            match line {
                FleetLine::Up(up) => {
                    seen += 1;
                    (seen > earlier).then_some(Ok(up))
                }
                FleetLine::Failed { reason } => Some(Err(anyhow!("an agent gave up: {reason}"))),
            }
        })?
    }

    /// For a fleet: kills `count` agents without GOAWAY and restarts them at once.
    ///
    /// # Errors
    /// The process has ended.
    pub fn restart_agents(&self, count: usize) -> Result<()> {
        self.process.tell(&count.to_string())
    }

    /// Starts an echo target; returns it with its address.
    ///
    /// # Errors
    /// The target does not start in time.
    pub fn echo(program: &Path) -> Result<(Self, SocketAddr)> {
        let process = Process::spawn("echo", Command::new(program).arg("echo"))?;
        let address = process.wait_for(SOON, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            line["address"].as_str()?.parse().ok()
        })?;
        let target = Self {
            process,
            _state_dir: None,
        };
        Ok((target, address))
    }

    /// Starts `tieline connect` for the relay at `relay`; returns it with its address.
    ///
    /// # Errors
    /// The proxy does not start in time.
    pub fn proxy(program: &Path, relay: &str) -> Result<(Self, SocketAddr)> {
        let mut command = Command::new(program);
        command.args(["agent", "connect", "--json", "--relay", relay]);
        command.args(["--listen", "127.0.0.1:0"]);
        let process = Process::spawn("connect", &mut command)?;
        let address = process.wait_for(SOON, |line| {
            let event: Value = serde_json::from_str(line).ok()?;
            event["address"].as_str()?.parse().ok()
        })?;
        let proxy = Self {
            process,
            _state_dir: None,
        };
        Ok((proxy, address))
    }

    /// Process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Number of open file descriptors.
    ///
    /// # Errors
    /// The process has ended.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.id()))?.count())
    }

    /// Resident memory, in bytes.
    ///
    /// # Errors
    /// The process has ended.
    pub fn resident_bytes(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// Peak of the resident memory, in bytes.
    ///
    /// # Errors
    /// The process has ended.
    pub fn resident_bytes_peak(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: u64 = kib.with_context(|| format!("no {field}"))?.parse()?;
        Ok(kib * 1024)
    }
}

/// Report of a fleet that all of its tunnels are up.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Up {
    /// Number of agents.
    pub agents: usize,
    /// Milliseconds since the first agent was started or lost its link.
    pub ms: u64,
    /// Ended links plus failed connection attempts since the fleet started.
    pub disconnects: usize,
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum FleetLine {
    Up(Up),
    Failed { reason: String },
}

/// A relay in a separate process.
pub struct ChildRelay {
    /// The process.
    pub process: Child,
    bound: Bound,
}

#[derive(Deserialize)]
struct Bound {
    agent: SocketAddr,
    tcp: SocketAddr,
    http: SocketAddr,
    admin: SocketAddr,
    quic: Option<SocketAddr>,
}

impl ChildRelay {
    /// Starts a relay with `flags` in addition to its listeners. `program` is the `child` binary of this
    /// crate.
    ///
    /// # Errors
    /// The relay does not start in time.
    pub fn start(program: &Path, flags: &[&str]) -> Result<Self> {
        Self::start_at(program, [([127, 0, 0, 1], 0).into(); 4], flags)
    }

    fn start_at(program: &Path, addresses: [SocketAddr; 4], flags: &[&str]) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg("relay");
        for (listener, address) in ["agent", "tcp", "http", "admin"].iter().zip(addresses) {
            command.args([format!("--{listener}-listen"), address.to_string()]);
        }
        let process = Process::spawn("relay", command.args(flags))?;
        let bound = process.wait_for(SOON, |line| serde_json::from_str(line).ok());
        Ok(Self {
            bound: bound.map_err(|error| anyhow!("the relay did not start: {error:#}"))?,
            process: Child {
                process,
                _state_dir: None,
            },
        })
    }

    /// Kills the relay and starts a new one with `flags` on the same ports, except for the port of QUIC.
    ///
    /// # Errors
    /// The relay does not start again.
    pub fn restart(self, program: &Path, flags: &[&str]) -> Result<Self> {
        let Bound {
            agent,
            tcp,
            http,
            admin,
            quic: _,
        } = self.bound;
        drop(self);
        Self::start_at(program, [agent, tcp, http, admin], flags)
    }

    /// Address of the admin port.
    #[must_use]
    pub const fn admin_address(&self) -> SocketAddr {
        self.bound.admin
    }

    /// Address that agents dial.
    #[must_use]
    pub const fn agent_address(&self) -> SocketAddr {
        self.bound.agent
    }

    /// Address that agents dial, in the syntax of `--relay`.
    #[must_use]
    pub fn agent_url(&self) -> String {
        format!("tcp://{}", self.bound.agent)
    }

    /// Address of agents and raw callers over QUIC.
    ///
    /// # Errors
    /// The relay was started without `--quic-listen`.
    pub fn quic_address(&self) -> Result<SocketAddr> {
        self.bound
            .quic
            .context("the relay does not listen for QUIC")
    }

    /// Opens a raw TCP frontend connection and sends the preamble for `tunnel`.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn raw(&self, tunnel: &str) -> Result<TcpStream> {
        raw(self.bound.tcp, tunnel).await
    }

    /// Opens an HTTP frontend connection.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn http(&self) -> Result<HttpStream> {
        HttpStream::connect(self.bound.http).await
    }

    /// Reads `/metrics`.
    ///
    /// # Errors
    /// The admin port does not answer.
    pub async fn metrics(&self) -> Result<Metrics> {
        admin::metrics(self.bound.admin).await
    }

    /// Reads `/tunnels`.
    ///
    /// # Errors
    /// The admin port does not answer.
    pub async fn tunnels(&self) -> Result<Vec<TunnelRow>> {
        admin::tunnels(self.bound.admin).await
    }

    /// Times to the first byte and to the end of the first page of `/tunnels`. Blocking.
    ///
    /// # Errors
    /// The admin port does not answer.
    pub fn time_tunnels(&self) -> Result<(Duration, Duration)> {
        admin::time_tunnels(self.bound.admin)
    }

    /// Waits until `wanted` accepts the metrics, and returns them.
    ///
    /// # Errors
    /// `wanted` does not accept them within [`SOON`]; the error lists the metrics.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Metrics) -> bool) -> Result<Metrics> {
        until(self.bound.admin, what, wanted).await
    }
}
