//! Reads and writes configuration files: regular files only, all or nothing, with owner and mode kept;
//! through a link where it stays within the project.
//!
//! What a file is, is judged on the opened descriptor, and looked at once more before the new text
//! takes its place. A pipe is not waited for, and a device is not opened.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Largest file that is read; a configuration that people edit is a thousandth of it.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A file as it was found.
#[derive(Debug)]
pub(super) struct Found {
    /// The file itself, where the client's path was a link to it.
    path: PathBuf,
    /// `None` if there is none yet.
    pub(super) text: Option<String>,
    metadata: Option<Metadata>,
    force: bool,
}

impl Found {
    /// Reads the file at `path`, if there is one. Unless `force`, it must lie in `project`, whatever
    /// links lead to it, and have one name.
    pub(super) fn read(path: &Path, project: &Path, force: bool) -> io::Result<Self> {
        let own = match fs::canonicalize(path) {
            Ok(own) => own,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if path.is_symlink() {
                    return Err(io::Error::new(error.kind(), "it is a link to nothing"));
                }
                return Self::new_one(path, project, force);
            }
            Err(error) => return Err(error),
        };
        inside(&own, project, force)?;
        // A device may act when it is opened, so it is not.
        regular(&fs::symlink_metadata(&own)?)?;
        let file = open(&own)?;
        let metadata = file.metadata()?;
        regular(&metadata)?;
        if !force {
            one_name(&metadata)?;
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(invalid("it is larger than 8 MiB"));
        }
        let text = String::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8"))?;
        Ok(Self {
            path: own,
            text: Some(text),
            metadata: Some(metadata),
            force,
        })
    }

    /// One that is not there yet; its folder may not be either.
    fn new_one(path: &Path, project: &Path, force: bool) -> io::Result<Self> {
        let there = path.ancestors().skip(1).find(|it| it.exists());
        inside(&fs::canonicalize(there.unwrap_or(project))?, project, force)?;
        Ok(Self {
            path: path.to_owned(),
            text: None,
            metadata: None,
            force,
        })
    }

    /// Puts `text` in the file's place: a reader sees the old text or the new one, and never a part.
    pub(super) fn write(&self, text: &str) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        if self.text.is_none() {
            fs::create_dir_all(dir)?;
        }
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = dir.join(format!(".{name}.{:016x}", fastrand::u64(..)));
        let written = self.write_to(&temporary, text);
        if written.is_err() {
            // It would stay for good otherwise; that it may not exist is what we want.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn write_to(&self, temporary: &Path, text: &str) -> io::Result<()> {
        let mut options = File::options();
        options.write(true).create_new(true);
        #[cfg(unix)]
        if self.metadata.is_some() {
            // The old file may hold secrets; its own mode follows.
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        }
        let mut file = options.open(temporary)?;
        if let Some(metadata) = &self.metadata {
            keep_owner(&file, metadata, self.force)?;
            file.set_permissions(metadata.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        // Else a crash could leave the new name with no content.
        file.sync_all()?;
        drop(file);
        self.check_unchanged()?;
        fs::rename(temporary, &self.path)
    }

    /// Whether the same file is still there, or still none.
    fn check_unchanged(&self) -> io::Result<()> {
        let now = match fs::symlink_metadata(&self.path) {
            Ok(now) => Some(now),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let is_same = match (&self.metadata, &now) {
            (Some(then), Some(now)) => is_same(then, now),
            (then, now) => then.is_none() && now.is_none(),
        };
        match is_same {
            true => Ok(()),
            false => Err(invalid(
                "another program changed it meanwhile: run this again",
            )),
        }
    }
}

/// Refuses a place outside the project's folder.
fn inside(own: &Path, project: &Path, force: bool) -> io::Result<()> {
    let project = fs::canonicalize(project)?;
    if force || own.starts_with(&project) {
        return Ok(());
    }
    Err(invalid(format!(
        "a link leads out of the project, to {}; --force writes there",
        own.display()
    )))
}

fn regular(metadata: &Metadata) -> io::Result<()> {
    match metadata.is_file() {
        true => Ok(()),
        false if metadata.is_dir() => Err(invalid("it is a folder")),
        false => Err(invalid(
            "it is not a regular file but a pipe, a socket or a device",
        )),
    }
}

#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    use rustix::fs::OFlags;
    use std::os::unix::fs::OpenOptionsExt;
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = flags.bits().cast_signed();
    File::options().read(true).custom_flags(flags).open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// The new text gets a file of its own, so the other names of the old one would keep the old text.
#[cfg(unix)]
fn one_name(metadata: &Metadata) -> io::Result<()> {
    let names = std::os::unix::fs::MetadataExt::nlink(metadata);
    if names < 2 {
        return Ok(());
    }
    Err(invalid(format!(
        "it has {names} names (hard links), and the others would keep the old text; --force writes \
         under this one"
    )))
}

#[cfg(not(unix))]
fn one_name(_: &Metadata) -> io::Result<()> {
    Ok(())
}

/// Only root may give a file away.
#[cfg(unix)]
fn keep_owner(file: &File, metadata: &Metadata, force: bool) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, fchown};
    let ours = file.metadata()?;
    if (ours.uid(), ours.gid()) == (metadata.uid(), metadata.gid()) {
        return Ok(());
    }
    match fchown(file, Some(metadata.uid()), Some(metadata.gid())) {
        Err(_) if !force => Err(invalid(
            "its owner or group is not yours and would be lost; --force makes it yours",
        )),
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
fn keep_owner(_: &File, _: &Metadata, _: bool) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn is_same(then: &Metadata, now: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    let of = |it: &Metadata| (it.dev(), it.ino(), it.size(), it.mtime(), it.mtime_nsec());
    of(then) == of(now)
}

#[cfg(not(unix))]
fn is_same(then: &Metadata, now: &Metadata) -> bool {
    let of = |it: &Metadata| (it.is_file(), it.len(), it.modified().ok());
    of(then) == of(now)
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}
