//! The real programs as processes: start, signals, logs, metrics.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::Value;
use tokio::net::TcpStream;

use super::built::tieline_relay;
use super::relay::{raw, until};
use super::{HttpStream, Metrics, SOON, TunnelRow, admin};
use crate::process::{Ended, Process};

/// Listener addresses of `tieline-relay`, in the order of its flags.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Address for agents.
    pub agent: SocketAddr,
    /// Address for raw TCP frontends.
    pub tcp: SocketAddr,
    /// Address for HTTP frontends.
    pub http: SocketAddr,
    /// Address of the admin port.
    pub admin: SocketAddr,
}

impl Addresses {
    /// Loopback addresses with port 0.
    #[must_use]
    pub fn any() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            agent: any,
            tcp: any,
            http: any,
            admin: any,
        }
    }
}

/// A running `tieline-relay` program. Dropping it kills the process.
pub struct RelayProgram {
    process: Process,
    /// Addresses that it listens on.
    pub addresses: Addresses,
    /// Driver, as reported in its `ready` line.
    pub driver: String,
}

impl RelayProgram {
    /// Starts the relay at `addresses` with `flags` and waits until it is ready. `launcher` is a command
    /// that runs the relay as its argument, or empty.
    ///
    /// # Errors
    /// The relay cannot be built, or does not become ready.
    pub fn start(launcher: &[&str], addresses: Addresses, flags: &[&str]) -> Result<Self> {
        Self::ready(Self::spawn(launcher, addresses, flags)?)
    }

    /// Waits until a spawned relay is ready.
    ///
    /// # Errors
    /// The relay does not become ready.
    pub fn ready(process: Process) -> Result<Self> {
        let ready = process.wait_for(SOON, |line| {
            event(line, "ready")?["driver"].as_str().map(str::to_owned)
        });
        let driver = ready?;
        let bound = |kind: &str| bound(&process, kind);
        let addresses = Addresses {
            agent: bound("agent")?,
            tcp: bound("tcp")?,
            http: bound("http")?,
            admin: bound("admin")?,
        };
        Ok(Self {
            process,
            addresses,
            driver,
        })
    }

    /// Runs a relay that cannot start, and returns how it ended.
    ///
    /// # Errors
    /// The relay cannot be built, or does not end.
    pub fn ends(launcher: &[&str], addresses: Addresses, flags: &[&str]) -> Result<Ended> {
        Self::spawn(launcher, addresses, flags)?.ended(SOON)
    }

    /// Starts the relay as [`RelayProgram::start`] does, without waiting until it is ready.
    ///
    /// # Errors
    /// The relay cannot be built or started.
    pub fn spawn(launcher: &[&str], addresses: Addresses, flags: &[&str]) -> Result<Process> {
        let program = tieline_relay()?;
        let mut command = match launcher.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        command
            .args(["--json", "--log", "info"])
            .args(["--agent-listen", &addresses.agent.to_string()])
            .args(["--tcp-listen", &addresses.tcp.to_string()])
            .args(["--http-listen", &addresses.http.to_string()])
            .args(["--admin-listen", &addresses.admin.to_string()])
            .args(flags)
            .env("NO_COLOR", "1");
        without_settings(&mut command);
        Process::spawn("tieline-relay", &mut command)
    }

    /// Sends SIGTERM, as an operator does.
    ///
    /// # Errors
    /// The process has ended.
    pub fn ask_to_stop(&self) -> Result<()> {
        self.process.signal(Signal::TERM)
    }

    /// Waits until the relay has ended by itself.
    ///
    /// # Errors
    /// The relay does not end in time.
    pub fn ended(self) -> Result<Ended> {
        self.process.ended(SOON)
    }

    /// Kills the relay and starts it again at the same addresses.
    ///
    /// # Errors
    /// The relay does not start again.
    pub fn restart_after_kill(self, flags: &[&str]) -> Result<Self> {
        let addresses = self.addresses;
        drop(self);
        Self::start(&[], addresses, flags)
    }

    /// Handle of the process.
    #[must_use]
    pub const fn process(&self) -> &Process {
        &self.process
    }

    /// Address that agents dial, in the syntax of `--relay`.
    #[must_use]
    pub fn agent_url(&self) -> String {
        format!("tcp://{}", self.addresses.agent)
    }

    /// Address of agents and callers over QUIC, of a relay with one.
    ///
    /// # Errors
    /// The relay has none.
    pub fn quic_address(&self) -> Result<SocketAddr> {
        bound(&self.process, "quic")
    }

    /// Opens a raw TCP frontend connection and sends the preamble for `tunnel`.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn raw(&self, tunnel: &str) -> Result<TcpStream> {
        raw(self.addresses.tcp, tunnel).await
    }

    /// Opens an HTTP frontend connection.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn http(&self) -> Result<HttpStream> {
        HttpStream::connect(self.addresses.http).await
    }

    /// Body of the admin port's answer to a GET of `path`.
    ///
    /// # Errors
    /// The status is not 200, or there is no answer.
    pub async fn admin(&self, path: &str) -> Result<String> {
        admin::get(self.addresses.admin, path).await
    }

    /// Posts an order to the admin port; returns the status and the JSON of the answer.
    ///
    /// # Errors
    /// There is no answer, or it is not JSON.
    pub async fn order(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        admin::post(self.addresses.admin, path, body).await
    }

    /// Reads `/metrics`.
    ///
    /// # Errors
    /// The admin port does not answer.
    pub async fn metrics(&self) -> Result<Metrics> {
        admin::metrics(self.addresses.admin).await
    }

    /// Reads `/tunnels`.
    ///
    /// # Errors
    /// The admin port does not answer.
    pub async fn tunnels(&self) -> Result<Vec<TunnelRow>> {
        admin::tunnels(self.addresses.admin).await
    }

    /// Waits until `wanted` accepts the metrics, and returns them.
    ///
    /// # Errors
    /// `wanted` does not accept them within [`SOON`]; the error lists the metrics.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Metrics) -> bool) -> Result<Metrics> {
        until(self.addresses.admin, what, wanted).await
    }

    /// Waits for a log line that contains `text`.
    ///
    /// # Errors
    /// No such line appears in time.
    pub fn logged(&self, text: &str) -> Result<String> {
        self.process
            .wait_for_error_line(SOON, |line| line.contains(text).then(|| line.to_owned()))
    }

    /// Number of log lines so far that contain `text`.
    #[must_use]
    pub fn log_count(&self, text: &str) -> usize {
        self.process.error_lines(|line| line.contains(text))
    }

    /// CPU time used so far.
    ///
    /// # Errors
    /// The process has ended.
    pub fn processor_time(&self) -> Result<Duration> {
        processor_time(self.process.id())
    }

    /// Number of open file descriptors.
    ///
    /// # Errors
    /// The process has ended.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.process.id()))?.count())
    }
}

/// `tieline serve` in a separate process. Dropping it kills the process.
pub struct AgentProgram {
    process: Process,
}

impl AgentProgram {
    /// Starts `serve` with `flags`, with its key in `state_dir`. `program` is the `child` binary
    /// of this crate.
    ///
    /// # Errors
    /// The agent does not start.
    pub fn start(
        program: &Path,
        relay: &str,
        to: &str,
        state_dir: &Path,
        flags: &[&str],
    ) -> Result<Self> {
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
                to,
            ])
            .args(flags)
            .arg("--state-dir")
            .arg(state_dir);
        without_settings(&mut command);
        let process = Process::spawn("tieline serve", &mut command)?;
        Ok(Self { process })
    }

    /// Handle of the process.
    #[must_use]
    pub const fn process(&self) -> &Process {
        &self.process
    }

    /// Waits for the registration number `nth` of the tunnel, from 1; returns its name and URL.
    ///
    /// # Errors
    /// The registration does not come in time.
    pub fn registered(&self, nth: usize) -> Result<(String, String)> {
        let mut left = nth;
        self.process.wait_for(SOON, |line| {
            let told = event(line, "registered")?;
            left -= 1;
            let text = |key: &str| told[key].as_str().map(str::to_owned);
            (left == 0).then(|| Some((text("tunnel")?, text("url")?)))?
        })
    }

    /// Waits for an event named `wanted`.
    ///
    /// # Errors
    /// No such event comes in time.
    pub fn told(&self, wanted: &str) -> Result<Value> {
        self.process.wait_for(SOON, |line| event(line, wanted))
    }

    /// Waits until the agent has ended by itself.
    ///
    /// # Errors
    /// The agent does not end in time.
    pub fn ended(self) -> Result<Ended> {
        self.process.ended(SOON)
    }

    /// Suspends the process with SIGSTOP.
    ///
    /// # Errors
    /// The process has ended.
    pub fn freeze(&self) -> Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Resumes the process with SIGCONT.
    ///
    /// # Errors
    /// The process has ended.
    pub fn thaw(&self) -> Result<()> {
        self.process.signal(Signal::CONT)
    }
}

/// Waits until a relay says at which address of `kind` it listens.
fn bound(process: &Process, kind: &str) -> Result<SocketAddr> {
    process.wait_for(SOON, |line| {
        let told = event(line, "listening")?;
        (told["kind"] == kind).then(|| told["address"].as_str()?.parse().ok())?
    })
}

/// Parses a JSON output line; `None` if its event is not `wanted`.
fn event(line: &str, wanted: &str) -> Option<Value> {
    let told: Value = serde_json::from_str(line).ok()?;
    (told["event"] == wanted).then_some(told)
}

/// Removes TIELINE_ variables and RUST_LOG from the environment of `command`.
pub fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIELINE_") {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_LOG");
}

/// CPU time that a process has used so far.
fn processor_time(id: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // proc_pid_stat(5): the name in parentheses may contain any byte. utime and stime are the 12th and
    // 13th field after it, in ticks of 10 ms on every Linux.
    let (_, fields) = stat.rsplit_once(") ").context("no name in stat")?;
    let mut fields = fields.split(' ').skip(11);
    let mut ticks = || -> Result<u64> { Ok(fields.next().context("too few fields")?.parse()?) };
    Ok(Duration::from_millis((ticks()? + ticks()?) * 10))
}
