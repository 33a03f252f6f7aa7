//! Child processes: each component is a separate process, so that its CPU time can be measured separately.
//!
//! Dropping the handle of a child ends the child, on every exit path including Ctrl-C. If this process is
//! killed, the kernel signals the children.

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

/// Capacity of the queue of a child's output lines. More lines are dropped: only the first ones are read.
const LINES_MAX: usize = 1024;

/// Listen backlog of our servers, in connections.
const LISTEN_BACKLOG: u32 = 4096;

/// How long a child may take to exit after SIGTERM before it gets SIGKILL.
const END_GRACE: Duration = Duration::from_secs(2);

/// Number of log lines of a failed child that an error message shows.
const LOG_LINES_SHOWN: usize = 12;

/// Prints the address of a server for the parent process, as one JSON line.
pub(crate) fn announce(kind: &str, address: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{}",
        json!({"event": "listening", "kind": kind, "address": address})
    )?;
    out.flush()
}

/// Listens with a long backlog, so that many simultaneous connections do not overflow it.
///
/// The kernel caps the backlog at net.core.somaxconn.
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

/// Reports a failed accept and pauses: with a full descriptor table, the accept loop would spin.
pub(crate) async fn pause_after_accept_error(error: &io::Error) {
    eprintln!("cannot accept a connection: {error}");
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// A program to start as a child.
#[derive(Debug)]
pub(crate) struct Program {
    /// Name for messages and for the log file.
    pub(crate) name: String,
    /// Path of the binary.
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// Variables to set in addition to the inherited environment.
    pub(crate) environment: Vec<(String, OsString)>,
    /// Cores to pin the process to; empty to leave it unpinned.
    pub(crate) cores: Vec<usize>,
    /// Wrapper program with its arguments, such as `perf stat ... --`; empty for none.
    pub(crate) in_front: Vec<OsString>,
}

impl Program {
    /// This program itself, with another subcommand.
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

/// A running child process. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Running {
    name: String,
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Running {
    /// Starts a program; its stderr is written to a file in `log_directory`.
    ///
    /// The child first runs our `child` subcommand, which asks the kernel for a signal at the parent's death,
    /// pins the process and then executes the program. This needs no `unsafe` code between fork and exec.
    pub(crate) fn start(program: &Program, log_directory: &Path) -> anyhow::Result<Self> {
        Self::launch(program, log_directory, Stdio::null())
    }

    /// Starts a program that ends at the end of its standard input, which is kept open.
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
        // Keep the user's TIELINE_ settings from the child, so that the defaults in a report are the real ones.
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
        // In its own process group, Ctrl-C reaches only this process, which then ends the children in order.
        command.process_group(0);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", program.name))?;
        let stdout = child
            .stdout
            .take()
            .context("the standard output of the child was not captured")?;
        let (sender, lines) = sync_channel(LINES_MAX);
        std::thread::Builder::new()
            .name("child-output".to_owned())
            .spawn(move || {
                for line in BufReader::new(stdout).lines() {
                    let Ok(line) = line else { break };
                    // If the queue is full, no reader is left; the pipe must still be drained.
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

    /// Waits for a JSON output line that `wanted` accepts, and returns its result.
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

    /// Waits for the `listening` line of one of our servers and returns the address.
    pub(crate) fn wait_for_address(
        &mut self,
        kind: &str,
        interrupt: &Interrupt,
    ) -> anyhow::Result<SocketAddr> {
        self.wait_for("its address", Duration::from_secs(10), interrupt, |line| {
            listening_address(line, kind)
        })
    }

    /// A message about this child if it has ended, which is always unexpected.
    pub(crate) fn obituary(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(format!(
            "{} {}{}",
            self.name,
            ended_how(status),
            self.log_tail()
        ))
    }

    /// Interrupts the child and waits for its exit, so that a wrapper can write its counts.
    pub(crate) fn end(mut self, patience: Duration) -> anyhow::Result<()> {
        // SIGINT, because `perf stat` writes no counts if it gets SIGTERM.
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
        // Standard output has ended, so the exit follows at once.
        self.child.wait()?;
        Ok(())
    }

    /// Signals the child's process group, unless the child was already reaped: the process id might then
    /// belong to another process.
    fn signal(&mut self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id())
            && let Some(pid) = Pid::from_raw(pid)
            && matches!(self.child.try_wait(), Ok(None))
        {
            // An error means that the process group has ended meanwhile.
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
            // Standard output ends at exit; remaining lines are discarded.
            while self.lines.recv_timeout(rest()).is_ok() {}
            self.signal(Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// Address in a `listening` line of this kind.
pub(crate) fn listening_address(line: &Value, kind: &str) -> Option<SocketAddr> {
    let is = |name: &str, wanted: &str| line.get(name).and_then(Value::as_str) == Some(wanted);
    if !is("event", "listening") || !is("kind", kind) {
        return None;
    }
    line.get("address")?.as_str()?.parse().ok()
}

/// Whether an environment variable is a setting of relay or agent.
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

/// The `child` subcommand: binds its life to the parent's, pins itself and executes the program.
pub(crate) fn become_child(flags: &ChildFlags) -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .context("cannot ask for a signal at the parent's death")?;
    // If the parent died before the request above, the kernel sends no signal.
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

/// Pins the calling thread, and the threads it starts later, to these cores.
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
