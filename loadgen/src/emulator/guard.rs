//! A process in each namespace that ends all others there once the emulator has ended, however it ended.
//!
//! The emulator holds the other end of the guard's standard input, and the kernel closes that even if the emulator is
//! killed. The direct children get a signal from the kernel too, but not what these have started.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::namespace::Namespace;
use crate::cli::GuardFlags;

/// Most passes over all processes. Each kills those that the ones before have left or that were started meanwhile.
const PASSES_MAX: usize = 1_000;

/// Longest wait for the end of one killed process.
const KILL_PATIENCE: Duration = Duration::from_secs(1);

/// The guard of one namespace. Dropping it ends all processes of the namespace and waits until they have ended.
#[derive(Debug)]
pub(super) struct Guard(Child);

impl Guard {
    /// Starts the guard in `namespace`.
    pub(super) fn start(namespace: &Namespace) -> anyhow::Result<Self> {
        // The emulator's first thread stays in the machine's namespace, whose processes are not a guard's to end.
        let outside =
            namespace_of("self").context("cannot read the machine's network namespace")?;
        let mut guard = Command::new(std::env::current_exe()?);
        guard
            .args(["path-guard", "--outside"])
            .arg(outside)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Ctrl-C must not reach it.
            .process_group(0);
        let child = namespace.run(move || guard.spawn())?;
        Ok(Self(child.context("cannot start a guard")?))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The `path-guard` subcommand.
pub(crate) fn run(flags: &GuardFlags) -> anyhow::Result<()> {
    let own = namespace_of("self").context("cannot read the own network namespace")?;
    if own == flags.outside {
        bail!("a guard outside of the emulator's namespaces would end processes of the machine");
    }
    // The emulator never writes, and a read error means the same as the end.
    let _ = io::stdin().lock().read_to_end(&mut Vec::new());
    for _ in 0..PASSES_MAX {
        let left = processes_in(&own)?;
        if left.is_empty() {
            return Ok(());
        }
        end(&left);
    }
    bail!("processes of the emulated path start others faster than they can be ended");
}

/// Name of the network namespace of a process, such as `net:[4026531840]`; `None` if the process has ended.
fn namespace_of(process: &str) -> Option<OsString> {
    let link = std::fs::read_link(format!("/proc/{process}/ns/net")).ok()?;
    Some(link.into_os_string())
}

/// Handles of all processes of a namespace but this one. Each handle was open before its namespace was read, so it is
/// that of no later process with the same id.
fn processes_in(namespace: &OsStr) -> anyhow::Result<Vec<OwnedFd>> {
    let own = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").context("cannot list processes")?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let handles = names.filter(|name| *name != own).filter_map(|name| {
        let pid = Pid::from_raw(name.parse().ok()?)?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        (namespace_of(&name).as_deref() == Some(namespace)).then_some(handle)
    });
    Ok(handles.collect())
}

/// Kills processes and waits until they have ended.
fn end(processes: &[OwnedFd]) {
    for process in processes {
        // An error means that it has ended meanwhile.
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
    let Ok(patience) = Timespec::try_from(KILL_PATIENCE) else {
        return;
    };
    for process in processes {
        let mut watched = [PollFd::new(process, PollFlags::IN)];
        let _ = poll(&mut watched, Some(&patience));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_refuses_the_namespace_of_the_machine() {
        let outside = namespace_of("self").unwrap();
        let flags = GuardFlags { outside };
        let error = run(&flags).unwrap_err().to_string();
        assert!(error.contains("processes of the machine"), "{error}");
    }

    #[test]
    fn processes_are_found_by_their_namespace() {
        let own = namespace_of("self").unwrap();
        assert!(own.to_string_lossy().starts_with("net:["));
        assert!(processes_in(OsStr::new("net:[0]")).unwrap().is_empty());
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let found = processes_in(&own).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // Ids of others may be hidden from this test, but not that of its child.
        let mut watched: Vec<PollFd<'_>> = found
            .iter()
            .map(|handle| PollFd::new(handle, PollFlags::IN))
            .collect();
        assert!(poll(&mut watched, Some(&Timespec::default())).unwrap() >= 1);
    }
}
