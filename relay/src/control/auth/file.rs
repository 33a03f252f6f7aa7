//! A file that is watched for changes while the relay runs.

use std::path::{Path, PathBuf};

use tracing::warn;

use crate::config::Stamp;
use crate::error::ConfigError;

/// A watched file, and its last valid content.
pub(super) struct Watched<T> {
    path: PathBuf,
    read: fn(&Path) -> Result<T, ConfigError>,
    known: T,
    /// The file's state at the last look.
    seen: Option<Stamp>,
    /// The file's state when its content was last read; `None` also if the file was missing.
    read_at: Option<Stamp>,
}

impl<T: Clone + PartialEq> Watched<T> {
    pub(super) fn new(path: &Path, known: T, read: fn(&Path) -> Result<T, ConfigError>) -> Self {
        Self {
            path: path.to_owned(),
            read,
            known,
            seen: None,
            // `None`: read once more, since the file may have changed after the read at the start.
            read_at: None,
        }
    }

    /// The last valid content.
    pub(super) const fn known(&self) -> &T {
        &self.known
    }

    /// Returns the file's content if it changed. Reads only once the file looks the same at two looks in a row,
    /// since a file written in place is incomplete for a moment; `now` reads it in any case.
    pub(super) fn look(&mut self, now: bool) -> Option<T> {
        let stamp = Stamp::of(&self.path);
        let is_still = self.seen == stamp;
        self.seen = stamp;
        if !now && (!is_still || self.read_at == stamp) {
            return None;
        }
        self.read_at = stamp;
        match (self.read)(&self.path) {
            Ok(content) if content == self.known => None,
            Ok(content) => {
                self.known = content;
                Some(self.known.clone())
            }
            Err(error) => {
                warn!("{error}; the content read before stays in force");
                None
            }
        }
    }
}
