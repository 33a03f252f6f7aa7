//! Resident memory of a process, from `/proc`.

use std::io;

/// Resident memory of process `pid`, in KiB.
///
/// `smaps_rollup` counts pages. The counters of `statm` may lag behind by some dozen pages per core
/// (proc(5)), which is too much for measuring a thousand idle sessions.
pub(crate) fn resident_kib(pid: u32) -> io::Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path)?;
    rollup_kib(&text).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{path} is not as proc(5) says"),
        )
    })
}

/// Value of the `Rss:` line of `smaps_rollup`, in KiB.
fn rollup_kib(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_line_is_read() {
        let text = "55d2-7ffe ---p 00000000 00:00 0    [rollup]\nRss:    4321 kB\nPss: 12 kB\n";
        assert_eq!(rollup_kib(text), Some(4321));
        assert_eq!(rollup_kib("Pss: 12 kB\n"), None);
    }

    #[test]
    fn our_own_memory_can_be_read() {
        assert!(resident_kib(std::process::id()).is_ok_and(|kib| kib > 100));
    }
}
