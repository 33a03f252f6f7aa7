//! CPU time of a process and of the whole machine, from `/proc`.

use std::io;
use std::time::Duration;

/// CPU time that all threads of a process have used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessTime {
    /// User and system time from `stat`, in clock ticks (usually hundredths of a second).
    counted: Duration,
    /// Run time of the living threads from `schedstat`, in nanoseconds; `None` if the kernel has none.
    exact: Option<Duration>,
}

/// Largest plausible difference between both counters: user and system time are each rounded down.
const ROUNDING_MAX: Duration = Duration::from_millis(30);

impl ProcessTime {
    /// Reads both counters of process `pid`.
    pub(crate) fn read(pid: u32) -> io::Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let line = std::fs::read_to_string(&path)?;
        let ticks = process_ticks(&line).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{path} is not as proc(5) says"),
            )
        })?;
        Ok(Self {
            counted: as_duration(ticks),
            exact: exact_time(pid),
        })
    }

    /// CPU time used since the earlier reading `before`. Exact, unless a thread has ended in between:
    /// its `schedstat` time is then lost, and the coarser `stat` counter is used.
    pub(crate) fn since(self, before: Self) -> Duration {
        let counted = self.counted.saturating_sub(before.counted);
        let exact = self.exact.zip(before.exact);
        exact
            .and_then(|(now, then)| now.checked_sub(then))
            .filter(|exact| exact.abs_diff(counted) <= ROUNDING_MAX)
            .unwrap_or(counted)
    }
}

/// Sum of the first `schedstat` field over all threads (sched-stats.rst); `None` if the kernel does not
/// provide it.
fn exact_time(pid: u32) -> Option<Duration> {
    let mut nanoseconds: u64 = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        let running: u64 = text.split_ascii_whitespace().next()?.parse().ok()?;
        nanoseconds += running;
    }
    Some(Duration::from_nanos(nanoseconds))
}

/// Sum of fields 14 and 15 (utime, stime) of a `/proc/<pid>/stat` line.
///
/// The second field is the program's name in parentheses. The name may contain blanks and parentheses,
/// so the fields are counted from the last closing parenthesis (proc(5)).
fn process_ticks(line: &str) -> Option<u64> {
    let (_, after_name) = line.rsplit_once(')')?;
    // The first field after the name is field 3.
    let mut fields = after_name.split_ascii_whitespace().skip(14 - 3);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

/// CPU time of all cores since the machine started.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct MachineTime {
    /// Time in which a core ran a task or an interrupt: user, nice, system, irq, softirq.
    pub(crate) busy: Duration,
    /// Time in which the hypervisor ran another guest on a core of this machine (steal).
    pub(crate) stolen: Duration,
    /// Number of cores.
    pub(crate) cores: usize,
}

impl MachineTime {
    /// Reads the first line of `/proc/stat`.
    pub(crate) fn read() -> io::Result<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat")?).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "/proc/stat is not as proc(5) says",
            )
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let fields = text.lines().next()?.strip_prefix("cpu ")?;
        let is_core = |line: &&str| {
            line.strip_prefix("cpu")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        let ticks: Vec<u64> = fields
            .split_ascii_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        // user nice system idle iowait irq softirq steal; guest time is part of user.
        let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks[..] else {
            return None;
        };
        Some(Self {
            busy: as_duration(user + nice + system + irq + softirq),
            stolen: as_duration(steal),
            cores: text.lines().filter(is_core).count(),
        })
    }

    /// Shares of the machine, 0 to 1, over `length` since the earlier reading `before`: CPU time of
    /// other processes (busy time less `ours`), and time stolen by the hypervisor.
    pub(crate) fn shares_since(
        &self,
        before: &Self,
        length: Duration,
        ours: Duration,
    ) -> (f64, f64) {
        let capacity = length.mul_f64(self.cores.max(1) as f64).as_secs_f64();
        if capacity == 0.0 {
            return (0.0, 0.0);
        }
        let others = self.busy.saturating_sub(before.busy).saturating_sub(ours);
        let stolen = self.stolen.saturating_sub(before.stolen);
        (
            others.as_secs_f64() / capacity,
            stolen.as_secs_f64() / capacity,
        )
    }
}

fn as_duration(ticks: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_secs(ticks / per_second)
        + Duration::from_nanos((ticks % per_second) * (1_000_000_000 / per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: &str = "S 1 2 3 0 -1 4194560 91 0 0 0 1234 66 0 0 20 0 1 0 5 0 0";

    #[test]
    fn user_and_system_time_are_added() {
        assert_eq!(process_ticks(&format!("42 (sh) {TAIL}")), Some(1300));
    }

    #[test]
    fn a_name_with_blanks_and_parentheses_shifts_no_field() {
        for name in [
            "(tmux: server)",
            "(a) b (c))",
            "())",
            "(Web Content) R 1 2)",
        ] {
            assert_eq!(
                process_ticks(&format!("42 {name} {TAIL}")),
                Some(1300),
                "{name}"
            );
        }
    }

    #[test]
    fn a_short_or_odd_line_is_refused() {
        for line in [
            "",
            "42 (sh",
            "42 (sh) S 1 2",
            "42 (sh) S 1 2 3 0 -1 4 9 0 0 0 x y",
        ] {
            assert_eq!(process_ticks(line), None, "{line}");
        }
    }

    #[test]
    fn idle_time_is_not_busy_and_steal_is_apart() {
        let per_second = rustix::param::clock_ticks_per_second();
        let t = |seconds: u64| seconds * per_second;
        let line = format!(
            "cpu  {} {} {} {} {} {} {} {} 9 9\ncpu0 1 2\ncpu11 3 4\nintr 5\n",
            t(1),
            t(2),
            t(3),
            t(100),
            t(50),
            t(4),
            t(5),
            t(6)
        );
        let expected = MachineTime {
            busy: Duration::from_secs(15),
            stolen: Duration::from_secs(6),
            cores: 2,
        };
        assert_eq!(MachineTime::parse(&line), Some(expected));
    }

    #[test]
    fn what_is_busy_and_not_ours_is_others() {
        let at = |busy, stolen| MachineTime {
            busy: Duration::from_millis(busy),
            stolen: Duration::from_millis(stolen),
            cores: 2,
        };
        let second = Duration::from_secs(1);
        let shares = |ours| at(2500, 200).shares_since(&at(1000, 0), second, ours);
        assert_eq!(shares(Duration::from_millis(1100)), (0.2, 0.1));
        // The two counters are sampled differently, so `ours` may exceed the machine's busy time.
        assert_eq!(shares(Duration::from_millis(1600)), (0.0, 0.1));
    }

    #[test]
    fn the_exact_time_counts_unless_a_thread_took_its_part_with_it() {
        let time = |counted_ms, exact_us: Option<u64>| ProcessTime {
            counted: Duration::from_millis(counted_ms),
            exact: exact_us.map(Duration::from_micros),
        };
        let since = |now: ProcessTime, then| now.since(then);
        let begun = time(100, Some(103_000));
        assert_eq!(
            since(time(120, Some(125_500)), begun),
            Duration::from_micros(22_500)
        );
        // A thread that had used 900 ms has ended in between.
        for exact_us in [Some(203_000), Some(3_000), None] {
            let ended = time(1100, exact_us);
            assert_eq!(since(ended, begun), Duration::from_millis(1000));
        }
    }

    #[test]
    fn our_own_time_can_be_read() {
        assert!(ProcessTime::read(std::process::id()).is_ok());
        assert!(MachineTime::read().is_ok());
    }
}
