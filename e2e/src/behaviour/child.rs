//! Relay and agent as processes of their own, where memory and descriptors can be counted without
//! those of the test.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

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
            .args(["agent", "serve", "--json", "--relay", relay, "--to", target])
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
        let mut command = Command::new(program);
        command.arg("relay");
        for listener in ["agent", "tcp", "http", "admin"] {
            command.args([&format!("--{listener}-listen"), "127.0.0.1:0"]);
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

    /// Waits until `/metrics` looks as `wanted`, and returns it.
    ///
    /// # Errors
    /// It does not within [`SOON`]; the error quotes it.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Metrics) -> bool) -> Result<Metrics> {
        until(self.bound.admin, what, wanted).await
    }
}
