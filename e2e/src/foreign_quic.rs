//! QUIC software that others wrote: aioquic (PyPI) as caller and as agent, ngtcp2's client, and tshark as a reader of what
//! they sent.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, anyhow};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::behaviour::TestRelay;
use crate::environment::{Python, Surroundings, fixtures, is_there};
use crate::interop::{event, report};
use crate::process::Process;
use crate::trust::Trust;

/// Time limit of one program. The longest run takes about 6 s on an idle machine.
const PROGRAM_LIMIT: Duration = Duration::from_secs(60);

/// ngtcp2's example client with GnuTLS (Debian: package `ngtcp2-client`).
const NGTCP2: &str = "gtlsclient";

/// Secrets of a caller's connections, in its folder.
const SECRETS: &str = "secrets";

/// Datagrams of a caller's connection, in its folder.
const DATAGRAMS: &str = "datagrams.pcap";

/// The prepared software, or the reason why some of it could not be prepared on this machine.
pub struct Foreign {
    python: Result<Python, String>,
    trust: Trust,
}

/// Software that a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Python with aioquic.
    Aioquic,
    /// Python with aioquic, and tshark.
    AioquicAndTshark,
    /// ngtcp2's client, and a C compiler.
    Ngtcp2,
}

impl Foreign {
    /// Prepares the Python environment under `interop`. Relays have their certificate from `trust`.
    #[must_use]
    pub fn prepare(interop: &Path, trust: Trust) -> Self {
        let surroundings = Surroundings { ca: trust.ca() };
        let python = Python::prepare(interop, surroundings);
        Self {
            python: python.map_err(|error| format!("{error:#}")),
            trust,
        }
    }

    /// Reason why a test with these `needs` cannot run on this machine; `None` if it can.
    #[must_use]
    pub fn missing(&self, needs: Needs) -> Option<String> {
        let python = || {
            let why = self.python.as_ref().err();
            why.map(|why| format!("python: {why}"))
        };
        let program = |program: &str, package: &str| {
            (!is_there(program)).then(|| format!("{program} is missing (Debian: {package})"))
        };
        match needs {
            Needs::Aioquic => python(),
            Needs::AioquicAndTshark => program("tshark", "tshark").or_else(python),
            Needs::Ngtcp2 => program(NGTCP2, "ngtcp2-client").or_else(|| program("cc", "gcc")),
        }
    }

    /// The certificates of relays.
    #[must_use]
    pub const fn trust(&self) -> &Trust {
        &self.trust
    }

    fn script(&self, script: &str) -> Result<Command> {
        let python = self.python.as_ref();
        Ok(python
            .map_err(|why| anyhow!("python: {why}"))?
            .script(script))
    }

    fn caller(&self, relay: &TestRelay, scenario: &str, tunnel: &str) -> Result<Command> {
        let mut command = self.script("quic_caller.py")?;
        let address = relay.quic_address().to_string();
        command.args([scenario, &address, tunnel]);
        Ok(command)
    }

    /// Runs a scenario of the aioquic caller with `tunnel`, and returns its report.
    ///
    /// # Errors
    /// The caller failed, or took too long.
    pub fn call(&self, relay: &TestRelay, scenario: &str, tunnel: &str) -> Result<Value> {
        report(scenario, &mut self.caller(relay, scenario, tunnel)?)
    }

    /// Runs a scenario as [`Foreign::call`] does, and keeps its datagrams and secrets.
    ///
    /// # Errors
    /// The caller failed, or took too long.
    pub fn captured(
        &self,
        relay: &TestRelay,
        scenario: &str,
        tunnel: &str,
    ) -> Result<(Value, Capture)> {
        let folder = TempDir::new()?;
        let capture = Capture {
            port: relay.quic_address().port(),
            folder,
        };
        let mut command = self.caller(relay, scenario, tunnel)?;
        command
            .env("SSLKEYLOGFILE", capture.path(SECRETS))
            .env("CAPTURE_FILE", capture.path(DATAGRAMS));
        Ok((report(scenario, &mut command)?, capture))
    }

    /// Starts the aioquic agent with the tunnels `echo` and `refuse`, and waits until the relay has granted both.
    ///
    /// # Errors
    /// The agent does not start, or is refused.
    pub fn agent(&self, relay: &TestRelay, echo: &str, refuse: &str) -> Result<ForeignAgent> {
        let mut command = self.script("quic_agent.py")?;
        let address = relay.quic_address().to_string();
        let process = Process::spawn("quic_agent.py", command.args([&*address, echo, refuse]))?;
        let hello = process.wait_for(PROGRAM_LIMIT, |line| event(line, "hello"))?;
        for tunnel in [echo, refuse] {
            let granted =
                |line: &str| event(line, "registered").filter(|told| told["tunnel"] == tunnel);
            process.wait_for(PROGRAM_LIMIT, granted)?;
        }
        let is_bound = hello["is_bound"] == true;
        Ok(ForeignAgent { process, is_bound })
    }
}

/// The running aioquic agent. Dropping it kills the process.
pub struct ForeignAgent {
    process: Process,
    is_bound: bool,
}

impl ForeignAgent {
    /// Whether the relay's exporter is the agent's own.
    #[must_use]
    pub const fn is_bound(&self) -> bool {
        self.is_bound
    }

    /// Waits until the agent has told `wanted`, such as `reset`; returns the event.
    ///
    /// # Errors
    /// The agent ended, or the limit passed.
    pub fn told(&self, wanted: &str) -> Result<Value> {
        self.process
            .wait_for(PROGRAM_LIMIT, |line| event(line, wanted))
    }

    /// Asks the agent to leave, and waits for its end.
    ///
    /// # Errors
    /// The agent did not end in order.
    pub fn leaves(self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        self.process.finish(PROGRAM_LIMIT)?;
        Ok(())
    }
}

/// Datagrams and secrets of one caller.
pub struct Capture {
    port: u16,
    folder: TempDir,
}

impl Capture {
    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// `fields` of each packet that `filter` accepts, as tshark decodes it with the caller's secrets. Several values of a
    /// field are separated by commas.
    ///
    /// # Errors
    /// tshark failed.
    pub fn decoded(&self, filter: &str, fields: &[&str]) -> Result<Vec<Vec<String>>> {
        let mut command = Command::new("tshark");
        command.arg("-n").arg("-r").arg(self.path(DATAGRAMS));
        let secrets = self.path(SECRETS);
        command.args(["-o", &format!("tls.keylog_file:{}", secrets.display())]);
        command.args(["-d", &format!("udp.port=={},quic", self.port)]);
        command.args(["-Y", filter, "-T", "fields"]);
        for field in fields {
            command.args(["-e", field]);
        }
        // tshark reads the user's settings.
        command.env("HOME", self.folder.path());
        let printed = Process::spawn("tshark", &mut command)?.finish(PROGRAM_LIMIT)?;
        let packets = printed.lines().filter(|line| !line.is_empty());
        let fields_of = |line: &str| line.split('\t').map(str::to_owned).collect();
        Ok(packets.map(fields_of).collect())
    }
}

/// What ngtcp2's client prints.
///
/// With `tunnel` it is a raw caller that sends 8 bytes and ends; else it is a client of HTTP/3, which it is by nature.
///
/// # Errors
/// The client cannot be started, or took too long.
pub fn ngtcp2(relay: &TestRelay, tunnel: Option<&str>, flags: &[&str]) -> Result<String> {
    let folder = TempDir::new()?;
    let address = relay.quic_address();
    let [host, port] = [address.ip().to_string(), address.port().to_string()];
    let mut command = Command::new(NGTCP2);
    // It ends when nothing has come for so long.
    command.arg("--timeout=3s");
    command.args(flags).args([&host, &port]);
    command.arg(format!("https://{address}/"));
    if let Some(tunnel) = tunnel {
        let library = folder.path().join("gtlsclient_tieline.so");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-o"]).arg(&library);
        compile.arg(fixtures().join("gtlsclient_tieline.c"));
        Process::spawn("cc", &mut compile)?.finish(PROGRAM_LIMIT)?;
        command.env("LD_PRELOAD", &library).env("TUNNEL", tunnel);
    }
    let ended = Process::spawn(NGTCP2, &mut command)?.ended(PROGRAM_LIMIT)?;
    Ok(ended.stdout + &ended.stderr)
}
