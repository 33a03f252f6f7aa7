//! The file of the audit log: readable by its owner and group only, rotated by size.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::whole_lines::mend;
use crate::config::AuditConfig;

/// Mode of a new file. An operator may later let a group read it; wider modes are taken back.
const MODE: u32 = 0o600;
const MODE_WIDEST: u32 = 0o640;

/// Bytes collected for one write.
const WRITE_BYTES: usize = 64 * 1024;

/// An append-only file that is renamed and started anew when it reaches its size limit.
#[derive(Debug)]
pub(super) struct RotatedFile {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    /// The open file; absent after an error or a rotation, until the next write.
    file: Option<File>,
    len: u64,
    /// Whole lines not yet written; `lines` is their number.
    waiting: Vec<u8>,
    lines: u64,
}

impl RotatedFile {
    /// Opens the file for appending, after removing a half-written last line.
    pub(super) fn open(config: &AuditConfig) -> io::Result<Self> {
        let mut it = Self {
            path: config.file.clone(),
            max_bytes: config.max_bytes,
            keep: config.keep,
            file: None,
            len: 0,
            waiting: Vec::new(),
            lines: 0,
        };
        it.file()?;
        Ok(it)
    }

    fn file(&mut self) -> io::Result<&mut File> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let file = open(&self.path)?;
                self.len = file.metadata()?.len();
                file
            }
        };
        Ok(self.file.insert(file))
    }

    /// Closes the file; the next write opens the file that then has the configured name.
    pub(super) fn reopen(&mut self) {
        self.file = None;
    }

    /// Adds a line, line break included. The line is buffered until [`WRITE_BYTES`] are collected or
    /// [`RotatedFile::flush`] is called.
    ///
    /// # Errors
    /// The number of lines that were lost, and the cause.
    pub(super) fn add(&mut self, line: &[u8]) -> Result<(), (u64, io::Error)> {
        let ahead = self.len + self.waiting.len() as u64;
        if ahead > 0 && ahead + line.len() as u64 > self.max_bytes {
            // A failed flush loses this line too.
            self.flush().map_err(|(lost, error)| (lost + 1, error))?;
            if let Err(error) = self.rotate() {
                // Writing goes on in the current file; the next line tries to rotate again.
                tracing::debug!(%error, "the audit log was not rotated");
            }
        }
        self.waiting.extend_from_slice(line);
        self.lines += 1;
        if self.waiting.len() >= WRITE_BYTES {
            return self.flush();
        }
        Ok(())
    }

    /// Writes the buffered lines.
    ///
    /// # Errors
    /// The number of lines that were lost, and the cause.
    pub(super) fn flush(&mut self) -> Result<(), (u64, io::Error)> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        let (written, outcome) = self.write(&waiting);
        let lost = self.lines - whole_lines(&waiting[..written]);
        self.lines = 0;
        waiting.clear();
        self.waiting = waiting;
        outcome.map_err(|error| {
            // Opening the file again cuts off a half-written last line.
            self.file = None;
            (lost, error)
        })
    }

    /// Writes `waiting`; also returns the number of bytes the file took.
    fn write(&mut self, waiting: &[u8]) -> (usize, io::Result<()>) {
        let file = match self.file() {
            Ok(file) => file,
            Err(error) => return (0, Err(error)),
        };
        let mut written = 0;
        while written < waiting.len() {
            match file.write(&waiting[written..]) {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (written, Err(error)),
            }
        }
        // Another process may have truncated the file.
        let len = file.metadata().map(|it| it.len());
        (written, len.map(|len| self.len = len))
    }

    /// Syncs the written data to disk, so it survives a crash of the machine.
    pub(super) fn sync(&self) {
        if let Some(file) = &self.file {
            // Called while the relay stops: the failure is not reported.
            let _ = file.sync_data();
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        if !self.path.try_exists()? {
            // Another process moved the file away: nothing to rotate, and the open file has no reader.
            self.reopen();
            self.len = 0;
            return Ok(());
        }
        if self.keep == 0 {
            fs::remove_file(&self.path)?;
        } else {
            for number in (1..self.keep).rev() {
                match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            fs::rename(&self.path, self.numbered(1))?;
        }
        self.reopen();
        self.len = 0;
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Opening a named pipe would block until it has a reader.
    if fs::metadata(path).is_ok_and(|it| !it.is_file()) {
        let text = "it is not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(MODE)
        .open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & !MODE_WIDEST != 0 {
        file.set_permissions(Permissions::from_mode(mode & MODE_WIDEST))?;
    }
    mend(path, &file)?;
    Ok(file)
}

fn whole_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn config(folder: &tempfile::TempDir, max_bytes: u64, keep: u32) -> AuditConfig {
        AuditConfig {
            file: folder.path().join("audit.log"),
            max_bytes,
            keep,
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn files(folder: &tempfile::TempDir) -> Vec<(String, String)> {
        let entries = fs::read_dir(folder.path()).unwrap();
        let mut files: Vec<_> = entries
            .map(|it| {
                let path = it.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, fs::read_to_string(path).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    #[test]
    fn a_full_file_is_renamed_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = RotatedFile::open(&config(&folder, 10, 2)).unwrap();
        for line in [
            "one\n", "two\n", "three\n", "four\n", "five\n", "six\n", "seven\n",
        ] {
            file.add(line.as_bytes()).unwrap();
        }
        file.flush().unwrap();
        let found: Vec<_> = files(&folder);
        let wanted = [
            ("audit.log", "six\nseven\n"),
            ("audit.log.1", "four\nfive\n"),
            ("audit.log.2", "three\n"),
        ];
        let wanted = wanted.map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(found, wanted);
        for (name, _) in found {
            assert_eq!(mode(&folder.path().join(name)), MODE);
        }
    }

    #[test]
    fn a_file_that_was_moved_away_costs_no_older_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = RotatedFile::open(&config(&folder, 10, 2)).unwrap();
        for line in ["one\n", "two\n", "three\n"] {
            file.add(line.as_bytes()).unwrap();
        }
        file.flush().unwrap();
        fs::rename(folder.path().join("audit.log"), folder.path().join("x")).unwrap();
        for line in ["four\n", "five\n", "six\n"] {
            file.add(line.as_bytes()).unwrap();
        }
        file.flush().unwrap();
        let found = files(&folder);
        let names: Vec<_> = found.iter().map(|it| it.0.as_str()).collect();
        assert!(
            names.contains(&"audit.log") && names.contains(&"x"),
            "{found:?}"
        );
        let all: String = found.iter().map(|it| it.1.as_str()).collect();
        for line in ["one\n", "two\n", "six\n"] {
            assert!(all.contains(line), "{found:?}");
        }
    }

    #[test]
    fn none_may_be_kept_and_what_was_there_counts() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("audit.log"), "before\n").unwrap();
        let mut file = RotatedFile::open(&config(&folder, 12, 0)).unwrap();
        file.add(b"one\n").unwrap();
        file.flush().unwrap();
        assert_eq!(files(&folder)[0].1, "before\none\n");
        file.add(b"two\n").unwrap();
        file.flush().unwrap();
        assert_eq!(
            files(&folder),
            [("audit.log".to_owned(), "two\n".to_owned())]
        );
    }

    #[test]
    fn others_cannot_read_what_was_open_to_them() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder, 100, 1);
        for (before, after) in [
            (0o644, 0o640),
            (0o666, 0o640),
            (0o600, 0o600),
            (0o640, 0o640),
        ] {
            fs::write(&config.file, "").unwrap();
            fs::set_permissions(&config.file, Permissions::from_mode(before)).unwrap();
            RotatedFile::open(&config).unwrap();
            assert_eq!(mode(&config.file), after, "{before:o}");
        }
    }

    #[test]
    fn after_a_move_from_outside_the_name_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder, 100, 1);
        let mut file = RotatedFile::open(&config).unwrap();
        file.add(b"one\n").unwrap();
        file.flush().unwrap();
        fs::rename(&config.file, folder.path().join("moved")).unwrap();
        file.reopen();
        file.add(b"two\n").unwrap();
        file.flush().unwrap();
        assert_eq!(fs::read_to_string(&config.file).unwrap(), "two\n");
    }

    #[test]
    fn a_write_that_fails_says_how_many_lines_it_cost_and_the_next_begins_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder, 1000, 1);
        let mut file = RotatedFile::open(&config).unwrap();
        // Fails every write like a full disk.
        file.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        file.add(b"one\n").unwrap();
        file.add(b"two\n").unwrap();
        let (lost, error) = file.flush().unwrap_err();
        assert_eq!((lost, error.kind()), (2, io::ErrorKind::StorageFull));
        file.add(b"three\n").unwrap();
        file.flush().unwrap();
        assert_eq!(fs::read_to_string(&config.file).unwrap(), "three\n");
    }

    #[test]
    fn a_write_that_breaks_off_counts_the_lines_that_are_missing() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder, 1_000_000, 1);
        let mut file = RotatedFile::open(&config).unwrap();
        // A full pipe takes part of a write, then fails with WouldBlock.
        let flags = rustix::pipe::PipeFlags::NONBLOCK;
        let (mut reads, writes) = rustix::pipe::pipe_with(flags)
            .map(|(reads, writes)| {
                rustix::pipe::fcntl_setpipe_size(&writes, 4096).unwrap();
                (File::from(reads), File::from(writes))
            })
            .unwrap();
        file.file = Some(writes);
        let line = [&[b'x'; 99][..], b"\n"].concat();
        for _ in 0..100 {
            file.add(&line).unwrap();
        }
        let (lost, _) = file.flush().unwrap_err();
        let mut taken = vec![0; 10_000];
        let taken = reads.read(&mut taken).unwrap();
        assert_eq!(lost, 100 - taken as u64 / 100);
        assert!(lost > 0 && lost < 100, "{lost}");
    }

    #[test]
    fn a_pipe_and_a_folder_are_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut it = config(&folder, 100, 1);
        it.file = folder.path().to_owned();
        assert!(RotatedFile::open(&it).is_err());
        it.file = "/dev/null".into();
        assert!(RotatedFile::open(&it).is_err());
    }
}
