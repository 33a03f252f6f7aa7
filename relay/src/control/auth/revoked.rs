//! Operators' revocations, each kept for a limited time.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Denied;

/// Limit of kept revocations.
const REVOKED_MAX: usize = 10_000;

/// Time that a revocation is kept; the relay does not know when the revoked tokens expire.
pub(in crate::control) const REVOKED_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Why a revocation is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::control) enum RevokeError {
    /// The limit is reached, and earlier revocations must not be dropped.
    #[error("{REVOKED_MAX} revocations are kept already; put lasting ones into auth_denylist")]
    Full,
}

/// Kept revocations, those that end first in front.
#[derive(Debug, Default)]
pub(super) struct Revoked(VecDeque<(Instant, Denied)>);

impl Revoked {
    /// Adds a revocation; repeating one keeps it for the full time again.
    pub(super) fn add(&mut self, denied: Denied, now: Instant) -> Result<(), RevokeError> {
        self.0.retain(|(_, it)| *it != denied);
        if self.0.len() >= REVOKED_MAX {
            return Err(RevokeError::Full);
        }
        self.0.push_back((now + REVOKED_KEPT, denied));
        Ok(())
    }

    /// Drops revocations that have ended; returns whether there were any.
    pub(super) fn forget(&mut self, now: Instant) -> bool {
        let before = self.0.len();
        while self.0.front().is_some_and(|(end, _)| *end <= now) {
            self.0.pop_front();
        }
        self.0.len() < before
    }

    /// Adds a revocation from before this relay started. Must be called in order of their ends.
    pub(super) fn restore(&mut self, denied: Denied, left: Duration, now: Instant) {
        if self.0.len() < REVOKED_MAX {
            self.0.push_back((now + left, denied));
        }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Denied> {
        self.0.iter().map(|(_, denied)| denied)
    }
}
