//! The far end: a target, and an agent that the near end's orders start. It ends with the path.
//!
//! Orders are lines over a socket in the file system, which both ends see, whatever happens on the path between them.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tieline_e2e::behaviour::{AgentProgram, SOON};

use crate::near::{CERT, LOADGEN, TUNNEL, folder, variable};

/// Name of the socket in the folder of both ends.
const SOCKET: &str = "far.sock";

/// Time between two attempts to reach the far end.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Runs the far end.
pub(crate) fn run() -> Result<()> {
    let (_target, address) = start_target()?;
    let listener = UnixListener::bind(folder()?.join(SOCKET))?;
    let (stream, _) = listener.accept()?;
    let mut orders = BufReader::new(stream);
    let mut agent = None;
    let mut line = String::new();
    while orders.read_line(&mut line)? > 0 {
        let outcome = match line.trim_end().split_once(' ') {
            Some(("agent", url)) => {
                drop(agent.take());
                RunningAgent::start(url, &address).map(|(started, took)| {
                    agent = Some(started);
                    took.as_micros().to_string()
                })
            }
            Some(("run", command)) => shell(command).map(|()| String::new()),
            _ => bail!("no order: {line}"),
        };
        let answer = match outcome {
            Ok(told) => format!("ok {told}"),
            Err(error) => format!("no {error:#}").replace('\n', " / "),
        };
        writeln!(orders.get_mut(), "{answer}")?;
        line.clear();
    }
    Ok(())
}

/// Starts a target for every load; returns its address.
fn start_target() -> Result<(Child, String)> {
    let mut target = Command::new(variable(LOADGEN)?)
        .args(["target", "any"])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the target")?;
    let mut line = String::new();
    let stdout = target.stdout.take().context("no output of the target")?;
    BufReader::new(stdout).read_line(&mut line)?;
    let listening: Value = serde_json::from_str(&line)?;
    let address = listening["address"].as_str().context("no address")?;
    Ok((target, address.to_owned()))
}

/// A registered agent. Dropping it kills the process.
struct RunningAgent {
    _program: AgentProgram,
    _state_dir: TempDir,
}

impl RunningAgent {
    /// Starts an agent without memory of earlier runs; returns the time until it was registered.
    fn start(relay: &str, target: &str) -> Result<(Self, Duration)> {
        let (state_dir, ca) = (TempDir::new()?, variable(CERT)?);
        let mut flags = vec!["--name", TUNNEL, "--proxy", "none"];
        if !relay.starts_with("tcp:") {
            flags.extend(["--ca", &ca]);
        }
        let child = Path::new(env!("CARGO_BIN_EXE_child"));
        let began = Instant::now();
        let program = AgentProgram::start(child, relay, target, state_dir.path(), &flags)?;
        program.registered(1)?;
        let took = began.elapsed();
        let agent = Self {
            _program: program,
            _state_dir: state_dir,
        };
        Ok((agent, took))
    }
}

/// Runs a command of the shell in this end's namespace.
pub(crate) fn shell(command: &str) -> Result<()> {
    let output = Command::new("sh").args(["-c", command]).output()?;
    ensure!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// The far end, as the near end reaches it.
pub(crate) struct Far(BufReader<UnixStream>);

impl Far {
    /// Waits until the far end takes orders.
    pub(crate) fn find() -> Result<Self> {
        let (path, began) = (folder()?.join(SOCKET), Instant::now());
        loop {
            match UnixStream::connect(&path) {
                Ok(stream) => return Ok(Self(BufReader::new(stream))),
                Err(error) if began.elapsed() > SOON => {
                    return Err(error).context("the far end takes no orders");
                }
                Err(_) => std::thread::park_timeout(LOOK_INTERVAL),
            }
        }
    }

    /// Has an agent started that dials `url`; returns the time until it was registered.
    pub(crate) fn agent(&mut self, url: &str) -> Result<Duration> {
        let micros = self.ask(&format!("agent {url}"))?;
        Ok(Duration::from_micros(micros.parse()?))
    }

    /// Has a command of the shell run in the far end's namespace.
    pub(crate) fn run(&mut self, command: &str) -> Result<()> {
        self.ask(&format!("run {command}")).map(drop)
    }

    fn ask(&mut self, order: &str) -> Result<String> {
        writeln!(self.0.get_mut(), "{order}")?;
        let mut answer = String::new();
        self.0.read_line(&mut answer)?;
        match answer.strip_prefix("ok ") {
            Some(told) => Ok(told.trim_end().to_owned()),
            None => bail!("the far end: {answer}"),
        }
    }
}
