//! Files that settings come from or name: reads them, and checks which users can change them.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::de::DeserializeOwned;
use tieline_token::{Jwks, Key, KeySet};
use tracing::warn;

use super::denylist::Denylist;
use super::place;
use super::tokens::TokenTable;
use super::words;
use crate::error::ConfigError;

/// Longest settings, key or secret file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Longest tokens or denylist file that is read, in bytes; holds some 50,000 tokens.
const TABLE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Protection that a file must have against other users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    /// Others must not be able to change the file: it decides about admission, or what the relay does.
    Unchanged,
    /// Others must not be able to read or change the file: it is a secret. Its group may read it.
    Secret,
}

impl Guard {
    /// Checks mode, owner and folder of an opened file.
    ///
    /// # Errors
    /// [`ConfigError`] says what other users can do with the file, and how to prevent it.
    fn check(self, path: &Path, it: &Metadata) -> Result<(), ConfigError> {
        let (forbidden, harm, remedy) = match self {
            Self::Unchanged => (
                0o022,
                "change this file, and so who may use the relay",
                "chmod go-w",
            ),
            Self::Secret => (0o027, "read or change this secret", "chmod 600"),
        };
        let mode = it.mode() & 0o777;
        if mode & forbidden != 0 {
            let problem = format!("others can {harm} (mode {mode:03o}); run `{remedy}` on it");
            return Err(ConfigError::content(path, problem));
        }
        place::check(path, it)
    }
}

/// Reads a file of settings, which other users must not be able to change.
///
/// # Errors
/// [`ConfigError`] names the file, and the line that is not TOML.
pub(super) fn read_settings_table(path: &Path) -> Result<toml::Table, ConfigError> {
    parse(path, read_once(path, Guard::Unchanged)?)
}

/// Parses a TOML file's content.
fn parse<T: DeserializeOwned>(path: &Path, content: Vec<u8>) -> Result<T, ConfigError> {
    let text = String::from_utf8(content).map_err(|_| ConfigError::Syntax {
        path: path.to_owned(),
        line: 1,
        message: "not UTF-8 text".to_owned(),
    })?;
    toml::from_str(&text).map_err(|error| {
        let before = text
            .get(..error.span().map_or(0, |span| span.start))
            .unwrap_or("");
        ConfigError::Syntax {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            message: words::parser(error.message()),
        }
    })
}

/// Reads the tokens file.
///
/// # Errors
/// [`ConfigError`] names the file and the wrong token.
pub fn read_tokens(path: &Path) -> Result<TokenTable, ConfigError> {
    let form = parse(path, read(path, TABLE_BYTES_MAX, Guard::Unchanged)?)?;
    TokenTable::new(form).map_err(|problem| ConfigError::content(path, problem))
}

/// Reads the denylist file.
///
/// # Errors
/// [`ConfigError`] names the file and the wrong entry.
pub fn read_denylist(path: &Path) -> Result<Denylist, ConfigError> {
    let form = parse(path, read(path, TABLE_BYTES_MAX, Guard::Unchanged)?)?;
    Denylist::new(form).map_err(|problem| ConfigError::content(path, problem))
}

/// Reads a public key in PEM format.
///
/// # Errors
/// [`ConfigError`] names the file and what is wrong with its content.
pub(super) fn read_public_key(path: &Path) -> Result<Key, ConfigError> {
    Key::from_pem(&read_once(path, Guard::Unchanged)?)
        .map_err(|error| ConfigError::content(path, error.to_string()))
}

/// Reads a JWKS file. Keys that cannot be used are skipped and logged. A file that contains a secret key
/// must be protected like a secret.
///
/// # Errors
/// [`ConfigError`] names the file, also if all of its keys are unusable.
pub(crate) fn read_jwks(path: &Path) -> Result<KeySet, ConfigError> {
    let (content, it) = read_opened(path, open_regular(path), FILE_BYTES_MAX)?;
    Guard::Unchanged.check(path, &it)?;
    let read =
        Jwks::read(&content).map_err(|error| ConfigError::content(path, error.to_string()))?;
    if read.has_secret {
        Guard::Secret.check(path, &it)?;
    }
    for skipped in &read.skipped {
        warn!(file = %path.display(), "unusable: {skipped}");
    }
    if read.keys.is_empty() {
        let why = read.skipped.first();
        let why = why.map_or_else(|| "it is empty".to_owned(), ToString::to_string);
        let problem = format!("no key in it can be used; {why}");
        return Err(ConfigError::content(path, problem));
    }
    Ok(read.keys)
}

/// Identity and state of a file, to notice a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    number: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// The file's current state; `None` if it cannot be looked at.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let it = fs::metadata(path).ok()?;
        Some(Self {
            device: it.dev(),
            number: it.ino(),
            bytes: it.size(),
            // ctime rather than mtime, so that a change of mode counts as well.
            changed: (it.ctime(), it.ctime_nsec()),
        })
    }
}

/// Reads a regular file of at most `bytes_max` bytes and checks it with `guard`.
fn read(path: &Path, bytes_max: u64, guard: Guard) -> Result<Vec<u8>, ConfigError> {
    let (content, it) = read_opened(path, open_regular(path), bytes_max)?;
    guard.check(path, &it)?;
    Ok(content)
}

/// Reads a file that the relay reads at its start alone, and checks it with `guard`. It may be a named pipe, whose writer
/// the start waits for.
fn read_once(path: &Path, guard: Guard) -> Result<Vec<u8>, ConfigError> {
    let (content, it) = read_opened(path, File::open(path), FILE_BYTES_MAX)?;
    guard.check(path, &it)?;
    Ok(content)
}

/// Reads a file of certificates. Any user may read or change it: certificates are public, and useless with another key.
pub(crate) fn read_certificates(path: &Path) -> Result<Vec<u8>, ConfigError> {
    read_opened(path, open_regular(path), FILE_BYTES_MAX).map(|(content, _)| content)
}

/// Reads a file of authorities that decide about admission.
pub(crate) fn read_authorities(path: &Path) -> Result<Vec<u8>, ConfigError> {
    read(path, FILE_BYTES_MAX, Guard::Unchanged)
}

/// Reads a file that holds a secret, and is read again while the relay runs.
pub(crate) fn read_secret_file(path: &Path) -> Result<Vec<u8>, ConfigError> {
    read(path, FILE_BYTES_MAX, Guard::Secret)
}

/// Reads a file that holds a secret, and is read at the start alone.
pub(super) fn read_secret_once(path: &Path) -> Result<Vec<u8>, ConfigError> {
    read_once(path, Guard::Secret)
}

/// Opens a file that is read again while the relay runs, and refuses all that is not a regular file: a pipe or a device
/// could keep the control thread waiting.
fn open_regular(path: &Path) -> io::Result<File> {
    // O_NONBLOCK, since opening a named pipe would wait for a writer.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    let it = file.metadata()?;
    if it.is_file() {
        return Ok(file);
    }
    let problem = match it.is_dir() {
        true => "it is a folder, and a file belongs there",
        false => "it is not a regular file",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
}

/// Reads an opened file of at most `bytes_max` bytes; its metadata come from the open descriptor, so both belong to the
/// same file. `path` is its name in errors.
fn read_opened(
    path: &Path,
    file: io::Result<File>,
    bytes_max: u64,
) -> Result<(Vec<u8>, Metadata), ConfigError> {
    let content = || -> io::Result<(Vec<u8>, Metadata)> {
        let file = file?;
        let it = file.metadata()?;
        let mut content = Vec::new();
        file.take(bytes_max + 1).read_to_end(&mut content)?;
        if content.len() as u64 > bytes_max {
            let text = format!("the file is longer than {} MiB", bytes_max >> 20);
            return Err(io::Error::other(text));
        }
        Ok((content, it))
    };
    content().map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}
