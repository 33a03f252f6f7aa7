//! What operators revoked.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Denied;

/// Most entries.
const REVOKED_MAX: usize = 10_000;

/// How long an entry is kept: the relay does not know when the tokens behind it end.
pub(in crate::control) const REVOKED_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Why something could not be revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::control) enum RevokeError {
    /// None of the earlier ones may be forgotten for it.
    #[error("{REVOKED_MAX} revocations are kept already; put lasting ones into auth_denylist")]
    Full,
}

/// Revocations, oldest first.
#[derive(Debug, Default)]
pub(super) struct Revoked(VecDeque<(Instant, Denied)>);

impl Revoked {
    /// Adds one, or keeps it for longer.
    pub(super) fn add(&mut self, denied: Denied, now: Instant) -> Result<(), RevokeError> {
        self.0.retain(|(_, it)| *it != denied);
        if self.0.len() >= REVOKED_MAX {
            return Err(RevokeError::Full);
        }
        self.0.push_back((now + REVOKED_KEPT, denied));
        Ok(())
    }

    /// Forgets what is over; whether anything was.
    pub(super) fn forget(&mut self, now: Instant) -> bool {
        let before = self.0.len();
        while self.0.front().is_some_and(|(end, _)| *end <= now) {
            self.0.pop_front();
        }
        self.0.len() < before
    }

    /// Adds one that was revoked before this relay started, behind those that end before it.
    pub(super) fn restore(&mut self, denied: Denied, left: Duration, now: Instant) {
        if self.0.len() < REVOKED_MAX {
            self.0.push_back((now + left, denied));
        }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Denied> {
        self.0.iter().map(|(_, denied)| denied)
    }
}
