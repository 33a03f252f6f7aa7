//! Relay and agent as processes of their own, where memory and descriptors can be counted without
//! those of the test.

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

/// A relay or an agent in a process of its own. It is killed when this is dropped.
pub struct Child {
    process: Process,
    _state_dir: Option<TempDir>,
}

impl Child {
    /// Publishes `target` at `relay` as `name`, from an agent of its own; waits until the tunnel is
    /// up. `program` is the `child` binary of this crate.
    ///
    /// # Errors
    /// It does not start, or is not registered in time.
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

    /// Runs `agents` agents in one process, all of which publish `target`; waits until all their
    /// tunnels are up. `program` is the `child` binary of this crate.
    ///
    /// # Errors
    /// It does not start, or they are not up within `limit`.
    pub fn fleet(
        program: &Path,
        relay: &str,
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
        let fleet = Self {
            process: Process::spawn("fleet", &mut command)?,
            _state_dir: Some(state_dir),
        };
        let up = fleet.up_again(0, limit)?;
        Ok((fleet, up))
    }

    /// A fleet: waits until all its tunnels are up for the time that comes after `earlier` times.
    ///
    /// # Errors
    /// They are not within `limit`, or an agent gave up.
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

    /// A fleet: ends so many agents without a goodbye, and starts them again in the same moment.
    ///
    /// # Errors
    /// It is gone.
    pub fn restart_agents(&self, count: usize) -> Result<()> {
        self.process.tell(&count.to_string())
    }

    /// A target that sends back what it gets, and its address.
    ///
    /// # Errors
    /// It does not start in time.
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

    /// `tieline connect` for the relay at `relay`, and its address.
    ///
    /// # Errors
    /// It does not start in time.
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

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Descriptors that it has open.
    ///
    /// # Errors
    /// It is gone.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.id()))?.count())
    }

    /// Memory that it has resident, in bytes.
    ///
    /// # Errors
    /// It is gone.
    pub fn resident_bytes(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// The most memory that it ever had resident, in bytes.
    ///
    /// # Errors
    /// It is gone.
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

/// All tunnels of a fleet are up.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Up {
    /// How many.
    pub agents: usize,
    /// Milliseconds since the first was started or lost.
    pub ms: u64,
    /// Links that ended, and attempts to make one that failed, since the fleet started.
    pub disconnects: usize,
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum FleetLine {
    Up(Up),
    Failed { reason: String },
}

/// A relay in a process of its own.
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
}

impl ChildRelay {
    /// Starts a relay with `flags` besides its listeners. `program` is the `child` binary of this
    /// crate.
    ///
    /// # Errors
    /// It does not start in time.
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

    /// Ends it without a goodbye and starts another one with `flags` on the same ports.
    ///
    /// # Errors
    /// It does not start again.
    pub fn restart(self, program: &Path, flags: &[&str]) -> Result<Self> {
        let Bound {
            agent,
            tcp,
            http,
            admin,
        } = self.bound;
        drop(self);
        Self::start_at(program, [agent, tcp, http, admin], flags)
    }

    /// Where operators ask.
    #[must_use]
    pub const fn admin_address(&self) -> SocketAddr {
        self.bound.admin
    }

    /// Where agents dial.
    #[must_use]
    pub const fn agent_address(&self) -> SocketAddr {
        self.bound.agent
    }

    /// Where an agent dials, as its `--relay`.
    #[must_use]
    pub fn agent_url(&self) -> String {
        format!("tcp://{}", self.bound.agent)
    }

    /// A raw TCP frontend that has named its tunnel.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn raw(&self, tunnel: &str) -> Result<TcpStream> {
        raw(self.bound.tcp, tunnel).await
    }

    /// An HTTP frontend.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn http(&self) -> Result<HttpStream> {
        HttpStream::connect(self.bound.http).await
    }

    /// What `/metrics` says.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn metrics(&self) -> Result<Metrics> {
        admin::metrics(self.bound.admin).await
    }

    /// What `/tunnels` says.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn tunnels(&self) -> Result<Vec<TunnelRow>> {
        admin::tunnels(self.bound.admin).await
    }

    /// How long `/tunnels` takes to its first byte, and to the end of its first page. Blocks.
    ///
    /// # Errors
    /// It does not answer.
    pub fn time_tunnels(&self) -> Result<(Duration, Duration)> {
        admin::time_tunnels(self.bound.admin)
    }

    /// Waits until `/metrics` looks as `wanted`, and returns it.
    ///
    /// # Errors
    /// It does not within [`SOON`]; the error quotes it.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Metrics) -> bool) -> Result<Metrics> {
        until(self.bound.admin, what, wanted).await
    }
}
