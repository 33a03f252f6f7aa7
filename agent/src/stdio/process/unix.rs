//! A child and its descendants as a process group of Unix.

use std::io;
use std::process::ExitStatus;
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use super::guard::{Guard, Watched};

/// Signals that end processes often enough to be named.
const SIGNAL_NAMES: [(Signal, &str); 10] = [
    (Signal::HUP, "SIGHUP"),
    (Signal::INT, "SIGINT"),
    (Signal::ILL, "SIGILL"),
    (Signal::ABORT, "SIGABRT"),
    (Signal::BUS, "SIGBUS"),
    (Signal::FPE, "SIGFPE"),
    (Signal::KILL, "SIGKILL"),
    (Signal::SEGV, "SIGSEGV"),
    (Signal::PIPE, "SIGPIPE"),
    (Signal::TERM, "SIGTERM"),
];

/// A child that leads a process group of its own.
#[derive(Debug)]
pub(super) struct Group {
    child: Child,
    /// The group, which has the child's process id; `None` once both have ended.
    leader: Option<Pid>,
    /// The group's entry at the guard.
    watched: Option<Watched>,
}

impl Group {
    /// Starts a child.
    pub(super) fn spawn(mut command: Command, guard: Option<&Arc<Guard>>) -> io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let leader = id.and_then(Pid::from_raw);
        let watched = match (guard, leader) {
            (Some(guard), Some(leader)) => guard.watch(leader),
            _ => None,
        };
        Ok(Self {
            child,
            leader,
            watched,
        })
    }

    /// The child's pipes; `None` if they were taken before.
    pub(super) fn take_pipes(&mut self) -> Option<(ChildStdin, ChildStdout, ChildStderr)> {
        let child = &mut self.child;
        Some((
            child.stdin.take()?,
            child.stdout.take()?,
            child.stderr.take()?,
        ))
    }

    /// The child's process id; `None` once it has ended.
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until the child has ended, and kills what is left of the group.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await;
        // The id may belong to another process from now on, though not this soon: the system gives out ids in turn.
        self.kill();
        self.leader = None;
        self.watched = None;
        status
    }

    /// Asks all processes of the group to terminate; true, because they can be asked.
    pub(super) fn terminate(&mut self) -> bool {
        self.signal(Signal::TERM);
        true
    }

    /// Kills all processes of the group.
    pub(super) fn kill(&mut self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        if let Some(leader) = self.leader {
            // An error means that the group has ended meanwhile.
            let _ = kill_process_group(leader, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The runtime reaps the child.
        self.kill();
    }
}

/// The usual name of a signal.
pub(super) fn signal_name(signal: i32) -> Option<&'static str> {
    let mut names = SIGNAL_NAMES.iter();
    let found = names.find(|(known, _)| known.as_raw() == signal);
    found.map(|(_, name)| *name)
}
