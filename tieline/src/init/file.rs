//! Reads and writes configuration files: regular files only, atomically, with owner and mode kept. Links
//! are followed if they stay within the project.
//!
//! The file's type is checked on the opened descriptor. Before the new text takes the file's place, the file
//! is checked for changes, in the folder that was opened for reading. Pipes are not waited for, and devices
//! are not opened.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::path::Path;

use super::folder::Folder;

/// Largest file that is read, in bytes; a configuration that people edit has a thousandth of that.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A configuration file as it was read.
#[derive(Debug)]
pub(super) struct Found {
    /// Folder of the file, with links resolved; if the file does not exist yet, the nearest folder that
    /// exists.
    folder: Folder,
    /// Folders below `folder` that do not exist yet.
    missing: Vec<OsString>,
    name: OsString,
    /// `None` if the file does not exist yet.
    pub(super) text: Option<String>,
    metadata: Option<Metadata>,
    force: bool,
}

impl Found {
    /// Reads the file at `path`, if it exists. Unless `force`, the file must lie in `project` after links
    /// are resolved, and must have one hard link only.
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
        let (folder, name) = split(&own)?;
        let folder = Folder::open(folder)?;
        let file = folder.file(name)?.ok_or_else(changed)?;
        let metadata = file.metadata()?;
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
            folder,
            missing: Vec::new(),
            name: name.to_owned(),
            text: Some(text),
            metadata: Some(metadata),
            force,
        })
    }

    /// A file that does not exist yet; its folder may not exist either.
    fn new_one(path: &Path, project: &Path, force: bool) -> io::Result<Self> {
        let there = path.ancestors().skip(1).find(|it| it.exists());
        let there = there.unwrap_or(project);
        let own = fs::canonicalize(there)?;
        inside(&own, project, force)?;
        let (folder, name) = split(path)?;
        let missing = folder.strip_prefix(there).unwrap_or(folder);
        Ok(Self {
            folder: Folder::open(&own)?,
            missing: missing.iter().map(OsStr::to_owned).collect(),
            name: name.to_owned(),
            text: None,
            metadata: None,
            force,
        })
    }

    /// Replaces the file's content with `text`: a reader sees the old text or the new one, never a part.
    pub(super) fn write(&self, text: &str) -> io::Result<()> {
        let mut made = None;
        for name in &self.missing {
            made = Some(made.as_ref().unwrap_or(&self.folder).below(name)?);
        }
        let folder = made.as_ref().unwrap_or(&self.folder);
        let name = self.name.to_string_lossy();
        let temporary = OsString::from(format!(".{name}.{:016x}", fastrand::u64(..)));
        let written = self.write_to(folder, &temporary, text);
        if written.is_err() {
            // The temporary file would stay otherwise. Errors are ignored: the file may not exist.
            let _ = folder.remove(&temporary);
        }
        written
    }

    fn write_to(&self, folder: &Folder, temporary: &OsString, text: &str) -> io::Result<()> {
        // Private at first, since the old file may hold secrets; the old file's mode is set below.
        let mut file = folder.new_file(temporary, self.metadata.is_some())?;
        if let Some(metadata) = &self.metadata {
            keep_owner(&file, metadata, self.force)?;
            file.set_permissions(metadata.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        // Without a sync, a crash could leave an empty file under the new name.
        file.sync_all()?;
        drop(file);
        self.check_unchanged(folder)?;
        folder.rename(temporary, &self.name)
    }

    /// Fails if the file was changed, created or removed since it was read.
    fn check_unchanged(&self, folder: &Folder) -> io::Result<()> {
        let now = folder.file(&self.name)?;
        let now = now.map(|file| file.metadata()).transpose()?;
        let is_same = match (&self.metadata, &now) {
            (Some(then), Some(now)) => is_same(then, now),
            (then, now) => then.is_none() && now.is_none(),
        };
        match is_same {
            true => Ok(()),
            false => Err(changed()),
        }
    }
}

fn changed() -> io::Error {
    invalid("another program changed it meanwhile: run this again")
}

/// Splits a path into the file's folder and its name there.
fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => Ok((folder, name)),
        _ => Err(invalid("it is a folder")),
    }
}

/// Refuses a path outside the project's folder, unless `force`.
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

/// Refuses a file with several hard links: the write makes a new file, so other links would keep the old text.
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

/// Gives the new file the old file's owner and group. Usually only root may, so failure needs `force`.
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

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_folder_that_becomes_a_link_between_check_and_write_leads_nowhere() {
        let (project, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (project, elsewhere) = (project.path(), elsewhere.path());
        let folder = project.join(".cursor");
        let path = folder.join("mcp.json");
        let none = Found::read(&path, project, false).unwrap();
        symlink(elsewhere, &folder).unwrap();
        none.write("new").unwrap_err();
        fs::remove_file(&folder).unwrap();
        none.write("new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");

        let found = Found::read(&path, project, false).unwrap();
        let moved = project.join("moved");
        fs::rename(&folder, &moved).unwrap();
        symlink(elsewhere, &folder).unwrap();
        fs::write(elsewhere.join("mcp.json"), "other").unwrap();
        found.write("newer").unwrap();
        assert_eq!(fs::read_to_string(moved.join("mcp.json")).unwrap(), "newer");
        assert_eq!(
            fs::read_to_string(elsewhere.join("mcp.json")).unwrap(),
            "other"
        );
        assert_eq!(fs::read_dir(elsewhere).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_another_program_changed_meanwhile_stays() {
        let project = tempfile::tempdir().unwrap();
        let path = project.path().join(".mcp.json");
        fs::write(&path, "old").unwrap();
        let found = Found::read(&path, project.path(), false).unwrap();
        fs::write(&path, "theirs").unwrap();
        let message = found.write("ours").unwrap_err().to_string();
        assert!(message.contains("run this again"), "{message}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
        assert_eq!(fs::read_dir(project.path()).unwrap().count(), 1);
    }
}
