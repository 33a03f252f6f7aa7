//! Counts the bytes between a caller and a session on another shard, which both have left HTTP: for the caller's rate
//! limit, and for the audit log, which gets them at the end.

use std::cell::Cell;
use std::sync::Arc;

use crate::auth::Identity;
use crate::limits::RatePass;
use crate::metrics::Direction;
use crate::session::SessionAudit;

/// Counts the bytes of one connection, and notes the connection's end in the audit log when dropped.
pub(super) struct Meter {
    pass: RatePass,
    to_target: Cell<u64>,
    to_frontend: Cell<u64>,
    /// `None` if there is no audit log.
    audit: Option<Box<SessionAudit>>,
    identity: Option<Arc<Identity>>,
}

impl Meter {
    pub(super) const fn new(
        pass: RatePass,
        audit: Option<Box<SessionAudit>>,
        identity: Option<Arc<Identity>>,
    ) -> Self {
        Self {
            pass,
            to_target: Cell::new(0),
            to_frontend: Cell::new(0),
            audit,
            identity,
        }
    }

    /// Counts bytes that were moved.
    pub(super) fn moved(&self, direction: Direction, count: usize) {
        let sum = match direction {
            Direction::ToTarget => &self.to_target,
            Direction::ToFrontend => &self.to_frontend,
        };
        sum.set(sum.get() + count as u64);
        self.pass.moved(count as u64);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(audit) = &self.audit {
            let bytes = (self.to_target.get(), self.to_frontend.get());
            audit.ended(self.identity.as_deref(), bytes);
        }
    }
}
