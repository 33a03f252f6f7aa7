//! A file that may change while the relay runs.

use std::path::{Path, PathBuf};

use tracing::warn;

use crate::config::Stamp;
use crate::error::ConfigError;

/// A file, and what it said when it was last good.
pub(super) struct Watched<T> {
    path: PathBuf,
    read: fn(&Path) -> Result<T, ConfigError>,
    known: T,
    /// Its state at the last look.
    seen: Option<Stamp>,
    /// Its state when it was last read, or missed.
    read_at: Option<Stamp>,
}

impl<T: Clone + PartialEq> Watched<T> {
    pub(super) fn new(path: &Path, known: T, read: fn(&Path) -> Result<T, ConfigError>) -> Self {
        Self {
            path: path.to_owned(),
            read,
            known,
            seen: None,
            // Read once more, as it may have changed since it was read for the start.
            read_at: None,
        }
    }

    /// What it said when it was last good.
    pub(super) const fn known(&self) -> &T {
        &self.known
    }

    /// What it says, if that is news. It is read once it looks the same twice in a row, since who
    /// writes a file in place has it incomplete for a moment; `now` reads it at any rate.
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
                warn!("{error}; what it said before holds on");
                None
            }
        }
    }
}
