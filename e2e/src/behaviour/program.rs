//! The real programs, and what a test does to a process from outside.

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

/// Where `tieline-relay` listens, in the order of its flags.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// For agents.
    pub agent: SocketAddr,
    /// For raw TCP frontends.
    pub tcp: SocketAddr,
    /// For HTTP frontends.
    pub http: SocketAddr,
    /// For operators.
    pub admin: SocketAddr,
}

impl Addresses {
    /// Ports of the kernel's choice.
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

/// `tieline-relay`, the program itself. It is killed when this is dropped.
pub struct RelayProgram {
    process: Process,
    /// Where it listens.
    pub addresses: Addresses,
    /// How it talks to the kernel, as it says.
    pub driver: String,
}

impl RelayProgram {
    /// Starts it at `addresses` with `flags`; `launcher` is a command that runs the program that
    /// follows, or nothing. Waits until it is ready.
    ///
    /// # Errors
    /// It cannot be built, or does not get ready.
    pub fn start(launcher: &[&str], addresses: Addresses, flags: &[&str]) -> Result<Self> {
        Self::ready(Self::spawn(launcher, addresses, flags)?)
    }

    /// One that was spawned, once it is ready.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn ready(process: Process) -> Result<Self> {
        let ready = process.wait_for(SOON, |line| {
            event(line, "ready")?["driver"].as_str().map(str::to_owned)
        });
        let driver = ready?;
        let bound = |kind: &str| -> Result<SocketAddr> {
            process.wait_for(SOON, |line| {
                let told = event(line, "listening")?;
                (told["kind"] == kind).then(|| told["address"].as_str()?.parse().ok())?
            })
        };
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

    /// How it ends where it cannot start.
    ///
    /// # Errors
    /// It cannot be built, or does not end.
    pub fn ends(launcher: &[&str], addresses: Addresses, flags: &[&str]) -> Result<Ended> {
        Self::spawn(launcher, addresses, flags)?.ended(SOON)
    }

    /// Starts it, as [`RelayProgram::start`] does, and waits for nothing.
    ///
    /// # Errors
    /// It cannot be built, or started.
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

    /// Asks it to stop, as an operator does.
    ///
    /// # Errors
    /// It is gone.
    pub fn ask_to_stop(&self) -> Result<()> {
        self.process.signal(Signal::TERM)
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// It does not in time.
    pub fn ended(self) -> Result<Ended> {
        self.process.ended(SOON)
    }

    /// Kills it, without a goodbye, and starts it again at the same addresses.
    ///
    /// # Errors
    /// It does not start again.
    pub fn restart_after_kill(self, flags: &[&str]) -> Result<Self> {
        let addresses = self.addresses;
        drop(self);
        Self::start(&[], addresses, flags)
    }

    /// The process.
    #[must_use]
    pub const fn process(&self) -> &Process {
        &self.process
    }

    /// Where an agent dials, as its `--relay`.
    #[must_use]
    pub fn agent_url(&self) -> String {
        format!("tcp://{}", self.addresses.agent)
    }

    /// A raw TCP frontend that has named its tunnel.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn raw(&self, tunnel: &str) -> Result<TcpStream> {
        raw(self.addresses.tcp, tunnel).await
    }

    /// An HTTP frontend.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn http(&self) -> Result<HttpStream> {
        HttpStream::connect(self.addresses.http).await
    }

    /// The body of an answer of the admin port.
    ///
    /// # Errors
    /// It does not answer with 200.
    pub async fn admin(&self, path: &str) -> Result<String> {
        admin::get(self.addresses.admin, path).await
    }

    /// What the admin port answers to an order: the status, and the JSON.
    ///
    /// # Errors
    /// It does not answer, or not with JSON.
    pub async fn order(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        admin::post(self.addresses.admin, path, body).await
    }

    /// What `/metrics` says.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn metrics(&self) -> Result<Metrics> {
        admin::metrics(self.addresses.admin).await
    }

    /// What `/tunnels` says.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn tunnels(&self) -> Result<Vec<TunnelRow>> {
        admin::tunnels(self.addresses.admin).await
    }

    /// Waits until `/metrics` looks as `wanted`, and returns it.
    ///
    /// # Errors
    /// It does not within [`SOON`]; the error quotes it.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Metrics) -> bool) -> Result<Metrics> {
        until(self.addresses.admin, what, wanted).await
    }

    /// Waits for a line of its log that contains `text`.
    ///
    /// # Errors
    /// There is none in time.
    pub fn logged(&self, text: &str) -> Result<String> {
        self.process
            .wait_for_error_line(SOON, |line| line.contains(text).then(|| line.to_owned()))
    }

    /// How many lines of its log so far contain `text`.
    #[must_use]
    pub fn log_count(&self, text: &str) -> usize {
        self.process.error_lines(|line| line.contains(text))
    }

    /// Processor time that it has used so far.
    ///
    /// # Errors
    /// It is gone.
    pub fn processor_time(&self) -> Result<Duration> {
        processor_time(self.process.id())
    }

    /// Descriptors that it has open.
    ///
    /// # Errors
    /// It is gone.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.process.id()))?.count())
    }
}

/// `tieline serve`, in a process of its own. It is killed when this is dropped.
pub struct AgentProgram {
    process: Process,
}

impl AgentProgram {
    /// Starts `serve` with `flags`; the key is kept in `state_dir`. `program` is the `child` binary
    /// of this crate.
    ///
    /// # Errors
    /// It does not start.
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

    /// The process.
    #[must_use]
    pub const fn process(&self) -> &Process {
        &self.process
    }

    /// Waits until the tunnel came up for the `nth` time, counted from 1: its name and URL.
    ///
    /// # Errors
    /// It does not in time.
    pub fn registered(&self, nth: usize) -> Result<(String, String)> {
        let mut left = nth;
        self.process.wait_for(SOON, |line| {
            let told = event(line, "registered")?;
            left -= 1;
            let text = |key: &str| told[key].as_str().map(str::to_owned);
            (left == 0).then(|| Some((text("tunnel")?, text("url")?)))?
        })
    }

    /// Waits for an event called `wanted`.
    ///
    /// # Errors
    /// There is none in time.
    pub fn told(&self, wanted: &str) -> Result<Value> {
        self.process.wait_for(SOON, |line| event(line, wanted))
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// It does not in time.
    pub fn ended(self) -> Result<Ended> {
        self.process.ended(SOON)
    }

    /// Stops all its threads where they stand.
    ///
    /// # Errors
    /// It is gone.
    pub fn freeze(&self) -> Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It is gone.
    pub fn thaw(&self) -> Result<()> {
        self.process.signal(Signal::CONT)
    }
}

/// A JSON line of a program, if it tells of `wanted`.
fn event(line: &str, wanted: &str) -> Option<Value> {
    let told: Value = serde_json::from_str(line).ok()?;
    (told["event"] == wanted).then_some(told)
}

/// Takes away what the environment of the test might set.
pub fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIELINE_") {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_LOG");
}

/// Processor time that a process has used so far.
fn processor_time(id: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // proc_pid_stat(5): the name is in parentheses and may hold anything; utime and stime are the
    // 12th and 13th field behind it, in ticks of 10 ms on every Linux.
    let (_, fields) = stat.rsplit_once(") ").context("no name in stat")?;
    let mut fields = fields.split(' ').skip(11);
    let mut ticks = || -> Result<u64> { Ok(fields.next().context("too few fields")?.parse()?) };
    Ok(Duration::from_millis((ticks()? + ticks()?) * 10))
}
