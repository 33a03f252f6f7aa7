//! Repairs the end of the audit file after a crash or a full disk, so that the file holds only whole lines.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use serde::de::IgnoredAny;

/// How far back from the end the start of the last line is searched, in bytes. A line has a handful of texts of
/// some hundred bytes each; JSON escapes a byte with at most 6.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// What a file ends with.
enum End {
    WholeLine,
    /// The first part of a relay's line, from this byte on.
    HalfLine(u64),
    /// Anything else, unreadable bytes included.
    Other,
}

/// Makes the file end with a whole line: cuts off the half-written line that a killed relay or a full
/// disk left.
///
/// Each relay holds a shared lock while it has the file open, and cuts under an exclusive one, so that no relay
/// cuts off a line another is writing. A reader that also holds a lock costs at most an empty line.
pub(super) fn mend(mut file: &File) -> io::Result<()> {
    // Refused only while another process holds the file exclusively.
    let _ = file.try_lock_shared();
    if let End::WholeLine = end(file)? {
        return Ok(());
    }
    let is_alone = file.try_lock().is_ok();
    // Another relay may have completed the line before this one had the lock.
    let outcome = end(file).and_then(|end| match end {
        End::WholeLine => Ok(()),
        End::HalfLine(start) if is_alone => file.set_len(start),
        End::HalfLine(_) | End::Other => file.write_all(b"\n"),
    });
    let _ = file.try_lock_shared();
    outcome
}

fn end(file: &File) -> io::Result<End> {
    let len = file.metadata()?.len();
    let start = len.saturating_sub(LINE_BYTES_MAX);
    let mut bytes = vec![0; usize::try_from(len - start).unwrap_or_default()];
    if file.read_exact_at(&mut bytes, start).is_err() {
        return Ok(End::Other);
    }
    let whole = bytes.iter().rposition(|byte| *byte == b'\n');
    let torn = &bytes[whole.map_or(0, |at| at + 1)..];
    if torn.is_empty() {
        return Ok(End::WholeLine);
    }
    let is_from_its_start = whole.is_some() || start == 0;
    let is_whole = || serde_json::from_slice::<IgnoredAny>(torn).is_ok();
    if is_from_its_start && torn.starts_with(b"{") && !is_whole() {
        return Ok(End::HalfLine(len - torn.len() as u64));
    }
    Ok(End::Other)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::sync::Barrier;
    use std::thread;

    use super::super::file::AuditFile;
    use crate::config::AuditConfig;

    fn config(folder: &tempfile::TempDir) -> AuditConfig {
        AuditConfig::new(folder.path().join("audit.log"))
    }

    #[test]
    fn half_a_line_of_a_relay_that_was_killed_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder);
        let line = "{\"event\":\"started\"}\n";
        let long = format!("{{\"event\":\"{}\"}}\n", "x".repeat(5_000));
        // File content before the repair, and the part that the repair keeps.
        let mut left = vec![
            (String::new(), ""),
            (line.to_owned(), line),
            (line[..line.len() - 1].to_owned(), line),
            ("{".to_owned(), ""),
            (format!("{line}\u{e4}")[..].to_owned(), "\u{e4}\n"),
            ("not ours".to_owned(), "not ours\n"),
        ];
        for cut in 1..line.len() - 1 {
            left.push((format!("{line}{}", &line[..cut]), line));
        }
        left.push((format!("{line}{}", &long[..4_000]), line));
        for (before, kept) in left {
            fs::write(&config.file, &before).unwrap();
            let mut file = AuditFile::open(&config).unwrap();
            file.add(b"{}\n").unwrap();
            file.flush().unwrap();
            let after = fs::read_to_string(&config.file).unwrap();
            assert!(
                after.ends_with(&format!("{kept}{{}}\n")),
                "{before:?}: {after:?}"
            );
            assert!(!after.contains("\n\n") && after.matches("{}").count() == 1);
        }
    }

    #[test]
    fn a_second_relay_does_not_cut_off_what_the_first_one_writes() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder);
        let first = AuditFile::open(&config).unwrap();
        // The file while the first relay is in the middle of a write.
        fs::write(&config.file, "{\"event\":").unwrap();
        let mut second = AuditFile::open(&config).unwrap();
        second.add(b"{}\n").unwrap();
        second.flush().unwrap();
        let after = fs::read_to_string(&config.file).unwrap();
        assert_eq!(after, "{\"event\":\n{}\n");
        drop(first);
    }

    #[test]
    fn two_relays_that_open_the_file_at_the_same_time_both_hold_a_lock() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder);
        for _ in 0..500 {
            let both = Barrier::new(2);
            let open = || {
                both.wait();
                AuditFile::open(&config).unwrap()
            };
            let (first, second) = thread::scope(|scope| {
                let first = scope.spawn(open);
                (open(), first.join().unwrap())
            });
            drop(first);
            let third = File::open(&config.file).unwrap();
            assert!(third.try_lock().is_err(), "the second relay holds no lock");
            drop(second);
        }
    }
}
