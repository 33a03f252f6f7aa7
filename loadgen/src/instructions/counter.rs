//! What counts the instructions of a process: the processor where it may be asked, else callgrind.
//!
//! Both count user space only.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

/// One of the two.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Counter {
    /// `perf stat -e instructions:u`.
    Perf,
    /// `valgrind --tool=callgrind`.
    Callgrind,
}

impl Counter {
    /// The one that works here.
    pub(crate) fn find(directory: &Path) -> anyhow::Result<Self> {
        let found = [Self::Perf, Self::Callgrind]
            .into_iter()
            .find(|counter| counter.works(directory));
        found.context(
            "nothing here counts instructions: `perf stat -e instructions:u` does not (virtual \
             machines often lack the processor's counters), and there is no valgrind (apt-get \
             install valgrind)",
        )
    }

    /// Its program.
    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::Perf => "perf",
            Self::Callgrind => "valgrind",
        }
    }

    /// Whether it counts what a program of a moment does.
    fn works(self, directory: &Path) -> bool {
        let [program, arguments @ ..] = &self.in_front("true", directory)[..] else {
            return false;
        };
        let status = Command::new(program)
            .args(arguments)
            .arg("true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success()) && self.total("true", directory).is_ok()
    }

    /// What to put in front of a command line, so that its count is kept under `name`.
    pub(crate) fn in_front(self, name: &str, directory: &Path) -> Vec<OsString> {
        let file = file(name, directory).into_os_string();
        let mut command = vec![OsString::from(self.program())];
        match self {
            Self::Perf => {
                let arguments = ["stat", "-x,", "-e", "instructions:u", "-o"];
                command.extend(arguments.map(OsString::from));
                command.push(file);
            }
            Self::Callgrind => {
                let mut out = OsString::from("--callgrind-out-file=");
                out.push(file);
                command.extend(["--tool=callgrind".into(), out]);
            }
        }
        command.push("--".into());
        command
    }

    /// The count that was kept under `name`, once the process has ended.
    pub(crate) fn total(self, name: &str, directory: &Path) -> anyhow::Result<u64> {
        let file = file(name, directory);
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("{self} left no count of {name}"))?;
        let total = match self {
            Self::Perf => perf_total(&text),
            Self::Callgrind => callgrind_total(&text),
        };
        total.with_context(|| format!("{self} counted nothing of {name}"))
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Perf => "perf stat -e instructions:u",
            Self::Callgrind => "valgrind --tool=callgrind",
        })
    }
}

fn file(name: &str, directory: &Path) -> PathBuf {
    directory.join(format!("{name}.count"))
}

/// The first field of the event's line; words stand there where the machine counts none.
fn perf_total(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.contains("instructions"))?;
    line.split(',').next()?.parse().ok()
}

fn callgrind_total(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("totals: "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_read_from_what_each_writes() {
        let perf = "# started on Mon\n\n123456,,instructions:u,1000,100.00,,\n";
        assert_eq!(perf_total(perf), Some(123_456));
        let missing = "<not supported>,,instructions:u,0,100.00,,\n";
        assert_eq!(perf_total(missing), None);
        let callgrind = "events: Ir\nsummary: 9\n\nfn=(1)\n1 9\n\ntotals: 12\n";
        assert_eq!(callgrind_total(callgrind), Some(12));
        assert_eq!(callgrind_total("events: Ir\n"), None);
    }
}
