//! Settings of the audit log.

use std::convert::Infallible;
use std::path::PathBuf;

use clap::Args;

use super::values::{Never, never, number, set};
use super::{conflict, in_range};
use crate::error::ConfigError;

/// Default of [`AuditConfig::max_bytes`]: holds some 1,000,000 requests, or a day of a flood of refusals.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Bounds of [`AuditConfig::max_bytes`]. The lower one is the most that the audit log writes at once.
const MAX_BYTES_MIN: u64 = 64 * 1024;
const MAX_BYTES_MAX: u64 = 1 << 40;

/// Why `audit_keep` is refused.
const KEEP_GONE: Never = Never::Gone(
    "the relay keeps one full file, audit_file with .old at its end; logrotate keeps more, see \"The audit log\" in \
     docs/OPERATIONS.md",
);

/// Settings of the audit log.
#[derive(Debug, Default, Args)]
pub(super) struct AuditSettings {
    /// File for the audit log: registrations, calls and refusals as JSON lines [default: none]
    #[arg(long, value_name = "FILE")]
    audit_file: Option<PathBuf>,
    /// Size at which audit_file becomes audit_file.old, the one full file kept [default: 268435456]
    #[arg(long, value_name = "BYTES", value_parser = number::<u64>)]
    audit_max_bytes: Option<u64>,
    /// Gone: one full audit file is kept, logrotate keeps more
    #[arg(long, value_name = "N", value_parser = never(KEEP_GONE))]
    audit_keep: Option<Infallible>,
}

impl AuditSettings {
    pub(super) fn config(self) -> Result<Option<AuditConfig>, ConfigError> {
        let Some(file) = self.audit_file else {
            return match self.audit_max_bytes {
                Some(_) => conflict("audit_max_bytes does nothing without audit_file"),
                None => Ok(None),
            };
        };
        let mut audit = AuditConfig::new(file);
        set(&mut audit.max_bytes, self.audit_max_bytes);
        Ok(Some(audit))
    }
}

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

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        in_range(
            "audit_max_bytes",
            self.max_bytes,
            MAX_BYTES_MIN,
            MAX_BYTES_MAX,
        )
    }
}
