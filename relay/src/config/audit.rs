//! Settings of the audit log.

use std::path::PathBuf;

use super::load::{NUMBER, Settings, number};
use super::{conflict, in_range};
use crate::error::ConfigError;

/// Default of [`AuditConfig::max_bytes`]: holds some 250,000 requests.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Bounds of [`AuditConfig::max_bytes`].
const MAX_BYTES_MIN: u64 = 64 * 1024;
const MAX_BYTES_MAX: u64 = 1 << 40;

/// Default of [`AuditConfig::keep`].
const KEEP: u32 = 10;

/// Largest [`AuditConfig::keep`]: each rotation renames all kept files.
const KEEP_MAX: u32 = 1000;

/// Where the audit log is written, and how it is rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// Path of the file that is written.
    pub file: PathBuf,
    /// The file is rotated before it grows longer than this, in bytes.
    pub max_bytes: u64,
    /// Number of rotated files to keep: `file.1`, the newest, to `file.N`.
    pub keep: u32,
}

impl AuditConfig {
    /// Settings with the default size and number of files.
    #[must_use]
    pub const fn new(file: PathBuf) -> Self {
        Self {
            file,
            max_bytes: MAX_BYTES,
            keep: KEEP,
        }
    }

    /// Reads the settings of the audit log.
    pub(super) fn read(settings: &Settings) -> Result<Option<Self>, ConfigError> {
        let max_bytes = settings.one("audit_max_bytes", NUMBER, number)?;
        let keep = settings.one("audit_keep", NUMBER, number)?;
        let Some(file) = settings.path("audit_file")? else {
            if max_bytes.is_some() || keep.is_some() {
                return conflict("audit_max_bytes and audit_keep do nothing without audit_file");
            }
            return Ok(None);
        };
        Ok(Some(Self {
            file,
            max_bytes: max_bytes.unwrap_or(MAX_BYTES),
            keep: keep.unwrap_or(KEEP),
        }))
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        in_range(
            "audit_max_bytes",
            self.max_bytes,
            MAX_BYTES_MIN,
            MAX_BYTES_MAX,
        )?;
        in_range("audit_keep", self.keep, 0, KEEP_MAX)
    }
}
