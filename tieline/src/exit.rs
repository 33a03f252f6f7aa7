//! How a command ends: its exit code, and the error line in front of it.

use std::fmt::Display;

/// Exit code of a command that did its work.
pub(crate) const DONE: u8 = 0;

/// Exit code of a command that failed.
pub(crate) const FAILED: u8 = 1;

/// Exit code for wrong usage.
pub(crate) const USAGE: u8 = 2;

/// Why a command ended early: the error line for standard error, and the exit code.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: u8,
    pub(crate) problem: String,
}

impl Ended {
    pub(crate) fn new(code: u8, problem: impl Display) -> Self {
        Self {
            code,
            problem: problem.to_string(),
        }
    }

    /// Ends a command that failed.
    pub(crate) fn failed(problem: impl Display) -> Self {
        Self::new(FAILED, problem)
    }

    /// Ends a command that was called in a wrong way.
    pub(crate) fn usage(problem: impl Display) -> Self {
        Self::new(USAGE, problem)
    }
}
