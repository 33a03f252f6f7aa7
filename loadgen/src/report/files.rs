//! The files of a report: one folder, one name, an extension for each.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Where they lie.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    folder: PathBuf,
    name: String,
}

impl Files {
    /// Files of this name, which the caller has checked.
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
        }
    }

    /// The name without an extension.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The one with this extension.
    pub(crate) fn path(&self, extension: &str) -> PathBuf {
        self.folder.join(format!("{}.{extension}", self.name))
    }

    /// Makes the folder. One that cannot be written must not be found out after three minutes.
    pub(crate) fn prepare(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make the folder {}", self.folder.display()))
    }

    /// Opens one for writing; what an earlier run left is gone.
    pub(crate) fn create(&self, extension: &str) -> anyhow::Result<File> {
        let path = self.path(extension);
        File::create(&path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes one.
    pub(crate) fn save(&self, extension: &str, text: &str) -> anyhow::Result<()> {
        let path = self.path(extension);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}
