//! An open folder. A path that changes between check and write cannot redirect the write, because names are
//! opened relative to this folder and without following links.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::Path;

/// An open folder; on systems without folder handles, its path.
#[derive(Debug)]
pub(super) struct Folder(sys::Handle);

impl Folder {
    /// Opens the folder at `path`, which has no links; a link that appears in `path` meanwhile is refused.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        sys::open(path).map(Self)
    }

    /// Opens the folder `name` in this folder; creates a missing one.
    pub(super) fn below(&self, name: &OsStr) -> io::Result<Self> {
        match sys::make(&self.0, name) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => sys::below(&self.0, name).map(Self),
        }
    }

    /// Opens the file `name` in this folder for reading; `None` if there is no such file.
    ///
    /// Only a regular file is opened: opening a device may have effects.
    pub(super) fn file(&self, name: &OsStr) -> io::Result<Option<File>> {
        match sys::file(&self.0, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.map(Some),
        }
    }

    /// Creates the file `name`; with `is_private`, only this user may read the file.
    pub(super) fn new_file(&self, name: &OsString, is_private: bool) -> io::Result<File> {
        sys::new_file(&self.0, name, is_private)
    }

    /// Renames `from` to `to`, replacing a file of that name.
    pub(super) fn rename(&self, from: &OsString, to: &OsStr) -> io::Result<()> {
        sys::rename(&self.0, from, to)
    }

    pub(super) fn remove(&self, name: &OsString) -> io::Result<()> {
        sys::remove(&self.0, name)
    }
}

/// Error for a path that does not lead to a regular file.
fn not_regular(is_folder: bool) -> io::Error {
    let why = match is_folder {
        true => "it is a folder",
        false => "it is not a regular file but a pipe, a socket or a device",
    };
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(unix)]
mod sys {
    use std::ffi::OsStr;
    use std::fs::File;
    use std::io;
    use std::os::fd::OwnedFd;
    use std::path::{Component, Path};

    use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};

    use super::not_regular;

    pub(super) type Handle = OwnedFd;

    /// Flags for passing through a folder; O_PATH needs no permission to read the folder.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const THROUGH: OFlags = OFlags::PATH;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const THROUGH: OFlags = OFlags::RDONLY;

    fn folder() -> OFlags {
        THROUGH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
    }

    pub(super) fn open(path: &Path) -> io::Result<Handle> {
        let mut at = rustix::fs::openat(CWD, "/", folder(), Mode::empty())?;
        for part in path.components() {
            if let Component::Normal(name) = part {
                at = below(&at, name)?;
            }
        }
        Ok(at)
    }

    pub(super) fn below(at: &Handle, name: &OsStr) -> io::Result<Handle> {
        Ok(rustix::fs::openat(at, name, folder(), Mode::empty())?)
    }

    pub(super) fn make(at: &Handle, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o777))?)
    }

    pub(super) fn file(at: &Handle, name: &OsStr) -> io::Result<File> {
        let found = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => {}
            kind => return Err(not_regular(kind == FileType::Directory)),
        }
        // If a link or a pipe took the file's place: do not follow the link, do not wait for the pipe.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(at, name, flags, Mode::empty())?);
        let metadata = file.metadata()?;
        match metadata.is_file() {
            true => Ok(file),
            false => Err(not_regular(metadata.is_dir())),
        }
    }

    pub(super) fn new_file(at: &Handle, name: &OsStr, is_private: bool) -> io::Result<File> {
        let mode = if is_private { 0o600 } else { 0o666 };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(at, name, flags, Mode::from_raw_mode(mode))?;
        Ok(File::from(file))
    }

    pub(super) fn rename(at: &Handle, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(at, from, at, to)?)
    }

    pub(super) fn remove(at: &Handle, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(at, name, AtFlags::empty())?)
    }
}

#[cfg(not(unix))]
mod sys {
    use std::ffi::OsStr;
    use std::fs::{self, File};
    use std::io;
    use std::path::{Path, PathBuf};

    use super::not_regular;

    pub(super) type Handle = PathBuf;

    pub(super) fn open(path: &Path) -> io::Result<Handle> {
        Ok(path.to_owned())
    }

    pub(super) fn below(at: &Handle, name: &OsStr) -> io::Result<Handle> {
        let path = at.join(name);
        match fs::symlink_metadata(&path)?.is_dir() {
            true => Ok(path),
            false => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    pub(super) fn make(at: &Handle, name: &OsStr) -> io::Result<()> {
        fs::create_dir(at.join(name))
    }

    pub(super) fn file(at: &Handle, name: &OsStr) -> io::Result<File> {
        let path = at.join(name);
        let metadata = fs::symlink_metadata(&path)?;
        match metadata.is_file() {
            true => File::open(path),
            false => Err(not_regular(metadata.is_dir())),
        }
    }

    pub(super) fn new_file(at: &Handle, name: &OsStr, _: bool) -> io::Result<File> {
        File::options()
            .write(true)
            .create_new(true)
            .open(at.join(name))
    }

    pub(super) fn rename(at: &Handle, from: &OsStr, to: &OsStr) -> io::Result<()> {
        fs::rename(at.join(from), at.join(to))
    }

    pub(super) fn remove(at: &Handle, name: &OsStr) -> io::Result<()> {
        fs::remove_file(at.join(name))
    }
}
