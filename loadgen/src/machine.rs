//! Machine, kernel and commit of a measurement. Never the host name: reports are published.

use std::fmt;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, Rlimit};
use rustix::thread::CpuSet;
use serde::Serialize;

/// Hardware and kernel of the machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Model name of the processor.
    pub(crate) cpu_model: String,
    /// Cores that this process may use.
    pub(crate) cores: usize,
    /// Whether the processor reports a hypervisor.
    pub(crate) virtual_machine: bool,
    /// Memory, in MiB.
    pub(crate) memory_mib: u64,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Default congestion control of TCP connections, such as `cubic`.
    pub(crate) congestion_control: String,
}

impl Machine {
    /// Reads the facts from `/proc`.
    pub(crate) fn read() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpu.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory_kib: Option<u64> = read("/proc/meminfo")
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))
            .and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok());
        Self {
            cpu_model: field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: usable_cores().len(),
            virtual_machine: field("flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            memory_mib: memory_kib.unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control")
                .trim()
                .to_owned(),
        }
    }
}

impl Machine {
    /// Kernel release and its default congestion control.
    pub(crate) fn system(&self) -> String {
        format!(
            "Linux {}, congestion control {}",
            self.kernel, self.congestion_control
        )
    }
}

impl fmt::Display for Machine {
    /// Writes all facts but the kernel; reports list [`system`](Self::system) separately.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.virtual_machine {
            ", a virtual machine"
        } else {
            ""
        };
        let Self {
            cpu_model,
            cores,
            memory_mib,
            ..
        } = self;
        write!(f, "{cpu_model}, {cores} cores{kind}, {memory_mib} MiB")
    }
}

/// Numbers of the cores that this process may run on.
pub(crate) fn usable_cores() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU)
            .filter(|core| set.is_set(*core))
            .collect(),
        Err(_) => vec![0],
    }
}

/// Raises the soft limit of open files to the hard limit and returns the limit in effect.
pub(crate) fn raise_open_files_limit() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        // If the kernel refuses, the old limit stays in effect and is returned.
        let _ = rustix::process::setrlimit(Resource::Nofile, raised);
    }
    rustix::process::getrlimit(Resource::Nofile)
        .current
        .unwrap_or(u64::MAX)
}

/// Commit of the working directory, marked if there are uncommitted changes.
pub(crate) fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match (
        git(&["rev-parse", "--short=12", "HEAD"]),
        git(&["status", "--porcelain"]),
    ) {
        (Some(commit), Some(changes)) if changes.is_empty() => commit,
        (Some(commit), _) => format!("{commit} with uncommitted changes"),
        (None, _) => "unknown".to_owned(),
    }
}

/// Command line as typed, without the folder of the binary.
pub(crate) fn command_line() -> String {
    let mut words = vec!["tieline-loadgen".to_owned()];
    words.extend(std::env::args().skip(1));
    words.join(" ")
}

/// A time as `YYYY-MM-DD HH:MM UTC`.
pub(crate) fn utc(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (year, month, day) = date_of(seconds / 86_400);
    let (hour, minute) = (seconds % 86_400 / 3600, seconds % 3600 / 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// Gregorian date (year, month, day) of the day `days` after 1970-01-01.
fn date_of(days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut year, mut rest) = (1970, days);
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if rest < length {
            break;
        }
        rest -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if rest < length {
            break;
        }
        rest -= length;
        month += 1;
    }
    (year, month, rest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_right_at_the_edges() {
        assert_eq!(date_of(0), (1970, 1, 1));
        assert_eq!(date_of(59), (1970, 3, 1));
        assert_eq!(date_of(11_016), (2000, 2, 29));
        assert_eq!(date_of(20_453), (2025, 12, 31));
        assert_eq!(date_of(20_454), (2026, 1, 1));
        let time = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(utc(time), "2023-11-14 22:13 UTC");
    }

    #[test]
    fn the_machine_has_cores_and_a_kernel() {
        let machine = Machine::read();
        assert!(machine.cores >= 1 && !machine.kernel.is_empty());
    }
}
