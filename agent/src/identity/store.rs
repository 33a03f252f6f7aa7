//! Small private files that are made once, even if several processes start together.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::error::IdentityError;

/// Largest file that is read, in bytes; a key has 83, a machine id 16.
pub(crate) const FILE_BYTES_MAX: u64 = 4096;

/// Number of reads of a file that another process is still writing; one read every 10 ms.
const READS_MAX: u32 = 50;

/// Makes `dir` and its parents, new folders for their owner alone. An existing `dir` must belong to this user or
/// root, and no other user may write into it.
pub(crate) fn make_private_dir(dir: &Path) -> Result<(), IdentityError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    let made = builder.create(dir).and_then(|()| fs::metadata(dir));
    check_folder(dir, &made.map_err(failed(dir))?)
}

/// Error for a file or folder that cannot be read or made.
fn failed(path: &Path) -> impl Fn(io::Error) -> IdentityError {
    move |source| IdentityError::File {
        path: path.to_owned(),
        source,
    }
}

#[cfg(unix)]
pub(crate) fn check_folder(dir: &Path, metadata: &fs::Metadata) -> Result<(), IdentityError> {
    check_owner(dir, metadata)?;
    let mode = mode(metadata);
    if mode & 0o022 == 0 {
        return Ok(());
    }
    Err(IdentityError::Folder {
        path: dir.to_owned(),
        mode,
    })
}

// Not checked: access lists decide on this system, and by default a user's folders are the user's own.
#[cfg(not(unix))]
pub(crate) fn check_folder(_: &Path, _: &fs::Metadata) -> Result<(), IdentityError> {
    Ok(())
}

/// Reads `path` with `parse`; if the file does not exist, first writes it with the bytes of `make`.
///
/// If several processes call this at once, exactly one writes the file, and all return its content.
pub(super) fn read_or_make<T>(
    path: &Path,
    make: impl FnOnce() -> Result<Vec<u8>, IdentityError>,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<T, IdentityError> {
    // A symbolic link counts as existing, even a dangling one; the read below refuses it.
    let is_there = match fs::symlink_metadata(path) {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(failed(path)(error)),
    };
    if !is_there {
        match write_once(path, &make()?) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(path)(error)),
        }
    }
    for _ in 0..READS_MAX {
        if let Some(value) = parse(&read_private(path)?) {
            return Ok(value);
        }
        // Without hard links, another process's file is seen before it is complete, and there is no event to
        // wait for. This runs on a thread that may block.
        #[expect(clippy::disallowed_methods)]
        thread::sleep(Duration::from_millis(10));
    }
    Err(IdentityError::Damaged {
        path: path.to_owned(),
    })
}

/// Puts a complete file at `path`, or fails with `AlreadyExists`.
fn write_once(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary_beside(path);
    let written = write_new(&temporary, content).and_then(|()| fs::hard_link(&temporary, path));
    // The hard link stays, if it was made; a leftover temporary file does no harm.
    let _ = fs::remove_file(&temporary);
    match written {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // Some file systems have no hard links; there the write is not atomic, and readers wait for the whole
        // content.
        Err(_) => write_new(path, content),
    }
}

/// Puts `content` at `path`, for this user alone, in place of what is there.
pub(crate) fn replace_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary_beside(path);
    let replaced = write_new(&temporary, content).and_then(|()| fs::rename(&temporary, path));
    if replaced.is_err() {
        // A leftover temporary file does no harm.
        let _ = fs::remove_file(&temporary);
    }
    replaced
}

fn temporary_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{:08x}", std::process::id(), fastrand::u32(..)));
    path.with_file_name(name)
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

pub(crate) fn read_private(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let file = open(path)?;
    let metadata = file.metadata().map_err(failed(path))?;
    if !metadata.is_file() {
        return Err(IdentityError::Kind {
            path: path.to_owned(),
        });
    }
    #[cfg(unix)]
    {
        check_owner(path, &metadata)?;
        let mode = mode(&metadata);
        if mode & 0o077 != 0 {
            return Err(IdentityError::Mode {
                path: path.to_owned(),
                mode,
            });
        }
    }
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut content)
        .map_err(failed(path))?;
    Ok(content)
}

/// Opens a regular file: a symbolic link could lead to a file that another user chose, and the open of a pipe
/// could block.
fn open(path: &Path) -> Result<File, IdentityError> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags.bits().cast_signed());
    }
    options.open(path).map_err(|source| {
        let path = path.to_owned();
        match fs::symlink_metadata(&path).is_ok_and(|it| !it.is_file()) {
            true => IdentityError::Kind { path },
            false => IdentityError::File { path, source },
        }
    })
}

/// Checks that a file or folder belongs to this user or root: another owner could put another key there.
#[cfg(unix)]
fn check_owner(path: &Path, metadata: &fs::Metadata) -> Result<(), IdentityError> {
    let path = path.to_owned();
    foreign_owner(metadata).map_or(Ok(()), |owner| Err(IdentityError::Owner { path, owner }))
}

/// User id of the owner, if that is neither this user nor root.
#[cfg(unix)]
pub(crate) fn foreign_owner(metadata: &fs::Metadata) -> Option<u32> {
    let owner = std::os::unix::fs::MetadataExt::uid(metadata);
    (owner != 0 && owner != rustix::process::geteuid().as_raw()).then_some(owner)
}

#[cfg(unix)]
fn mode(metadata: &fs::Metadata) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let made = read_or_make(&path, || Ok(b"first".to_vec()), |b| Some(b.to_vec())).unwrap();
        let read = read_or_make(&path, || Ok(b"second".to_vec()), |b| Some(b.to_vec())).unwrap();
        assert_eq!(
            (made.as_slice(), read.as_slice()),
            (&b"first"[..], &b"first"[..])
        );
        assert_eq!(
            write_once(&path, b"third").unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no temporary file stays"
        );
    }

    #[test]
    fn a_file_that_may_change_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for content in [&b"first"[..], b"second"] {
            replace_private(&path, content).unwrap();
            assert_eq!(read_private(&path).unwrap(), content);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    fn chmod(path: &Path, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_others_may_write_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o770, 0o722, 0o777] {
            chmod(dir.path(), mode);
            let error = make_private_dir(dir.path()).unwrap_err().to_string();
            assert!(error.contains("chmod go-w"), "{error}");
        }
        chmod(dir.path(), 0o755);
        make_private_dir(dir.path()).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn what_belongs_to_another_user_is_refused() {
        let metadata = |path: &Path| fs::metadata(path).unwrap();
        let dir = tempfile::tempdir().unwrap();
        check_owner(dir.path(), &metadata(dir.path())).unwrap();
        // Only root can change a folder's owner; without root this check is skipped.
        if std::os::unix::fs::chown(dir.path(), Some(54_321), None).is_ok() {
            let error = make_private_dir(dir.path()).unwrap_err();
            assert!(matches!(error, IdentityError::Owner { owner: 54_321, .. }));
            assert!(error.to_string().contains("--state-dir"), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_key_is_a_file_and_neither_a_link_nor_a_pipe_nor_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        fs::write(&real, "key").unwrap();
        chmod(&real, 0o600);
        let read = |name: &str| {
            let path = dir.path().join(name);
            read_or_make(&path, || Ok(b"new".to_vec()), |b| Some(b.to_vec()))
        };
        assert_eq!(read("real").unwrap(), b"key");
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("nothing", dir.path().join("dangling")).unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        for name in ["link", "dangling", "folder", "pipe"] {
            let error = read(name).unwrap_err();
            assert!(
                matches!(error, IdentityError::Kind { .. }),
                "{name}: {error}"
            );
        }
        assert!(!dir.path().join("nothing").exists());
    }

    #[test]
    fn an_unwritable_place_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = make_private_dir(&file.join("state")).unwrap_err();
        assert!(error.to_string().contains("--state-dir"), "{error}");
    }
}
