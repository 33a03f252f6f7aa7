//! Starts a child with its pipes, its folder and its environment.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::find::is_path;
use super::input::Input;
use super::output::Output;
use super::stderr::{Log, listen};
use super::{Group, Guard, Life, Process};
use crate::stdio::Command;

/// Attempts to start a child, if an earlier one has met an obstacle that passes by itself.
const ATTEMPTS: u32 = 5;

/// Wait after the first of these attempts; it doubles with each further one, so that all of them take 0.75 s.
const RETRY_AFTER: Duration = Duration::from_millis(50);

impl Process {
    /// Starts a child; `guard` ends it if the agent is killed.
    ///
    /// # Errors
    /// [`StartError`] says why there is none.
    pub(crate) async fn start(
        command: &Command,
        guard: Option<&Arc<Guard>>,
    ) -> Result<Self, StartError> {
        if let Some(directory) = command.directory()
            && !directory.is_dir()
        {
            return Err(StartError::Directory(directory.to_owned()));
        }
        let started = retried(|| Group::spawn(prepared(command), guard)).await;
        let mut group = started.map_err(|source| StartError::of(command, source))?;
        let pipes = group.take_pipes();
        let (input, output, errors) = pipes.expect("all three pipes are there once");
        let log = Log::default();
        let listener = tokio::spawn(listen(errors, log.clone()));
        Ok(Self {
            input: Input::new(input),
            output: Output::new(output),
            log,
            life: Life::new(group, listener),
        })
    }
}

/// Why a child was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// There is no such program.
    #[error("cannot start {program}: {}", missing(program))]
    NotFound {
        /// The program as it was given.
        program: String,
    },
    /// The file is there, but the program that its first line names is not.
    #[error(
        "cannot start {program}: the file is there, but not the interpreter that its first line \
         names"
    )]
    Interpreter {
        /// The program as it was given.
        program: String,
    },
    /// The file may not be executed.
    #[error("cannot start {program}: this user may not execute it")]
    NotExecutable {
        /// The program as it was given.
        program: String,
    },
    /// There is no such folder to start the child in.
    #[error("cannot start a program in {}: no such folder", .0.display())]
    Directory(PathBuf),
    /// The system has no room for another process, or the file is being written; also after further attempts.
    #[error("cannot start {program} for now: {source}")]
    Busy {
        /// The program as it was given.
        program: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The system's error.
    #[error("cannot start {program}: {source}")]
    Failed {
        /// The program as it was given.
        program: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

impl StartError {
    fn of(command: &Command, source: io::Error) -> Self {
        let program = command.program().to_owned();
        match source.kind() {
            io::ErrorKind::NotFound if is_there(command) => Self::Interpreter { program },
            io::ErrorKind::NotFound => Self::NotFound { program },
            io::ErrorKind::PermissionDenied => Self::NotExecutable { program },
            _ if passes(&source) => Self::Busy { program, source },
            _ => Self::Failed { program, source },
        }
    }
}

/// What is missing if `program` is not found.
fn missing(program: &str) -> &'static str {
    match is_path(program) {
        true => "no such file",
        false => "no program of this name is in PATH",
    }
}

/// True if the command gives the path of a file that is there.
fn is_there(command: &Command) -> bool {
    let folder = command.directory().map(PathBuf::from).unwrap_or_default();
    is_path(command.program()) && folder.join(command.program()).is_file()
}

/// True for an error that may be over soon: the limit of processes (EAGAIN), or an executable that is still being
/// written, for example by an installer (ETXTBSY).
fn passes(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::ExecutableFileBusy
    )
}

async fn retried<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut wait = RETRY_AFTER;
    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(error) if passes(&error) => {
                tracing::debug!(%error, "cannot start a child, and tries again");
                sleep(wait).await;
                wait *= 2;
            }
            outcome => return outcome,
        }
    }
    attempt()
}

fn prepared(command: &Command) -> tokio::process::Command {
    let environment = command.environment(std::env::vars_os());
    let mut prepared = tokio::process::Command::new(program(command));
    prepared
        .args(command.arguments())
        .env_clear()
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(directory) = command.directory() {
        prepared.current_dir(directory);
    }
    prepared
}

/// The program to start. The system looks for a name in the child's own PATH, and for a relative path in its folder.
#[cfg(unix)]
fn program(command: &Command) -> &str {
    command.program()
}

/// The program to start: a name alone would mean an `.exe` file.
#[cfg(windows)]
fn program(command: &Command) -> PathBuf {
    super::find::program_file(command).unwrap_or_else(|| command.program().into())
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_obstacle_that_passes_is_waited_for() {
        let mut left = 2;
        let outcome = retried(|| match left {
            0 => Ok("started"),
            _ => {
                left -= 1;
                Err(io::ErrorKind::ExecutableFileBusy.into())
            }
        });
        assert_eq!(outcome.await.unwrap(), "started");
    }

    #[tokio::test(start_paused = true)]
    async fn an_obstacle_that_stays_is_reported_in_less_than_a_second() {
        let (began, mut count) = (Instant::now(), 0);
        let outcome = retried(|| -> io::Result<()> {
            count += 1;
            Err(io::ErrorKind::WouldBlock.into())
        });
        let error = outcome.await.unwrap_err();
        assert_eq!(count, ATTEMPTS);
        assert!(began.elapsed() < Duration::from_secs(1));
        let command = Command::parse("server --now").unwrap();
        let error = StartError::of(&command, error);
        assert!(matches!(error, StartError::Busy { .. }), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_that_stays_is_reported_at_once() {
        let (began, mut count) = (Instant::now(), 0);
        let outcome = retried(|| -> io::Result<()> {
            count += 1;
            Err(io::ErrorKind::NotFound.into())
        });
        assert_eq!(outcome.await.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!((count, began.elapsed()), (1, Duration::ZERO));
    }
}
