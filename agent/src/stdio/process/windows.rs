//! A child and its descendants as a job of Windows, which ends when the agent's handle of it is closed.

use std::io;
use std::process::ExitStatus;
use std::sync::Arc;

use process_wrap::tokio::{ChildWrapper, CommandWrap, JobObject, KillOnDrop};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};

use crate::stdio::GuardProgram;

/// A child in a job of its own.
#[derive(Debug)]
pub(super) struct Group {
    /// Closes its handle of the job when it is dropped.
    child: Box<dyn ChildWrapper>,
}

impl Group {
    /// Starts a child; the job needs no guard.
    pub(super) fn spawn(command: Command, _guard: Option<&Arc<Guard>>) -> io::Result<Self> {
        let mut command = CommandWrap::from(command);
        // With `KillOnDrop`, the job ends when its handle is closed (JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE).
        command.wrap(KillOnDrop).wrap(JobObject);
        Ok(Self {
            child: command.spawn()?,
        })
    }

    /// The child's pipes; `None` if they were taken before.
    pub(super) fn take_pipes(&mut self) -> Option<(ChildStdin, ChildStdout, ChildStderr)> {
        let child = &mut self.child;
        Some((
            child.stdin().take()?,
            child.stdout().take()?,
            child.stderr().take()?,
        ))
    }

    /// The child's process id; `None` once it has ended.
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until the child has ended, and ends what is left of the job.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        // The inner wrapper waits for the child alone, the outer one for all of its descendants.
        let status = self.child.inner_mut().wait().await;
        self.kill();
        status
    }

    /// Does nothing, and returns false: a process without a window cannot be asked to terminate.
    pub(super) fn terminate(&mut self) -> bool {
        false
    }

    /// Ends all processes of the job.
    pub(super) fn kill(&mut self) {
        // An error means that the job has ended meanwhile.
        let _ = self.child.start_kill();
    }
}

/// Stands for the guard of Unix: on Windows the system ends the jobs of an agent that was killed.
#[derive(Debug)]
pub(crate) struct Guard;

impl Guard {
    /// A guard that does nothing.
    pub(crate) fn new(_program: GuardProgram) -> Arc<Self> {
        Arc::new(Self)
    }
}
