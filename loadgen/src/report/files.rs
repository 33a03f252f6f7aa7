//! Files of a report: one folder, one base name, one file per extension.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Folder and base name of a report's files.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    folder: PathBuf,
    name: String,
}

impl Files {
    /// Creates the paths only; the caller has checked `name`.
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Base name without an extension.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Path of the file with this extension.
    pub(crate) fn path(&self, extension: &str) -> PathBuf {
        self.folder.join(format!("{}.{extension}", self.name))
    }

    /// Creates the folder, before the measurement, so that a wrong path fails early.
    pub(crate) fn prepare(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot create the folder {}", self.folder.display()))
    }

    /// Opens the file with this extension for writing and truncates it.
    pub(crate) fn create(&self, extension: &str) -> anyhow::Result<File> {
        let path = self.path(extension);
        File::create(&path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes `text` to the file with this extension.
    pub(crate) fn save(&self, extension: &str, text: &str) -> anyhow::Result<()> {
        let path = self.path(extension);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}
