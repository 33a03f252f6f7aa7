//! The program of a `stdio:` target: its label, its file, and the events that its processes cause.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use tieline_wire::is_hidden;

use crate::event::{AgentEvent, EventHook};
use crate::stdio::{Command, StdioEvent, Told, program_file};

/// Most characters of a label that come from the name of the program.
const NAME_CHARS_MAX: usize = 40;

/// Bytes of the digest in a label: two programs of one host have the same ones once in 4 billion.
const DIGEST_BYTES: usize = 4;

/// Why a program cannot be started, as far as its file tells.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// There is no such folder to start in.
    #[error("there is no folder {} to start it in", .0.display())]
    Directory(PathBuf),
    /// No folder of PATH has a program of this name.
    #[error("PATH has no program {0} that this user may run")]
    NotInPath(String),
    /// There is no such program at this path.
    #[error("{0} is not a program that this user may run")]
    NotThere(String),
}

/// Finds the file of a command's program, without starting it.
///
/// # Errors
/// [`ProgramError`] says what is missing.
pub(crate) fn find(command: &Command) -> Result<PathBuf, ProgramError> {
    if let Some(directory) = command.directory()
        && !directory.is_dir()
    {
        return Err(ProgramError::Directory(directory.to_owned()));
    }
    let program = command.program();
    program_file(command).ok_or_else(|| {
        let is_path = program.contains(std::path::is_separator);
        let missing = match is_path {
            true => ProgramError::NotThere,
            false => ProgramError::NotInPath,
        };
        missing(program.to_owned())
    })
}

/// Text that tells a command apart from others on the same host: the program's name, and a digest of all words.
pub(super) fn label(command: &Command) -> String {
    let program = command.program();
    let name = Path::new(program).file_name();
    let name = name.map_or(Cow::Borrowed(program), OsStr::to_string_lossy);
    let name = name.chars().filter(|c| !is_hidden(*c));
    let name: String = name.take(NAME_CHARS_MAX).collect();
    let mut context = digest::Context::new(&digest::SHA256);
    for word in std::iter::once(program).chain(command.arguments().iter().map(String::as_str)) {
        context.update(word.as_bytes());
        // No word has this byte, so that other words have another digest.
        context.update(&[0]);
    }
    let digest = context.finish();
    let digest = data_encoding::HEXLOWER.encode(&digest.as_ref()[..DIGEST_BYTES]);
    format!("{name}-{digest}")
}

/// Reports what happens to the processes of `target`.
pub(super) fn teller(target: String, hook: EventHook) -> Told {
    Arc::new(move |event| hook.tell(&event_of(target.clone(), event)))
}

fn event_of(target: String, event: StdioEvent) -> AgentEvent {
    match event {
        StdioEvent::Started { child, pid } => AgentEvent::ChildStarted { target, child, pid },
        StdioEvent::Ended {
            child,
            how,
            last_line,
            is_asked,
        } => AgentEvent::ChildEnded {
            target,
            child,
            message: how,
            last_line,
            is_asked,
        },
        StdioEvent::Failed { reason, pause } => AgentEvent::ChildFailed {
            target,
            message: reason,
            for_s: pause.as_secs(),
        },
        StdioEvent::Stray {
            child,
            line,
            untold,
        } => AgentEvent::StrayLine {
            target,
            child,
            line,
            untold,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label_of(text: &str) -> String {
        label(&Command::parse(text).unwrap())
    }

    #[test]
    fn a_label_names_the_program_and_differs_with_each_word() {
        let all = [
            "npx -y server",
            "npx -y server --all",
            "npx '-y server'",
            "npx '' -y server",
            "/usr/bin/npx -y server",
        ];
        let labels = all.map(label_of);
        for (at, label) in labels.iter().enumerate() {
            assert!(label.starts_with("npx-") && label.len() == 12, "{label}");
            assert!(!labels[at + 1..].contains(label), "{labels:?}");
        }
        // Another value would give tunnels new names.
        assert_eq!(label_of("npx -y server"), label_of("npx  -y 'server'"));
        assert!(label_of(&"é".repeat(500)).chars().count() <= NAME_CHARS_MAX + 9);
    }

    #[test]
    fn what_is_missing_of_a_program_is_named() {
        let find = |text: &str| find(&Command::parse(text).unwrap());
        let error = find("tieline-absent --now").unwrap_err();
        assert_eq!(error, ProgramError::NotInPath("tieline-absent".to_owned()));
        let error = find("/nonexistent/server").unwrap_err();
        assert!(error.to_string().contains("/nonexistent/server"), "{error}");
        let command = Command::parse("server").unwrap();
        let error = super::find(&command.with_directory("/nonexistent")).unwrap_err();
        assert_eq!(error, ProgramError::Directory("/nonexistent".into()));
    }
}
