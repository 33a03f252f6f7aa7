//! A child process with all that it starts, from its start to its end.
//!
//! `start` starts it, and returns four parts that a driver may give to different tasks: [`Input`] and [`Output`] are
//! the pipes of the protocol, [`Log`] is the last part of its standard error, and [`Life`] waits for its end or brings
//! it about.
//!
//! **No process stays behind.** `npx`, `uv` and the like start the server as their own child, so a signal to the direct
//! child alone would leave the server running.
//! - On Unix the child leads a process group (`unix`), and each signal goes to the group. The group is killed when the
//!   child has ended, when the driver asks, and when [`Life`] is dropped. A process that leaves the group (setsid(2))
//!   is out of reach: the agent does not look for it.
//! - On Windows the child and its descendants are a job (`windows`), which the system ends with the agent's handle. The
//!   crate `process-wrap` starts the child suspended, so that it cannot start another process outside of the job.
//!
//! **The agent killed.** On Windows the system closes the agent's handle of the job. On Unix nothing of the kind is
//! safe to use from this crate: PR_SET_PDEATHSIG has to be called in the child itself, so `std`, `nix`, `rustix` and
//! `process-wrap` need an unsafe `pre_exec` for it; it reaches the direct child only, is sent when the *thread* that
//! started the child ends, and exists on few systems besides Linux. Instead, a small process of the agent's program
//! holds the reading end of a pipe, and ends the groups that the agent has named to it when the pipe ends (`guard`).
//! Only the agent has the writing end, so the pipe ends with the agent, whatever the reason. A library has no
//! executable, so the program that uses it names one ([`GuardProgram`](super::GuardProgram)). Without it, and for the
//! moment between a child's start and its naming, children still find their standard input closed, by which MCP
//! servers end.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

mod find;
#[cfg(unix)]
mod guard;
mod input;
mod output;
#[cfg(any(windows, test))]
mod path;
mod start;
mod stderr;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(test)]
#[cfg(unix)]
mod tests;

pub(crate) use self::find::program_file;
#[cfg(unix)]
pub(crate) use self::guard::{Guard, run_guard};
pub(crate) use self::input::Input;
pub(crate) use self::output::Output;
pub(crate) use self::start::StartError;
pub(crate) use self::stderr::Log;
#[cfg(unix)]
use self::unix::Group;
#[cfg(windows)]
use self::windows::Group;
#[cfg(windows)]
pub(crate) use self::windows::Guard;

/// Longest wait for the rest of a child's standard error after its end. Its group is killed by then, so that only a
/// process that has left the group can keep the pipe open.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(500);

/// How long an orderly end waits after each of its steps.
const PATIENCE: Patience = Patience {
    closed: Duration::from_secs(2),
    terminated: Duration::from_secs(5),
    killed: Duration::from_secs(5),
};

/// A child that was started.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its standard input.
    pub(crate) input: Input,
    /// Its standard output.
    pub(crate) output: Output,
    /// The last part of its standard error.
    pub(crate) log: Log,
    /// The child itself. Dropping it kills the child with its group.
    pub(crate) life: Life,
}

/// A running child with all that it has started; dropping it kills them.
#[derive(Debug)]
pub(crate) struct Life {
    group: Group,
    /// Reads standard error into the log; `None` once it has ended.
    listener: Option<JoinHandle<()>>,
    status: Option<ExitStatus>,
}

impl Life {
    fn new(group: Group, listener: JoinHandle<()>) -> Self {
        Self {
            group,
            listener: Some(listener),
            status: None,
        }
    }

    /// The child's process id; `None` once it has ended.
    pub(crate) fn id(&self) -> Option<u32> {
        self.group.id()
    }

    /// Waits until the child has ended, for whatever reason, then kills what it has left behind. From then on its
    /// output ends, and its log is complete soon. A wait that is given up loses nothing, and an ended child can be
    /// asked again.
    ///
    /// # Errors
    /// The system's error, if it cannot tell how the child has ended; its group is killed all the same.
    pub(crate) async fn exited(&mut self) -> io::Result<ExitStatus> {
        Ok(match self.status {
            Some(status) => status,
            None => *self.status.insert(self.group.ended().await?),
        })
    }

    /// As [`Life::exited`], and waits until the log is complete.
    ///
    /// # Errors
    /// As [`Life::exited`].
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.exited().await?;
        if let Some(listener) = &mut self.listener {
            if timeout(LAST_WORDS_TIMEOUT, &mut *listener).await.is_err() {
                listener.abort();
            }
            self.listener = None;
        }
        Ok(status)
    }

    /// Ends the child in order, and kills it with its group if it does not comply: waits 2 s for its end, asks it to
    /// terminate (on Unix), waits 5 s more. Before this call, the driver drops [`Input`], which is the first request.
    /// [`Output`] may still be read meanwhile.
    ///
    /// # Errors
    /// As [`Life::ended`], and [`io::ErrorKind::TimedOut`] if the system does not end a killed child, for example while
    /// the child waits for a broken disk.
    pub(crate) async fn end(&mut self) -> io::Result<ExitStatus> {
        self.end_within(PATIENCE).await
    }

    async fn end_within(&mut self, patience: Patience) -> io::Result<ExitStatus> {
        if let Ok(ended) = timeout(patience.closed, self.ended()).await {
            return ended;
        }
        if self.group.terminate()
            && let Ok(ended) = timeout(patience.terminated, self.ended()).await
        {
            return ended;
        }
        self.group.kill();
        let killed = timeout(patience.killed, self.ended()).await;
        killed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.abort();
        }
    }
}

/// Waits of an orderly end.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// For the end of a child whose standard input is closed.
    closed: Duration,
    /// For the end of a child that was asked to terminate.
    terminated: Duration,
    /// For the end of a child that was killed.
    killed: Duration,
}

/// How a child has ended, as the end of a sentence about it.
pub(crate) fn words(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return match unix::signal_name(signal) {
            Some(name) => format!("was ended by signal {signal} ({name})"),
            None => format!("was ended by signal {signal}"),
        };
    }
    match status.code() {
        Some(code) => format!("ended with exit code {code}"),
        None => "ended".to_owned(),
    }
}
