//! A small process that ends the children of an agent that was killed. The head of the folder tells why it is needed.
//!
//! The agent writes to the guard's standard input which process groups it has, one line for each change, and the guard
//! waits for the end of that pipe. It has no other task, so that its program may call [`run_guard`] before anything
//! else.

use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::ioctl_fionbio;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use crate::stdio::GuardProgram;

/// Most groups at a time. Their lines, which a new guard gets at once, have to fit into its pipe, which holds 16 KiB on
/// macOS and 64 KiB on Linux; a line has at most 12 bytes.
const GROUPS_MAX: usize = 1_024;

/// Time that the children of a killed agent have to end after SIGTERM. Their standard input is closed by then.
const TERMINATED_PATIENCE: Duration = Duration::from_secs(2);

/// Interval at which the guard looks whether they have ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The agent's side of the guard, which all of its children share. It starts the guard with the first child, and again
/// if the guard has ended.
#[derive(Debug)]
pub(crate) struct Guard {
    program: GuardProgram,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    watcher: Option<Watcher>,
    /// All groups that the agent has.
    groups: Vec<Pid>,
}

impl Guard {
    /// A guard that is not started yet.
    pub(crate) fn new(program: GuardProgram) -> Arc<Self> {
        let state = Mutex::default();
        Arc::new(Self { program, state })
    }

    /// Names a group to the guard until the returned entry is dropped; `None` if there are too many groups.
    pub(super) fn watch(self: &Arc<Self>, group: Pid) -> Option<Watched> {
        let mut state = self.state();
        if state.groups.len() >= GROUPS_MAX {
            tracing::warn!("a child is not guarded, because there are {GROUPS_MAX} others");
            return None;
        }
        state.groups.push(group);
        self.tell(&mut state, Change::Began(group));
        Some(Watched {
            guard: Arc::clone(self),
            group,
        })
    }

    fn forget(&self, group: Pid) {
        let mut state = self.state();
        state.groups.retain(|other| *other != group);
        self.tell(&mut state, Change::Ended(group));
    }

    fn tell(&self, state: &mut State, change: Change) {
        if let Some(watcher) = &mut state.watcher
            && watcher.tell(&[change]).is_ok()
        {
            return;
        }
        state.watcher = None;
        if state.groups.is_empty() {
            return;
        }
        match Watcher::start(&self.program, &state.groups) {
            Ok(watcher) => state.watcher = Some(watcher),
            Err(error) => tracing::warn!(
                program = %self.program.program.display(), %error,
                "cannot start the guard that ends child processes if the agent is killed"
            ),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A group that the guard ends with the agent, until this is dropped.
#[derive(Debug)]
pub(super) struct Watched {
    guard: Arc<Guard>,
    group: Pid,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.guard.forget(self.group);
    }
}

/// The guard's process, and the pipe to it.
#[derive(Debug)]
struct Watcher {
    /// In front of the pipe, so that it is dropped before: a process that is killed ends no group.
    process: Killed,
    input: ChildStdin,
}

impl Watcher {
    fn start(program: &GuardProgram, groups: &[Pid]) -> io::Result<Self> {
        let mut command = Command::new(&program.program);
        command
            .args(&program.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Keeps no file system busy.
            .current_dir("/")
            // Ctrl-C in a terminal, which ends the agent, does not reach it.
            .process_group(0);
        let mut process = Killed(command.spawn()?);
        let input = process.0.stdin.take();
        let input = input.expect("a piped standard input is there once");
        // A guard that was stopped must not stop the agent.
        ioctl_fionbio(&input, true)?;
        let mut watcher = Self { process, input };
        tracing::debug!(
            pid = watcher.process.0.id(),
            "the guard of child processes runs"
        );
        let changes: Vec<_> = groups.iter().copied().map(Change::Began).collect();
        watcher.tell(&changes)?;
        Ok(watcher)
    }

    fn tell(&mut self, changes: &[Change]) -> io::Result<()> {
        let lines: String = changes.iter().map(|change| change.line()).collect();
        // The system takes a single line as a whole or not at all (pipe(7), PIPE_BUF).
        self.input.write_all(lines.as_bytes())
    }
}

/// A process that is killed when this is dropped.
#[derive(Debug)]
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a line tells the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// The agent has this group.
    Began(Pid),
    /// The group has ended; another one may get the same number.
    Ended(Pid),
}

impl Change {
    fn line(self) -> String {
        match self {
            Self::Began(group) => format!("+{}\n", group.as_raw_nonzero()),
            Self::Ended(group) => format!("-{}\n", group.as_raw_nonzero()),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let (is_new, number) = match line.strip_prefix('+') {
            Some(number) => (true, number),
            None => (false, line.strip_prefix('-')?),
        };
        // A signal to group 1 would reach all processes of the user (kill(2), pid -1).
        let number = number.parse::<i32>().ok();
        let number = number.filter(|number| *number > 1)?;
        let group = Pid::from_raw(number)?;
        Some(match is_new {
            true => Self::Began(group),
            false => Self::Ended(group),
        })
    }
}

/// Is the guard: reads from standard input which process groups the agent has, and ends those that it still has when
/// the input ends. For the hidden subcommand that a [`GuardProgram`] names.
pub(crate) fn run_guard() {
    end(groups_at_end(io::stdin().lock()));
}

/// The groups that are left when the input ends. A read error means the same as the end.
fn groups_at_end(input: impl BufRead) -> Vec<Pid> {
    let mut groups = Vec::new();
    for line in input.lines().map_while(Result::ok) {
        match Change::parse(&line) {
            Some(Change::Began(group)) if groups.len() < GROUPS_MAX => groups.push(group),
            Some(Change::Ended(group)) => groups.retain(|other| *other != group),
            Some(Change::Began(_)) | None => {}
        }
    }
    groups
}

/// Asks groups to terminate, and kills those that have not ended soon after.
fn end(mut groups: Vec<Pid>) {
    // An error means that a group has ended.
    groups.retain(|group| kill_process_group(*group, Signal::TERM).is_ok());
    let until = Instant::now() + TERMINATED_PATIENCE;
    while !groups.is_empty() && Instant::now() < until {
        std::thread::park_timeout(LOOK_INTERVAL);
        groups.retain(|group| test_kill_process_group(*group).is_ok());
    }
    for group in groups {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;
    use crate::stdio::process::tests::{line, shell, soon};
    use crate::stdio::process::{Life, Process};

    /// Set for a run of the test program that is the guard of a test.
    const IS_GUARD: &str = "TIELINE_TEST_IS_GUARD";

    fn group(number: i32) -> Pid {
        Pid::from_raw(number).unwrap()
    }

    /// A guard whose program is this test program, of which one test becomes the guard.
    fn guard() -> Arc<Guard> {
        let (_, module) = module_path!().split_once("::").unwrap();
        let test = format!("{module}::this_test_is_the_guard_of_others");
        let program = std::env::current_exe().unwrap();
        Guard::new(GuardProgram {
            program: "/usr/bin/env".into(),
            arguments: vec![
                format!("{IS_GUARD}=1").into(),
                program.into(),
                test.into(),
                "--exact".into(),
                "--nocapture".into(),
            ],
        })
    }

    #[test]
    fn this_test_is_the_guard_of_others() {
        if std::env::var_os(IS_GUARD).is_some() {
            run_guard();
        }
    }

    /// A child that does not care about its input, and has started another process.
    async fn guarded(guard: &Arc<Guard>) -> Process {
        let command = shell("sleep 600 & echo started; wait");
        let mut process = Process::start(&command, Some(guard)).await.unwrap();
        assert_eq!(line(&mut process.output).await, "started\n");
        process
    }

    #[tokio::test]
    async fn the_children_of_a_killed_agent_are_ended() {
        let guard = guard();
        let Process {
            input: _input,
            mut output,
            mut life,
            ..
        } = guarded(&guard).await;
        // The pipe ends as it does when the agent is killed.
        let watcher = guard.state().watcher.take();
        let Watcher { mut process, input } = watcher.unwrap();
        drop(input);
        let status = soon(life.ended()).await.unwrap();
        assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
        assert_eq!(soon(output.read()).await.unwrap(), None);
        // The guard has nothing left to do.
        assert!(process.0.wait().unwrap().success());
    }

    #[tokio::test]
    async fn the_guard_knows_what_has_ended_and_is_replaced_if_it_has_ended() {
        let guard = guard();
        let first = guarded(&guard).await;
        let second = guarded(&guard).await;
        let group_of = |life: &Life| group(i32::try_from(life.id().unwrap()).unwrap());
        let (first_group, second_group) = (group_of(&first.life), group_of(&second.life));
        assert_eq!(guard.state().groups, [first_group, second_group]);
        if let Some(watcher) = &mut guard.state().watcher {
            watcher.process.0.kill().unwrap();
            watcher.process.0.wait().unwrap();
        }
        drop(first);
        assert_eq!(guard.state().groups, [second_group]);
        let ended = guard.state().watcher.as_mut().unwrap().process.0.try_wait();
        assert_eq!(ended.unwrap(), None);
        drop(second);
        assert!(guard.state().groups.is_empty());
    }

    #[tokio::test]
    async fn a_guard_that_cannot_be_started_stops_no_child() {
        let guard = Guard::new(GuardProgram {
            program: "/nonexistent/guard".into(),
            arguments: Vec::new(),
        });
        let process = guarded(&guard).await;
        assert!(guard.state().watcher.is_none());
        drop(process);
        assert!(guard.state().groups.is_empty());
    }

    #[test]
    fn groups_that_have_ended_are_not_ended_again() {
        let input = "+20\n+30\n-20\n+40\nodd\n\n+\n-50\n".as_bytes();
        assert_eq!(groups_at_end(input), [group(30), group(40)]);
        for change in [Change::Began(group(7)), Change::Ended(group(i32::MAX))] {
            assert_eq!(Change::parse(change.line().trim_end()), Some(change));
        }
    }

    #[test]
    fn no_line_makes_the_guard_signal_all_processes() {
        for line in ["+1", "+0", "+-1", "+-7", "-1", "+99999999999", "7"] {
            assert_eq!(Change::parse(line), None, "{line}");
        }
    }
}
