//! Window bytes that the sessions of one link share, beside the floor that each has for itself.

use crate::limits::{SESSION_CREDIT_BYTES, SESSION_WINDOW_BYTES_MAX};

/// How much of it is used, and by how many windows.
#[derive(Debug)]
pub(super) struct Budget {
    limit: u64,
    used: u64,
    /// Windows above the floor.
    holders: u64,
}

impl Budget {
    pub(super) const fn new(limit: u64) -> Self {
        Self {
            limit,
            used: 0,
            holders: 0,
        }
    }

    #[cfg(test)]
    pub(super) const fn used(&self) -> u64 {
        self.used
    }

    #[cfg(test)]
    pub(super) const fn holders(&self) -> u64 {
        self.holders
    }

    /// Bytes that no window holds.
    pub(super) fn left(&self) -> u32 {
        u32::try_from(self.limit - self.used).unwrap_or(u32::MAX)
    }

    /// How large a window that is `window` now may be, so that all that grow get the same.
    pub(super) fn share(&self, window: u32) -> u32 {
        let holders = self.holders + u64::from(above_floor(window) == 0);
        u32::try_from(self.limit / holders)
            .unwrap_or(u32::MAX)
            .clamp(SESSION_CREDIT_BYTES, SESSION_WINDOW_BYTES_MAX)
    }

    /// A window changes from `before` to `after`.
    pub(super) fn account(&mut self, before: u32, after: u32) {
        let (before, after) = (above_floor(before), above_floor(after));
        self.used = self.used + after - before;
        self.holders = self.holders + u64::from(after > 0) - u64::from(before > 0);
    }
}

/// The part of a window that is drawn from a budget.
fn above_floor(window: u32) -> u64 {
    u64::from(window.saturating_sub(SESSION_CREDIT_BYTES))
}
