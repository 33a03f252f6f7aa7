//! The command of one end: a shell in the end's namespace.

use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

use super::namespace::Namespace;
use super::settings::Addresses;

/// How long a command may take to end after SIGTERM before it gets SIGKILL.
const END_GRACE: Duration = Duration::from_secs(5);

/// One end of the path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    Near,
    Far,
}

impl Place {
    /// Word for the commands and for messages.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Far => "far",
        }
    }
}

/// A running command. Dropping it kills the command, but not what the command has started.
#[derive(Debug)]
pub(super) struct Program {
    place: Place,
    child: Child,
    /// Readable once the command has ended.
    ended: OwnedFd,
}

impl Program {
    /// Starts `command` by `sh -c` in `namespace`.
    ///
    /// The near command keeps the terminal: its standard input and its process group are this program's, so that it may
    /// be a shell or a debugger. The far one has a process group of its own and reads nothing.
    pub(super) fn start(
        namespace: &Namespace,
        place: Place,
        command: &str,
        addresses: Addresses,
    ) -> anyhow::Result<Self> {
        // Our `child` subcommand asks the kernel for a signal at the death of the thread that starts it.
        let mut shell = Command::new(std::env::current_exe()?);
        shell
            .args(["child", "--parent", &std::process::id().to_string(), "--"])
            .args(["sh", "-c", command])
            // Without the prefix TIELINE_, since an agent refuses variables with it that it does not know.
            .env("EMULATED_NEAR", addresses.near.to_string())
            .env("EMULATED_FAR", addresses.far.to_string())
            .env("EMULATED_END", place.word());
        if place == Place::Far {
            shell.stdin(Stdio::null()).process_group(0);
        }
        let what = || format!("cannot start the {} command", place.word());
        let child = namespace.run(move || shell.spawn())?.with_context(what)?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("a process without a process id")?;
        let ended = pidfd_open(pid, PidfdFlags::empty()).with_context(what)?;
        Ok(Self {
            place,
            child,
            ended,
        })
    }

    /// Waits for at most `limit`; returns how the command ended, if it has.
    pub(super) fn ended_within(&mut self, limit: Duration) -> anyhow::Result<Option<ExitStatus>> {
        let limit = Timespec::try_from(limit)?;
        let mut watched = [PollFd::new(&self.ended, PollFlags::IN)];
        match poll(&mut watched, Some(&limit)) {
            Ok(0) | Err(Errno::INTR) => Ok(None),
            Ok(_) => Ok(Some(self.child.wait()?)),
            Err(error) => Err(error).context("cannot wait for a command"),
        }
    }

    /// Asks the command to end, kills it if it does not, and waits until it has ended.
    pub(super) fn end(mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM);
        if self.ended_within(END_GRACE)?.is_none() {
            eprintln!(
                "the {} command did not end within {} s of SIGTERM and is killed",
                self.place.word(),
                END_GRACE.as_secs()
            );
        }
        Ok(())
    }

    /// Signals the command; the far one's whole process group, since that holds nothing else.
    fn signal(&mut self, signal: Signal) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // The command was not reaped, so that its process id is still its own.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // An error means that it has ended meanwhile.
        let _ = match (self.place, pid) {
            (Place::Far, Some(pid)) => kill_process_group(pid, signal),
            _ => pidfd_send_signal(&self.ended, signal),
        };
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

/// The exit code that a shell reports for this end: that of the command, or 128 and the number of its signal.
pub(super) fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_the_commands_or_names_its_signal() {
        for (raw, code) in [(0, 0), (3 << 8, 3), (255 << 8, 255), (9, 137), (15, 143)] {
            assert_eq!(exit_code(ExitStatus::from_raw(raw)), code, "{raw:#x}");
        }
    }
}
