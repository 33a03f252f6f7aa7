//! The end of the audit log's file: whole lines only, whatever a killed relay or a full disk left there.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// How far back the beginning of the last line is looked for. A line has a handful of texts of some
/// hundred bytes each, and a byte takes 6 at most in JSON.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// Makes the file end with a whole line. A relay that was killed while it wrote, and a disk that was
/// full, leave half of one, which no reader of lines understands: it is cut off.
///
/// The lock is held by each relay for as long as it has the file open, so that none cuts off what
/// another one is writing; a reader who holds it as well costs an empty line at most.
pub(super) fn mend(path: &Path, file: &File) -> io::Result<()> {
    let is_alone = file.try_lock().is_ok();
    let outcome = mend_end(path, file, is_alone);
    // Shared from now on. Where that is refused, another relay has the file for itself.
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
        // It may be written and not read.
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
        // What a killed relay may leave, and what is kept of it.
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
        // As it looks while the first one is in the middle of a write.
        fs::write(&config.file, "{\"event\":").unwrap();
        let mut second = RotatedFile::open(&config).unwrap();
        second.add(b"{}\n").unwrap();
        second.flush().unwrap();
        let after = fs::read_to_string(&config.file).unwrap();
        assert_eq!(after, "{\"event\":\n{}\n");
        drop(first);
    }
}
