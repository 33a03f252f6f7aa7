//! A child process that ends with the test that started it.
//!
//! Three measures ensure it: dropping the guard kills the process group and reaps the child; every wait
//! has a limit; and the child's standard input is a pipe, which the kernel closes however this process
//! ends. The fixtures exit when their standard input ends.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, pidfd_open,
    waitid,
};

/// Output lines kept per process; older lines are dropped.
const LINES_MAX: usize = 4096;

/// Longest line read as one, in bytes; the longest report of a fixture is under 64 KiB.
const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Output lines that an error message quotes.
const QUOTED_LINES: usize = 30;

/// A running child process.
pub struct Process {
    name: String,
    child: Child,
    /// Taken out of `child`, because `Child::wait` would close it.
    stdin: Option<ChildStdin>,
    output: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
    reaped: bool,
}

impl Process {
    /// Starts `command` in its own process group; errors call the process `name`.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}: {}", program(command)))?;
        let output = Arc::new(Output::default());
        let mut readers = Vec::new();
        if let Some(pipe) = child.stdout.take() {
            readers.push(Output::read(&output, Stream::Stdout, pipe));
        }
        if let Some(pipe) = child.stderr.take() {
            readers.push(Output::read(&output, Stream::Stderr, pipe));
        }
        let stdin = child.stdin.take();
        Ok(Self {
            name: name.to_owned(),
            child,
            stdin,
            output,
            readers,
            reaped: false,
        })
    }

    /// Waits for a line on standard output that `wanted` accepts. Kept earlier lines count too.
    ///
    /// # Errors
    /// `limit` passed, or all output ended, before `wanted` accepted a line.
    pub fn wait_for<T>(&self, limit: Duration, wanted: impl FnMut(&str) -> Option<T>) -> Result<T> {
        self.wait_for_line(Stream::Stdout, limit, wanted)
    }

    /// Waits for a line on standard error that `wanted` accepts. Kept earlier lines count too.
    ///
    /// # Errors
    /// `limit` passed, or all output ended, before `wanted` accepted a line.
    pub fn wait_for_error_line<T>(
        &self,
        limit: Duration,
        wanted: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        self.wait_for_line(Stream::Stderr, limit, wanted)
    }

    fn wait_for_line<T>(
        &self,
        stream: Stream,
        limit: Duration,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        let mut looked_at = 0_usize;
        let mut state = self.output.lock();
        loop {
            let forgotten = state.forgotten;
            for line in state.lines.iter().skip(looked_at.saturating_sub(forgotten)) {
                if line.stream == stream
                    && let Some(found) = wanted(&line.text)
                {
                    return Ok(found);
                }
            }
            looked_at = forgotten + state.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if state.open == 0 || left.is_zero() {
                let why = if left.is_zero() {
                    "time limit reached"
                } else {
                    "its output ended"
                };
                bail!(
                    "{} did not print the expected line ({why})\n{}",
                    self.name,
                    state.quote()
                );
            }
            state = self
                .output
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits until the process has exited and closed its output; returns its standard output.
    ///
    /// # Errors
    /// The process failed, or `limit` passed and the process was killed.
    pub fn finish(self, limit: Duration) -> Result<String> {
        let name = self.name.clone();
        let ended = self.ended(limit)?;
        if !ended.status.success() {
            bail!("{name} failed: {}\n{}", ended.status, ended.quote);
        }
        Ok(ended.stdout)
    }

    /// Waits until the process has exited and closed its output; returns its exit status and output.
    ///
    /// # Errors
    /// `limit` passed, and the process was killed.
    pub fn ended(mut self, limit: Duration) -> Result<Ended> {
        let deadline = Instant::now() + limit;
        let mut state = self.output.lock();
        while state.open > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!(
                    "{} took longer than {limit:?}\n{}",
                    self.name,
                    state.quote()
                );
            }
            state = self
                .output
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let quote = state.quote();
        let stdout = state.text(Stream::Stdout);
        let stderr = state.text(Stream::Stderr);
        drop(state);
        let status = self.reap(deadline)?;
        Ok(Ended {
            status,
            stdout,
            stderr,
            quote,
        })
    }

    /// Waits until the process has exited, and returns its exit code. Its output may still be open in other
    /// processes.
    ///
    /// # Errors
    /// `limit` passed, or a signal killed the process.
    pub fn exit_code(&self, limit: Duration) -> Result<i32> {
        let pid = self.pid()?;
        self.wait_for_end(Instant::now() + limit)?;
        // Not reaped: the kernel cannot reuse the process id, which is also the group's, before the drop.
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(pid), how)?.context("the process has not exited")?;
        let code = status.exit_status();
        code.with_context(|| format!("{} was killed by a signal", self.name))
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// The kernel refuses the signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // Not reaped while `self` exists, so the id cannot belong to an unrelated process.
        kill_process(self.pid()?, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Writes a line to the standard input of the process.
    ///
    /// # Errors
    /// The process has closed its standard input or exited.
    pub fn tell(&self, line: &str) -> Result<()> {
        let mut stdin = self
            .stdin
            .as_ref()
            .context("the process has no standard input")?;
        writeln!(stdin, "{line}")
            .with_context(|| format!("cannot write to the standard input of {}", self.name))
    }

    /// Whether a kept line on standard output contains `text`.
    #[must_use]
    pub fn has_printed(&self, text: &str) -> bool {
        let state = self.output.lock();
        let mut lines = state.lines.iter();
        lines.any(|line| line.stream == Stream::Stdout && line.text.contains(text))
    }

    /// Number of kept lines on standard error that `wanted` accepts.
    #[must_use]
    pub fn error_lines(&self, wanted: impl Fn(&str) -> bool) -> usize {
        let state = self.output.lock();
        let lines = state
            .lines
            .iter()
            .filter(|line| line.stream == Stream::Stderr);
        lines.filter(|line| wanted(&line.text)).count()
    }

    fn reap(&mut self, deadline: Instant) -> Result<ExitStatus> {
        self.wait_for_end(deadline)?;
        let status = self.child.wait()?;
        self.reaped = true;
        Ok(status)
    }

    fn wait_for_end(&self, deadline: Instant) -> Result<()> {
        let ended = pidfd_open(self.pid()?, PidfdFlags::empty())
            .with_context(|| format!("cannot watch {}", self.name))?;
        let left = deadline.saturating_duration_since(Instant::now());
        let mut watched = [PollFd::new(&ended, PollFlags::IN)];
        if poll(&mut watched, Some(&Timespec::try_from(left)?))? == 0 {
            bail!("{} did not exit in time", self.name);
        }
        Ok(())
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Result<Pid> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        id.with_context(|| format!("{} has no process id", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            // Not reaped, so the id cannot belong to an unrelated process group.
            if let Ok(group) = self.pid() {
                let _gone = kill_process_group(group, Signal::KILL);
            }
            let _killed = self.child.kill();
            let _status = self.child.wait();
        }
        for reader in self.readers.drain(..) {
            let _ended = reader.join();
        }
    }
}

/// Exit status and output of a process that has exited.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Exit status, or the signal that killed the process.
    pub status: ExitStatus,
    /// Standard output, as far as its lines are kept.
    pub stdout: String,
    /// Standard error, as far as its lines are kept.
    pub stderr: String,
    /// Last lines of both outputs, indented, for an error message.
    pub quote: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
}

struct Line {
    stream: Stream,
    text: String,
}

#[derive(Default)]
struct OutputState {
    lines: VecDeque<Line>,
    /// Number of lines dropped from the front of `lines`.
    forgotten: usize,
    /// Number of output pipes that have not reached end of file.
    open: usize,
}

impl OutputState {
    fn quote(&self) -> String {
        let skipped = self.lines.len().saturating_sub(QUOTED_LINES);
        let quoted = self
            .lines
            .iter()
            .skip(skipped)
            .map(|line| format!("    | {}\n", line.text));
        quoted.collect()
    }

    fn text(&self, stream: Stream) -> String {
        let lines = self.lines.iter().filter(|line| line.stream == stream);
        lines.flat_map(|line| [line.text.as_str(), "\n"]).collect()
    }
}

#[derive(Default)]
struct Output {
    state: Mutex<OutputState>,
    changed: Condvar,
}

impl Output {
    fn lock(&self) -> std::sync::MutexGuard<'_, OutputState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(
        output: &Arc<Self>,
        stream: Stream,
        pipe: impl Read + Send + 'static,
    ) -> JoinHandle<()> {
        output.lock().open += 1;
        let output = Arc::clone(output);
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut raw = Vec::new();
            loop {
                raw.clear();
                let read = pipe
                    .by_ref()
                    .take(LINE_BYTES_MAX)
                    .read_until(b'\n', &mut raw);
                if !matches!(read, Ok(1..)) {
                    break;
                }
                let text = String::from_utf8_lossy(&raw).trim_end().to_owned();
                let mut state = output.lock();
                if state.lines.len() == LINES_MAX {
                    state.lines.pop_front();
                    state.forgotten += 1;
                }
                state.lines.push_back(Line { stream, text });
                drop(state);
                output.changed.notify_all();
            }
            output.lock().open -= 1;
            output.changed.notify_all();
        })
    }
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
