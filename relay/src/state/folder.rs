//! The state folder: its permissions, its lock, and files that are replaced as a whole.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::geteuid;

use crate::error::{ConfigError, StartError};

/// Mode of the folder, and of the files in it.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Mode bits that the folder must not have: with them, other users could put files into it.
const FOLDER_MODE_FORBIDDEN: u32 = 0o022;

/// Mode bits that a file must not have: with them, other users could read or change it.
const FILE_MODE_FORBIDDEN: u32 = 0o077;

/// Longest part of a short file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4096;

/// The locked file; it contains the process id of the relay that has the folder.
const LOCK_FILE: &str = "lock";

/// Time for which a locked folder is tried again: the other relay may have ended a moment ago.
const TAKEN_TIMEOUT: Duration = Duration::from_millis(500);
const TAKEN_PAUSE: Duration = Duration::from_millis(5);

/// A folder that only this relay's user can change.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

/// The lock on the folder; the folder is free once the lock and all its copies are dropped.
///
/// The lock belongs to the open file description (flock(2)), so a process with a copy of the descriptor has it too,
/// and the folder is never free during a hand-over.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// The lock that another process has passed on.
    pub(crate) fn passed_on(fd: OwnedFd) -> Self {
        Self(fd.into())
    }

    /// A copy of the lock for another process.
    pub(super) fn copy(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Writes this process's id into the file, for the message to a relay that is refused; the lock holds without it.
    pub(super) fn note_holder(&self) {
        let text = format!("{}\n", std::process::id());
        let _ = self.0.set_len(0);
        let _ = self.0.write_all_at(text.as_bytes(), 0);
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Folder {
    /// Opens the folder, and creates it if it is missing. Does not lock it.
    ///
    /// # Errors
    /// The folder cannot be created, belongs to another user, or can be changed by other users.
    pub(crate) fn open(path: &Path) -> Result<Self, StartError> {
        let failed = |problem: String| StartError::state(path, problem);
        let unfit = |problem: String| {
            let path = path.to_owned();
            StartError::Config(ConfigError::Content { path, problem })
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(FOLDER_MODE);
        builder
            .create(path)
            .map_err(|source| failed(format!("cannot be created: {source}")))?;
        // For a symbolic link, the folder that it leads to is checked.
        let it =
            fs::metadata(path).map_err(|source| failed(format!("cannot be read: {source}")))?;
        if !it.is_dir() {
            return Err(unfit("is not a folder".to_owned()));
        }
        let (owner, user) = (it.uid(), geteuid().as_raw());
        if owner != user {
            return Err(unfit(format!(
                "belongs to user {owner}, and the relay runs as user {user}: give it to the relay \
                 (chown), or name another folder"
            )));
        }
        if it.mode() & FOLDER_MODE_FORBIDDEN != 0 {
            return Err(unfit(format!(
                "other users can change it, and what the relay keeps in it (mode {:03o}); run \
                 `chmod 700` on it",
                it.mode() & 0o777
            )));
        }
        Ok(Self {
            path: path.to_owned(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Locks the folder for this relay.
    ///
    /// # Errors
    /// Another relay has the folder, or the lock file cannot be opened.
    #[expect(
        clippy::disallowed_methods,
        reason = "runs before any shard, and no event signals it"
    )]
    pub(super) fn lock(&self) -> Result<Lock, StartError> {
        let path = self.path.join(LOCK_FILE);
        let unfit = |problem: String| StartError::state(&self.path, problem);
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&path);
        let mut file = opened.map_err(|source| unfit(format!("cannot be locked: {source}")))?;
        let deadline = Instant::now() + TAKEN_TIMEOUT;
        let locked = loop {
            match file.try_lock() {
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    thread::sleep(TAKEN_PAUSE);
                }
                outcome => break outcome,
            }
        };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => String::new(),
                    pid => format!(" (process {pid})"),
                };
                return Err(unfit(format!(
                    "is in use by another tieline-relay{holder}: stop that one, or name another folder"
                )));
            }
            Err(TryLockError::Error(source)) => {
                return Err(unfit(format!("cannot be locked: {source}")));
            }
        }
        let lock = Lock(file);
        lock.note_holder();
        Ok(lock)
    }

    /// The content of a short file, if the file exists.
    ///
    /// # Errors
    /// The file cannot be read, or other users may read or change it.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StartError> {
        let path = self.path.join(name);
        let unreadable =
            |source: io::Error| StartError::state(&path, format!("cannot be read: {source}"));
        let file = match open_own(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(unreadable(source)),
        };
        let mut content = Vec::new();
        let mut file = file.take(FILE_BYTES_MAX);
        file.read_to_end(&mut content).map_err(unreadable)?;
        Ok(Some(content))
    }

    /// Replaces a file as a whole: after a crash the old content or the new one is there.
    ///
    /// # Errors
    /// The disk does not take the file.
    pub(crate) fn replace(&self, name: &str, content: &[u8]) -> Result<(), StartError> {
        let path = self.path.join(name);
        let write = |file: &mut File| file.write_all(content);
        replace(&path, write)
            .map_err(|source| StartError::state(&path, format!("cannot be written: {source}")))
    }
}

/// Opens a regular file that only its owner can read and change.
pub(super) fn open_own(path: &Path) -> io::Result<File> {
    // O_NONBLOCK, since opening a named pipe would wait for a writer.
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    let it = file.metadata()?;
    let user = geteuid().as_raw();
    let problem = if !it.is_file() {
        "is not a regular file".to_owned()
    } else if it.uid() != user {
        format!("belongs to user {}, not to {user}", it.uid())
    } else if it.mode() & FILE_MODE_FORBIDDEN != 0 {
        let mode = it.mode() & 0o777;
        format!("other users can read or change it (mode {mode:03o}); run `chmod 600` on it")
    } else {
        return Ok(file);
    };
    Err(io::Error::other(problem))
}

/// Writes a file beside `path` and renames it to `path`: after a crash the old file or the new one is there, whole.
pub(super) fn replace(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    // A file left by a relay that was killed while it wrote.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .custom_flags(libc::O_CLOEXEC)
        .open(&beside)?;
    if let Err(error) = write(&mut file).and_then(|()| file.sync_all()) {
        // An incomplete file would take room on a disk that may be full.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    fs::rename(&beside, path)?;
    // The folder contains the file's name, so it is synced too.
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    File::open(folder)?.sync_all()
}
