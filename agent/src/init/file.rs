//! Reads and writes configuration files: all or nothing, through links, with the mode kept.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Largest file that is read; a configuration that people edit is a thousandth of it.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A file as it was found.
#[derive(Debug)]
pub(super) struct Found {
    /// The file itself, where `path` was a link to it.
    path: PathBuf,
    /// `None` if there is none yet.
    pub(super) text: Option<String>,
}

impl Found {
    /// Reads the file at `path`, if there is one.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let own = match fs::canonicalize(path) {
            Ok(own) => own,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if path.is_symlink() {
                    return Err(io::Error::new(error.kind(), "it is a link to nothing"));
                }
                return Ok(Self {
                    path: path.to_owned(),
                    text: None,
                });
            }
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        File::open(&own)?
            .take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(invalid("it is larger than 8 MiB"));
        }
        let text = String::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8"))?;
        Ok(Self {
            path: own,
            text: Some(text),
        })
    }

    /// Puts `text` in the file's place: whoever reads it meanwhile sees the old text or the new
    /// one, and never a part.
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
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .open(temporary)?;
        if self.text.is_some() {
            let metadata = fs::metadata(&self.path)?;
            #[cfg(unix)]
            {
                use std::os::unix::fs::MetadataExt;
                // Only root may give a file away, and only root would take it otherwise.
                let _ =
                    std::os::unix::fs::fchown(&file, Some(metadata.uid()), Some(metadata.gid()));
            }
            file.set_permissions(metadata.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        // Else a crash could leave the new name with no content.
        file.sync_all()?;
        drop(file);
        fs::rename(temporary, &self.path)
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
