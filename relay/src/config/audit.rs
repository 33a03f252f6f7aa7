//! Settings of the audit log.

use std::path::PathBuf;

use super::load::{NUMBER, Settings, number};
use super::{conflict, in_range};
use crate::error::ConfigError;

/// Default of [`AuditConfig::max_bytes`]: holds some 1,000,000 requests, or a day of a flood of refusals.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Bounds of [`AuditConfig::max_bytes`]. The lower one is the most that the audit log writes at once.
const MAX_BYTES_MIN: u64 = 64 * 1024;
const MAX_BYTES_MAX: u64 = 1 << 40;

/// Where the audit log is written, and how large it may get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// Path of the file that is written.
    pub file: PathBuf,
    /// Before the file grows longer than this, in bytes, it becomes `file.old` in place of the one before.
    pub max_bytes: u64,
}

impl AuditConfig {
    /// Settings with the default size.
    #[must_use]
    pub const fn new(file: PathBuf) -> Self {
        Self {
            file,
            max_bytes: MAX_BYTES,
        }
    }

    /// Reads the settings of the audit log.
    pub(super) fn read(settings: &Settings) -> Result<Option<Self>, ConfigError> {
        if let Some(raw) = settings.raw("audit_keep") {
            return conflict(format!(
                "{} is gone: the relay keeps one full file, audit_file with .old at its end; logrotate keeps more, see \
                 \"The audit log\" in docs/OPERATIONS.md",
                raw.describe("audit_keep")
            ));
        }
        let max_bytes = settings.one("audit_max_bytes", NUMBER, number)?;
        let Some(file) = settings.path("audit_file")? else {
            if max_bytes.is_some() {
                return conflict("audit_max_bytes does nothing without audit_file");
            }
            return Ok(None);
        };
        Ok(Some(Self {
            file,
            max_bytes: max_bytes.unwrap_or(MAX_BYTES),
        }))
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        in_range(
            "audit_max_bytes",
            self.max_bytes,
            MAX_BYTES_MIN,
            MAX_BYTES_MAX,
        )
    }
}
