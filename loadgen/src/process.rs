//! Child processes: each component runs as one of its own, so that its CPU time can be told apart.
//!
//! A child is ended by its handle when its guard is dropped, on every way out, Ctrl-C included.
//! Should this process be killed outright, the kernel ends the children.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};
use rustix::thread::CpuSet;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};

use crate::cli::ChildFlags;
use crate::interrupt::{Interrupt, Interrupted};

/// Lines of a child's output that wait to be read; more are dropped, as nobody waits for them.
const LINES_MAX: usize = 1024;

/// Connections that may wait to be accepted by a server of ours.
const LISTEN_BACKLOG: u32 = 4096;

/// How long a child may take to end by itself after SIGTERM.
const END_GRACE: Duration = Duration::from_secs(2);

/// Lines of a failed child's log that are shown.
const LOG_LINES_SHOWN: usize = 12;

/// Tells the parent, in one line of JSON, where a server listens.
pub(crate) fn announce(kind: &str, address: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{}",
        json!({"event": "listening", "kind": kind, "address": address})
    )?;
    out.flush()
}

/// Listens with a long queue, so that many connections at once do not overflow it.
///
/// The kernel lowers it to net.core.somaxconn.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

/// Reports a failed accept and waits a little: a full descriptor table would make it spin.
pub(crate) async fn pause_after_accept_error(error: &io::Error) {
    eprintln!("cannot accept a connection: {error}");
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// What to start.
#[derive(Debug)]
pub(crate) struct Program {
    /// Name used in messages and for the log file.
    pub(crate) name: String,
    /// The binary.
    pub(crate) path: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// Variables set on top of ours.
    pub(crate) environment: Vec<(String, OsString)>,
    /// The cores to run on; none means that it is not pinned.
    pub(crate) cores: Vec<usize>,
    /// A program that runs this one, with its own arguments; empty for none.
    pub(crate) in_front: Vec<OsString>,
}

impl Program {
    /// This very program with another subcommand.
    pub(crate) fn own(name: &str, arguments: &[&str], cores: Vec<usize>) -> io::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            path: std::env::current_exe()?,
            arguments: arguments.iter().map(OsString::from).collect(),
            environment: Vec::new(),
            cores,
            in_front: Vec::new(),
        })
    }
}

/// A running child. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Running {
    name: String,
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Running {
    /// Starts a program; its stderr goes to a file in `log_directory`.
    ///
    /// The child first becomes our `child` subcommand, which asks for a signal at our death and
    /// pins itself, and then turns into the program: same process, no `unsafe` between fork and exec.
    pub(crate) fn start(program: &Program, log_directory: &Path) -> anyhow::Result<Self> {
        Self::launch(program, log_directory, Stdio::null())
    }

    /// The same for a program that ends when its standard input does: that stays open.
    pub(crate) fn start_with_input(
        program: &Program,
        log_directory: &Path,
    ) -> anyhow::Result<Self> {
        Self::launch(program, log_directory, Stdio::piped())
    }

    fn launch(program: &Program, log_directory: &Path, input: Stdio) -> anyhow::Result<Self> {
        if !program.path.is_file() {
            bail!(
                "{} not found at {}: build it with `cargo build --release`",
                program.name,
                program.path.display()
            );
        }
        let log = log_directory.join(format!("{}.log", program.name));
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("child")
            .arg("--parent")
            .arg(std::process::id().to_string());
        for core in &program.cores {
            command.arg("--core").arg(core.to_string());
        }
        command
            .arg("--")
            .args(&program.in_front)
            .arg(&program.path)
            .args(&program.arguments);
        // What a report calls a default is one: settings of whoever runs this do not reach a child.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(name)) {
            command.env_remove(name);
        }
        command.envs(
            program
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        );
        command.stdin(input).stdout(Stdio::piped());
        command.stderr(File::create(&log).context("cannot create a log file")?);
        // A group of its own: Ctrl-C reaches us alone, and we end the children in order.
        command.process_group(0);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", program.name))?;
        let stdout = child
            .stdout
            .take()
            .context("the child has no standard output")?;
        let (sender, lines) = sync_channel(LINES_MAX);
        std::thread::Builder::new()
            .name("child-output".to_owned())
            .spawn(move || {
                for line in BufReader::new(stdout).lines() {
                    let Ok(line) = line else { break };
                    // Full: nobody waits for lines any more. The pipe must be drained all the same.
                    let _ = sender.try_send(line);
                }
            })?;
        Ok(Self {
            name: program.name.clone(),
            child,
            lines,
            log,
        })
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a JSON line that `wanted` accepts and returns what it made of it.
    pub(crate) fn wait_for<T>(
        &mut self,
        what: &str,
        patience: Duration,
        interrupt: &Interrupt,
        wanted: impl Fn(&Value) -> Option<T>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            if interrupt.is_raised() {
                return Err(Interrupted.into());
            }
            match self.lines.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => {
                    let value = serde_json::from_str::<Value>(&line).ok();
                    if let Some(found) = value.as_ref().and_then(&wanted) {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => bail!(
                    "{} did not report {what} within {} s{}",
                    self.name,
                    patience.as_secs(),
                    self.log_tail()
                ),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("{} {}{}", self.name, ended_how(status), self.log_tail());
                }
            }
        }
    }

    /// Waits for the line of a server of our own that says where it listens.
    pub(crate) fn wait_for_address(
        &mut self,
        kind: &str,
        interrupt: &Interrupt,
    ) -> anyhow::Result<SocketAddr> {
        self.wait_for("its address", Duration::from_secs(10), interrupt, |line| {
            listening_address(line, kind)
        })
    }

    /// What to say about this child if it has ended, which it should not have.
    pub(crate) fn obituary(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(format!(
            "{} {}{}",
            self.name,
            ended_how(status),
            self.log_tail()
        ))
    }

    /// Asks it to end and waits until it has, so that it can write what it counted.
    pub(crate) fn end(mut self, patience: Duration) -> anyhow::Result<()> {
        // Not SIGTERM, at which `perf stat` ends without a word.
        self.signal(Signal::INT);
        let deadline = Instant::now() + patience;
        let rest = || deadline.saturating_duration_since(Instant::now());
        while self.lines.recv_timeout(rest()).is_ok() {}
        if rest().is_zero() {
            bail!(
                "{} did not end within {} s{}",
                self.name,
                patience.as_secs(),
                self.log_tail()
            );
        }
        // Its output ended, so it is about to.
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal to it and to what it started, unless it was waited for: its number might then
    /// mean another.
    fn signal(&mut self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id())
            && let Some(pid) = Pid::from_raw(pid)
            && matches!(self.child.try_wait(), Ok(None))
        {
            // Gone since: then there is nothing to end.
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
        lines[from..]
            .iter()
            .map(|line| format!("\n    {}: {line}", self.name))
            .collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::TERM);
            let deadline = Instant::now() + END_GRACE;
            let rest = || deadline.saturating_duration_since(Instant::now());
            // Its output ends when it ends; lines that still come are of no use.
            while self.lines.recv_timeout(rest()).is_ok() {}
            self.signal(Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// The address in a `listening` line of this kind.
pub(crate) fn listening_address(line: &Value, kind: &str) -> Option<SocketAddr> {
    let is = |name: &str, wanted: &str| line.get(name).and_then(Value::as_str) == Some(wanted);
    if !is("event", "listening") || !is("kind", kind) {
        return None;
    }
    line.get("address")?.as_str()?.parse().ok()
}

/// Whether a variable of the environment is a setting of relay or agent.
fn is_setting(name: &OsStr) -> bool {
    name == "RUST_LOG" || name.as_encoded_bytes().starts_with(b"TIELINE_")
}

fn ended_how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The `child` subcommand: ties its life to the parent's, pins itself, becomes the program.
pub(crate) fn become_child(flags: &ChildFlags) -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .context("cannot ask for a signal at the parent's death")?;
    // The parent may have died before the request above, and then no signal comes.
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if u32::try_from(parent) != Ok(flags.parent) {
        bail!("the parent has ended");
    }
    if !flags.cores.is_empty() {
        pin_to(&flags.cores)?;
    }
    let [program, arguments @ ..] = flags.command.as_slice() else {
        bail!("no program given");
    };
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", program.to_string_lossy()))
}

/// Binds the calling thread, and the threads that it starts from now on, to these cores.
pub(crate) fn pin_to(cores: &[usize]) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    rustix::thread::sched_setaffinity(None, &set)
        .with_context(|| format!("cannot pin to cores {cores:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_line_gives_its_address() {
        let line = json!({"event": "listening", "kind": "tcp", "address": "127.0.0.1:9002"});
        assert_eq!(
            listening_address(&line, "tcp"),
            "127.0.0.1:9002".parse().ok()
        );
        assert_eq!(listening_address(&line, "agent"), None);
        assert_eq!(listening_address(&json!({"event": "stopped"}), "tcp"), None);
    }

    #[test]
    fn settings_of_relay_and_agent_are_known_by_their_names() {
        for name in ["TIELINE_RELAY_DRIVER", "TIELINE_LINKS", "RUST_LOG"] {
            assert!(is_setting(OsStr::new(name)), "{name}");
        }
        assert!(!is_setting(OsStr::new("PATH")) && !is_setting(OsStr::new("MY_TIELINE_LINKS")));
    }

    #[test]
    fn a_missing_program_is_named_with_the_way_to_build_it() {
        let directory = tempfile::tempdir().unwrap();
        let program = Program {
            name: "relay".to_owned(),
            path: PathBuf::from("/nonexistent/relay"),
            arguments: Vec::new(),
            environment: Vec::new(),
            cores: Vec::new(),
            in_front: Vec::new(),
        };
        let error = Running::start(&program, directory.path())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/nonexistent/relay") && error.contains("cargo build"),
            "{error}"
        );
    }
}
