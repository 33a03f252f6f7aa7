//! Small private files that are made once, also when several processes start together.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::error::IdentityError;

/// Largest file that is read here, in bytes; a key has 83, a machine id 16.
const FILE_BYTES_MAX: u64 = 4096;

/// How often a file that another process is writing is read again, every 10 ms.
const READS_MAX: u32 = 50;

/// Makes `dir` and its parents; a new one is for its owner alone.
pub(super) fn make_private_dir(dir: &Path) -> Result<(), IdentityError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|source| IdentityError::File {
        path: dir.to_owned(),
        source,
    })
}

/// Reads `path` with `parse`; if there is no such file, writes one with the bytes of `make`.
///
/// Of several processes that do this at once exactly one writes, and all return its content.
pub(super) fn read_or_make<T>(
    path: &Path,
    make: impl FnOnce() -> Result<Vec<u8>, IdentityError>,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<T, IdentityError> {
    let failed = |source| IdentityError::File {
        path: path.to_owned(),
        source,
    };
    if !path.try_exists().map_err(failed)? {
        match write_once(path, &make()?) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
    }
    for _ in 0..READS_MAX {
        if let Some(value) = parse(&read_private(path)?) {
            return Ok(value);
        }
        // Without hard links the winner's file is seen before it is complete, and a file has no
        // event to wait for. This runs on a thread that may block.
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
    // The link, if made, stays; a leftover of the temporary name does no harm.
    let _ = fs::remove_file(&temporary);
    match written {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // Some file systems have no hard links; there the last step is not atomic, and the reader
        // waits for the rest.
        Err(_) => write_new(path, content),
    }
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

fn read_private(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let failed = |source| IdentityError::File {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
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
        .map_err(failed)?;
    Ok(content)
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
    fn an_unwritable_place_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = make_private_dir(&file.join("state")).unwrap_err();
        assert!(error.to_string().contains("--state-dir"), "{error}");
    }
}
