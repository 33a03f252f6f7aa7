//! Repairs the end of the audit file after a crash or a full disk, so that the file holds only whole lines.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// How far back from the end the start of the last line is searched, in bytes. A line has a handful of texts of
/// some hundred bytes each; JSON escapes a byte with at most 6.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// Makes the file end with a whole line: cuts off the half-written line that a killed relay or a full
/// disk left.
///
/// Each relay holds a lock while it has the file open, so that no relay cuts off a line another is
/// writing. A reader that also holds a lock costs at most an empty line.
pub(super) fn mend(path: &Path, file: &File) -> io::Result<()> {
    let is_alone = file.try_lock().is_ok();
    let outcome = mend_end(path, file, is_alone);
    // Keep a shared lock. It is refused only while another relay holds the file exclusively.
    let _ = file.try_lock_shared();
    outcome
}

fn mend_end(path: &Path, mut file: &File, is_alone: bool) -> io::Result<()> {
    let len = file.metadata()?.len();
    let start = len.saturating_sub(LINE_BYTES_MAX);
    let mut end = Vec::new();
    match File::open(path) {
        Ok(mut reader) => {
            reader.seek(SeekFrom::Start(start))?;
            reader.take(LINE_BYTES_MAX).read_to_end(&mut end)?;
        }
        // The file can be writable without being readable.
        Err(_) if len > 0 => return file.write_all(b"\n"),
        Err(_) => return Ok(()),
    }
    let whole = end.iter().rposition(|byte| *byte == b'\n');
    let torn = &end[whole.map_or(0, |at| at + 1)..];
    if torn.is_empty() {
        return Ok(());
    }
    let is_ours = torn.starts_with(b"{") && (whole.is_some() || start == 0);
    let is_whole = serde_json::from_slice::<serde::de::IgnoredAny>(torn).is_ok();
    if is_alone && is_ours && !is_whole {
        return file.set_len(len - torn.len() as u64);
    }
    file.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::file::RotatedFile;
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
            let mut file = RotatedFile::open(&config).unwrap();
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
        let first = RotatedFile::open(&config).unwrap();
        // The file while the first relay is in the middle of a write.
        fs::write(&config.file, "{\"event\":").unwrap();
        let mut second = RotatedFile::open(&config).unwrap();
        second.add(b"{}\n").unwrap();
        second.flush().unwrap();
        let after = fs::read_to_string(&config.file).unwrap();
        assert_eq!(after, "{\"event\":\n{}\n");
        drop(first);
    }
}
