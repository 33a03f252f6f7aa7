//! Instruction counter for a process: the processor's counters if `perf` can read them, else callgrind.
//!
//! Both count user space only.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

/// Tool that counts instructions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Counter {
    /// `perf stat -e instructions:u`.
    Perf,
    /// `valgrind --tool=callgrind`.
    Callgrind,
}

impl Counter {
    /// The first counter that works on this machine.
    pub(crate) fn find(directory: &Path) -> anyhow::Result<Self> {
        let found = [Self::Perf, Self::Callgrind]
            .into_iter()
            .find(|counter| counter.works(directory));
        found.context(
            "cannot count instructions: `perf stat -e instructions:u` does not work here (virtual \
             machines often lack the processor's counters), and valgrind is not installed (apt-get \
             install valgrind)",
        )
    }

    /// Name of the tool's binary.
    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::Perf => "perf",
            Self::Callgrind => "valgrind",
        }
    }

    /// Whether the counter works: counts the instructions of `true` and reads the result.
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

    /// Command prefix that runs a program under this counter and saves the count as `name`.
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

    /// Count saved as `name`; read it after the process has ended.
    pub(crate) fn total(self, name: &str, directory: &Path) -> anyhow::Result<u64> {
        let file = file(name, directory);
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("{self} saved no count for {name}"))?;
        let total = match self {
            Self::Perf => perf_total(&text),
            Self::Callgrind => callgrind_total(&text),
        };
        total.with_context(|| format!("{self} saved no valid count for {name}"))
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

/// First field of the event's line; perf writes text there if the machine cannot count the event.
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
