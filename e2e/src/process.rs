//! A child process that ends with the test that started it.
//!
//! Three things see to that: dropping the guard kills the process group and reaps the child; every
//! wait has a limit; and the child's standard input is a pipe that closes when this process ends,
//! however it ends, which the fixtures take as the end of their own life.

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

/// Lines of output kept for each process. Older ones are forgotten.
const LINES_MAX: usize = 4096;

/// Longest line read as one, in bytes: the longest report of a fixture is under 64 KiB.
const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Lines of output that an error quotes.
const QUOTED_LINES: usize = 30;

/// A running child process.
pub struct Process {
    name: String,
    child: Child,
    /// Kept out of `child`, whose `wait` would close it.
    stdin: Option<ChildStdin>,
    output: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
    reaped: bool,
}

impl Process {
    /// Starts `command` in a process group of its own.
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

    /// Waits for the first line on standard output, from the start on, that `wanted` accepts.
    ///
    /// # Errors
    /// `limit` passed, or the output ended, without such a line.
    pub fn wait_for<T>(&self, limit: Duration, wanted: impl FnMut(&str) -> Option<T>) -> Result<T> {
        self.wait_for_line(Stream::Stdout, limit, wanted)
    }

    /// The same on standard error.
    ///
    /// # Errors
    /// `limit` passed, or the output ended, without such a line.
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
                    "not in time"
                } else {
                    "its output ended first"
                };
                bail!(
                    "{} did not print what was expected ({why})\n{}",
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

    /// Waits until the process has ended by itself and returns what it printed on standard output.
    ///
    /// # Errors
    /// It failed, or `limit` passed; then it is killed.
    pub fn finish(self, limit: Duration) -> Result<String> {
        let name = self.name.clone();
        let ended = self.ended(limit)?;
        if !ended.status.success() {
            bail!("{name} failed: {}\n{}", ended.status, ended.quote);
        }
        Ok(ended.stdout)
    }

    /// Waits until the process has ended by itself, and tells how.
    ///
    /// # Errors
    /// `limit` passed; then it is killed.
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

    /// Its exit code, once it has ended by itself; other processes may still have its output.
    ///
    /// # Errors
    /// `limit` passed, or a signal killed it.
    pub fn exit_code(&self, limit: Duration) -> Result<i32> {
        let pid = self.pid()?;
        self.wait_for_end(Instant::now() + limit)?;
        // Not reaped: its id stays its own, and names its group, until this is dropped.
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(pid), how)?.context("it has not ended")?;
        let code = status.exit_status();
        code.with_context(|| format!("{} was killed", self.name))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // Not reaped before `self` is gone, so its id cannot name a stranger.
        kill_process(self.pid()?, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// It is gone.
    pub fn tell(&self, line: &str) -> Result<()> {
        let mut stdin = self.stdin.as_ref().context("no standard input")?;
        writeln!(stdin, "{line}").with_context(|| format!("cannot tell {}", self.name))
    }

    /// Whether a line on standard output so far contains `text`.
    #[must_use]
    pub fn has_printed(&self, text: &str) -> bool {
        let state = self.output.lock();
        let mut lines = state.lines.iter();
        lines.any(|line| line.stream == Stream::Stdout && line.text.contains(text))
    }

    /// How many lines on standard error, as far as they are kept, `wanted` accepts.
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
            bail!("{} did not end in time", self.name);
        }
        Ok(())
    }

    /// The process's id.
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
            // Not reaped, so its id is still its own and cannot name a stranger.
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

/// A process that has ended by itself.
#[derive(Clone, Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// What it printed on standard output.
    pub stdout: String,
    /// What it printed on standard error.
    pub stderr: String,
    /// Its last lines, for an error.
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
    /// Lines dropped from the front.
    forgotten: usize,
    /// Pipes that have not ended.
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
