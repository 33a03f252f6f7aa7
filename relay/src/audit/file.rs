//! The file of the audit log: readable by its owner and group only, and bounded in size.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tracing::info;

use super::whole_lines::mend;
use crate::config::AuditConfig;

/// Mode of a new file. An operator may later let a group read it; wider modes are taken back.
const MODE: u32 = 0o600;
const MODE_WIDEST: u32 = 0o640;

/// Most bytes collected for one write. The smallest size limit is as large, so that one write fits into an empty file.
const WRITE_BYTES: usize = 64 * 1024;

/// An append-only file. Before each write it is opened anew if its name leads elsewhere, because a log rotation moved
/// it or another relay put it aside; before it outgrows its limit it is put aside in the place of the one before.
#[derive(Debug)]
pub(super) struct AuditFile {
    path: PathBuf,
    /// Name of the file that was put aside.
    full: PathBuf,
    max_bytes: u64,
    /// The open file; absent after an error, until the next write.
    file: Option<File>,
    /// Whole lines not yet written.
    waiting: Vec<u8>,
}

impl AuditFile {
    /// Opens the file for appending, after removing a half-written last line.
    pub(super) fn open(config: &AuditConfig) -> io::Result<Self> {
        let mut full = config.file.clone().into_os_string();
        full.push(".old");
        let mut it = Self {
            path: config.file.clone(),
            full: full.into(),
            max_bytes: config.max_bytes,
            file: None,
            waiting: Vec::new(),
        };
        it.file_for(0)?;
        Ok(it)
    }

    /// The file that has the name now, with room for `more` bytes.
    fn file_for(&mut self, more: usize) -> io::Result<&mut File> {
        self.file.take_if(|file| !leads_to(&self.path, file));
        let mut file = match self.file.take() {
            Some(file) => file,
            None => open(&self.path)?,
        };
        let len = file.metadata()?.len();
        if len > 0 && len + more as u64 > self.max_bytes {
            fs::rename(&self.path, &self.full)?;
            info!(file = %self.full.display(), "the audit log is full and was put aside");
            drop(file);
            file = open(&self.path)?;
        }
        Ok(self.file.insert(file))
    }

    /// Adds a line, line break included. The line is buffered until [`WRITE_BYTES`] are collected or
    /// [`AuditFile::flush`] is called.
    ///
    /// # Errors
    /// The number of earlier lines that were lost, and the cause.
    pub(super) fn add(&mut self, line: &[u8]) -> Result<(), (u64, io::Error)> {
        let is_full = self.waiting.len() + line.len() > WRITE_BYTES;
        let outcome = if is_full { self.flush() } else { Ok(()) };
        self.waiting.extend_from_slice(line);
        outcome
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
        let lost = waiting[written..].iter().filter(|it| **it == b'\n').count() as u64;
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
        let file = match self.file_for(waiting.len()) {
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
        (written, Ok(()))
    }

    /// Syncs the written data to disk, so it survives a crash of the machine.
    pub(super) fn sync(&self) {
        if let Some(file) = &self.file {
            // Called while the relay stops: the failure is not reported.
            let _ = file.sync_data();
        }
    }
}

/// Whether `path` is still the name of `file`; also true if that cannot be found out.
fn leads_to(path: &Path, file: &File) -> bool {
    match (fs::metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => (named.dev(), named.ino()) == (open.dev(), open.ino()),
        (Err(error), _) => error.kind() != io::ErrorKind::NotFound,
        (_, Err(_)) => true,
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Opening a named pipe would block until it has a reader.
    if fs::metadata(path).is_ok_and(|it| !it.is_file()) {
        let text = "it is not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(MODE);
    // The file can be writable without being readable.
    let readable = options.clone().read(true).open(path);
    let file = readable.or_else(|_| options.open(path))?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & !MODE_WIDEST != 0 {
        file.set_permissions(Permissions::from_mode(mode & MODE_WIDEST))?;
    }
    mend(&file)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    fn config(folder: &tempfile::TempDir, max_bytes: u64) -> AuditConfig {
        AuditConfig {
            file: folder.path().join("audit.log"),
            max_bytes,
        }
    }

    /// Writes each line in a write of its own.
    fn write(file: &mut AuditFile, lines: &[&str]) {
        for line in lines {
            file.add(format!("{line}\n").as_bytes()).unwrap();
            file.flush().unwrap();
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

    #[track_caller]
    fn assert_files(folder: &tempfile::TempDir, wanted: &[(&str, &str)]) {
        let found = files(folder);
        let found = found.iter().map(|(name, text)| (&name[..], &text[..]));
        assert_eq!(found.collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn a_full_file_is_put_aside_in_place_of_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = AuditFile::open(&config(&folder, 10)).unwrap();
        write(&mut file, &["one", "two", "three"]);
        assert_files(
            &folder,
            &[("audit.log", "three\n"), ("audit.log.old", "one\ntwo\n")],
        );
        write(&mut file, &["four", "five"]);
        assert_files(
            &folder,
            &[("audit.log", "four\nfive\n"), ("audit.log.old", "three\n")],
        );
        for name in ["audit.log", "audit.log.old"] {
            assert_eq!(mode(&folder.path().join(name)), MODE);
        }
    }

    #[test]
    fn lines_from_before_the_start_count_towards_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder, 12);
        fs::write(&config.file, "before\n").unwrap();
        let mut file = AuditFile::open(&config).unwrap();
        write(&mut file, &["one"]);
        assert_files(&folder, &[("audit.log", "before\none\n")]);
        write(&mut file, &["two"]);
        let aside = ("audit.log.old", "before\none\n");
        assert_files(&folder, &[("audit.log", "two\n"), aside]);
        fs::write(&config.file, "longer than the limit\n").unwrap();
        AuditFile::open(&config).unwrap();
        let aside = ("audit.log.old", "longer than the limit\n");
        assert_files(&folder, &[("audit.log", ""), aside]);
    }

    #[test]
    fn no_flood_makes_a_file_longer_than_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let max_bytes = WRITE_BYTES as u64;
        let mut file = AuditFile::open(&config(&folder, max_bytes)).unwrap();
        for number in 0..5_000 {
            file.add(format!("{number:099}\n").as_bytes()).unwrap();
            for (name, text) in files(&folder) {
                assert!(text.len() as u64 <= max_bytes, "{name}: {}", text.len());
            }
        }
        file.flush().unwrap();
        let files = files(&folder);
        assert_eq!(files.len(), 2);
        assert!(files[0].1.ends_with("4999\n"), "{files:?}");
    }

    #[test]
    fn a_full_file_that_cannot_be_put_aside_takes_no_line_and_keeps_what_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder, 10);
        let mut file = AuditFile::open(&config).unwrap();
        write(&mut file, &["one", "two"]);
        let in_the_way = folder.path().join("audit.log.old");
        fs::create_dir(&in_the_way).unwrap();
        for _ in 0..2 {
            file.add(b"three\n").unwrap();
            let (lost, error) = file.flush().unwrap_err();
            assert_eq!((lost, error.kind()), (1, io::ErrorKind::IsADirectory));
            assert_eq!(fs::read_to_string(&config.file).unwrap(), "one\ntwo\n");
        }
        fs::remove_dir(&in_the_way).unwrap();
        write(&mut file, &["four"]);
        assert_files(
            &folder,
            &[("audit.log", "four\n"), ("audit.log.old", "one\ntwo\n")],
        );
    }

    #[test]
    fn others_cannot_read_what_was_open_to_them() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder, 100);
        for (before, after) in [
            (0o644, 0o640),
            (0o666, 0o640),
            (0o600, 0o600),
            (0o640, 0o640),
        ] {
            fs::write(&config.file, "").unwrap();
            fs::set_permissions(&config.file, Permissions::from_mode(before)).unwrap();
            AuditFile::open(&config).unwrap();
            assert_eq!(mode(&config.file), after, "{before:o}");
        }
    }

    #[test]
    fn a_file_that_was_moved_or_removed_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder, 10);
        let mut file = AuditFile::open(&config).unwrap();
        write(&mut file, &["one", "two"]);
        fs::rename(&config.file, folder.path().join("moved")).unwrap();
        // The new file has room, so nothing is put aside.
        write(&mut file, &["three"]);
        assert_files(
            &folder,
            &[("audit.log", "three\n"), ("moved", "one\ntwo\n")],
        );
        fs::remove_file(&config.file).unwrap();
        write(&mut file, &["four"]);
        assert_files(&folder, &[("audit.log", "four\n"), ("moved", "one\ntwo\n")]);
        assert_eq!(mode(&config.file), MODE);
    }

    /// Two relays write to one file during a take-over.
    #[test]
    fn two_relays_and_a_log_rotation_lose_no_line() {
        const ROTATIONS: usize = 200;
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder, 1 << 30);
        let is_over = AtomicBool::new(false);
        let mut wanted = Vec::new();
        thread::scope(|scope| {
            let relays = ["old", "new"].map(|relay| {
                let (mut file, is_over) = (AuditFile::open(&config).unwrap(), &is_over);
                scope.spawn(move || {
                    let mut lines = Vec::new();
                    while !is_over.load(Ordering::Relaxed) {
                        let line = format!("{{\"relay\":\"{relay}\",\"line\":{}}}", lines.len());
                        write(&mut file, &[&line]);
                        lines.push(line);
                    }
                    lines
                })
            });
            for number in 0..ROTATIONS {
                let moved = folder.path().join(format!("audit.log.{number}"));
                while fs::rename(&config.file, &moved).is_err() {
                    thread::yield_now();
                }
            }
            is_over.store(true, Ordering::Relaxed);
            for relay in relays {
                wanted.extend(relay.join().unwrap());
            }
        });
        let files = files(&folder);
        // A relay that opens the file in the middle of another's write may add an empty line.
        let lines = files.iter().flat_map(|(_, text)| text.lines());
        let mut found: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
        found.sort_unstable();
        wanted.sort_unstable();
        assert!(files.len() >= ROTATIONS && found == wanted);
    }

    #[test]
    fn a_write_that_fails_says_how_many_lines_it_cost_and_the_next_begins_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder, 1000);
        let mut file = AuditFile::open(&config).unwrap();
        // Fails every write like a full disk.
        fs::remove_file(&config.file).unwrap();
        symlink("/dev/full", &config.file).unwrap();
        file.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        file.add(b"one\n").unwrap();
        file.add(b"two\n").unwrap();
        let (lost, error) = file.flush().unwrap_err();
        assert_eq!((lost, error.kind()), (2, io::ErrorKind::StorageFull));
        fs::remove_file(&config.file).unwrap();
        write(&mut file, &["three"]);
        assert_files(&folder, &[("audit.log", "three\n")]);
    }

    #[test]
    fn a_write_that_breaks_off_counts_the_lines_that_are_missing() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder, 1_000_000);
        let mut file = AuditFile::open(&config).unwrap();
        // A full pipe takes part of a write, then fails with WouldBlock.
        let flags = rustix::pipe::PipeFlags::NONBLOCK;
        let (mut reads, writes) = rustix::pipe::pipe_with(flags)
            .map(|(reads, writes)| {
                rustix::pipe::fcntl_setpipe_size(&writes, 4096).unwrap();
                (File::from(reads), File::from(writes))
            })
            .unwrap();
        fs::remove_file(&config.file).unwrap();
        symlink(
            format!("/proc/self/fd/{}", writes.as_raw_fd()),
            &config.file,
        )
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
        let mut it = config(&folder, 100);
        it.file = folder.path().to_owned();
        assert!(AuditFile::open(&it).is_err());
        it.file = "/dev/null".into();
        assert!(AuditFile::open(&it).is_err());
    }
}
