//! Window bytes that the sessions of one link share above each session's floor, and the budget that
//! the links of one owner share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::limits::{LINK_QUEUE_BYTES_MAX, SESSION_CREDIT_BYTES, SESSION_WINDOW_BYTES_MAX};

/// Queued bytes of a link that its owner's budget may be unaware of, so that small messages cost no
/// shared counter.
const QUEUE_STEP_BYTES: usize = 64 * 1024;

/// Size in bytes below which a window may use all of the shared budget to grow, instead of half.
const SMALL_WINDOW_BYTES: u32 = 256 * 1024;

/// Session bytes that all links of one owner may hold per direction, above the initial credit of
/// each session: windows granted to peers, and payload that waits for a link.
///
/// Once the budget is used up, windows stop growing, larger ones shrink as grants fall due, and a sender
/// may queue only the initial credit of a session.
#[derive(Debug)]
pub struct SharedBudget {
    limit: u64,
    windows: AtomicU64,
    /// Number of windows above the floor.
    holders: AtomicU64,
    queued: AtomicU64,
    /// How often less was left than a window would have used.
    short: AtomicU64,
}

impl SharedBudget {
    /// A budget of `limit` bytes per direction.
    #[must_use]
    pub const fn new(limit: u64) -> Self {
        Self {
            limit,
            windows: AtomicU64::new(0),
            holders: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            short: AtomicU64::new(0),
        }
    }

    /// Limit of the budget in bytes per direction.
    #[must_use]
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// Counts `bytes` of an ended session that were not taken yet, as if the session still had a
    /// window for them.
    pub fn charge(self: &Arc<Self>, bytes: u64) -> Charge {
        self.windows.fetch_add(bytes, Relaxed);
        Charge {
            shared: Arc::clone(self),
            bytes,
        }
    }

    /// Bytes left for a window that is `window` now. Half of the budget is reserved for small windows:
    /// peers that let their windows grow and then stop reading cannot use up all of it.
    fn left(&self, window: u32) -> u64 {
        let limit = if window < SMALL_WINDOW_BYTES {
            self.limit
        } else {
            self.limit / 2
        };
        limit.saturating_sub(self.windows())
    }

    /// Window bytes granted to peers above the floor, and the bytes of [`SharedBudget::charge`].
    #[must_use]
    pub fn windows(&self) -> u64 {
        self.windows.load(Relaxed)
    }

    /// Bytes that wait for a link; each link's last 64 KiB may be missing.
    #[must_use]
    pub fn queued(&self) -> u64 {
        self.queued.load(Relaxed)
    }

    /// How often the used-up budget kept a window from growing as far as it would have.
    #[must_use]
    pub fn short(&self) -> u64 {
        self.short.load(Relaxed)
    }
}

/// Bytes of a [`SharedBudget`] that are in use until this is dropped.
#[derive(Debug)]
pub struct Charge {
    shared: Arc<SharedBudget>,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shared.windows.fetch_sub(self.bytes, Relaxed);
    }
}

impl Default for SharedBudget {
    /// No limit.
    fn default() -> Self {
        Self::new(u64::MAX)
    }
}

/// The window budget of one link, and its part of the shared budget.
#[derive(Debug)]
pub(super) struct Budget {
    limit: u64,
    used: u64,
    /// Number of windows above the floor.
    holders: u64,
    /// Bytes of all sessions that wait for the link.
    queued: usize,
    /// The part of `queued` that `shared` knows of.
    queued_told: usize,
    shared: Arc<SharedBudget>,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            used: 0,
            holders: 0,
            queued: 0,
            queued_told: 0,
            shared: Arc::default(),
        }
    }

    /// Draws from `shared` from now on.
    pub(super) fn share_with(&mut self, shared: Arc<SharedBudget>) {
        self.leave();
        self.shared = shared;
        self.shared.windows.fetch_add(self.used, Relaxed);
        self.shared.holders.fetch_add(self.holders, Relaxed);
        self.tell_queued();
    }

    /// Returns to the shared budget all that this link holds of it.
    fn leave(&mut self) {
        self.shared.windows.fetch_sub(self.used, Relaxed);
        self.shared.holders.fetch_sub(self.holders, Relaxed);
        self.shared
            .queued
            .fetch_sub(self.queued_told as u64, Relaxed);
        self.queued_told = 0;
    }

    #[cfg(test)]
    pub(super) const fn queued(&self) -> usize {
        self.queued
    }

    #[cfg(test)]
    pub(super) const fn used(&self) -> u64 {
        self.used
    }

    #[cfg(test)]
    pub(super) const fn holders(&self) -> u64 {
        self.holders
    }

    /// Bytes by which a window that is `window` now, and is used up quickly, may grow: at most to
    /// twice its size.
    pub(super) fn growth(&self, window: u32) -> u32 {
        let most = self.share(window).saturating_sub(window).min(window);
        let left = bounded(self.limit - self.used);
        let shared = bounded(self.shared.left(window));
        if shared < left.min(most) || self.is_share_short(window) {
            self.shared.short.fetch_add(1, Relaxed);
        }
        most.min(left).min(shared)
    }

    /// Largest size of a window that is `window` now, so that all growing windows get the same.
    pub(super) fn share(&self, window: u32) -> u32 {
        self.own_share(window)
            .min(self.shared_share(window))
            .clamp(SESSION_CREDIT_BYTES, SESSION_WINDOW_BYTES_MAX)
    }

    fn own_share(&self, window: u32) -> u32 {
        bounded(self.limit / (self.holders + newcomer(window)))
    }

    fn shared_share(&self, window: u32) -> u32 {
        let holders = self.shared.holders.load(Relaxed) + newcomer(window);
        bounded(self.shared.limit / holders.max(1))
    }

    /// True if the shared budget keeps a window from doubling.
    fn is_share_short(&self, window: u32) -> bool {
        let wanted = window.saturating_mul(2).min(SESSION_WINDOW_BYTES_MAX);
        self.shared_share(window) < wanted.min(self.own_share(window))
    }

    /// Accounts for a window that changes from `before` to `after`.
    pub(super) fn account(&mut self, before: u32, after: u32) {
        let (before, after) = (above_floor(before), above_floor(after));
        if before == after {
            return;
        }
        let (used, holders) = (self.used, self.holders);
        self.used = used + after - before;
        self.holders = holders + u64::from(after > 0) - u64::from(before > 0);
        // Wrapping sums come out right for increases and decreases alike.
        let Self { shared, .. } = self;
        let change = |sum: &AtomicU64, before: u64, after: u64| {
            sum.fetch_add(after.wrapping_sub(before), Relaxed);
        };
        change(&shared.windows, used, self.used);
        change(&shared.holders, holders, self.holders);
    }

    /// `count` bytes joined a session's queue.
    pub(super) fn queue(&mut self, count: usize) {
        self.queued += count;
        if self.queued >= self.queued_told + QUEUE_STEP_BYTES {
            self.tell_queued();
        }
    }

    /// `count` bytes left a session's queue.
    pub(super) fn dequeue(&mut self, count: usize) {
        self.queued -= count;
        let is_empty = self.queued == 0 && self.queued_told > 0;
        if is_empty || self.queued + QUEUE_STEP_BYTES <= self.queued_told {
            self.tell_queued();
        }
    }

    fn tell_queued(&mut self) {
        let change = (self.queued as u64).wrapping_sub(self.queued_told as u64);
        self.shared.queued.fetch_add(change, Relaxed);
        self.queued_told = self.queued;
    }

    /// True once so many bytes wait, on this link or on all links that share the budget, that each
    /// session may queue only its initial credit.
    pub(super) fn is_queue_full(&self) -> bool {
        self.queued >= LINK_QUEUE_BYTES_MAX || self.shared.queued() >= self.shared.limit
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The part of a window that is drawn from a budget.
fn above_floor(window: u32) -> u64 {
    u64::from(window.saturating_sub(SESSION_CREDIT_BYTES))
}

/// 1 for a window that is not among the counted holders yet, else 0.
fn newcomer(window: u32) -> u64 {
    u64::from(above_floor(window) == 0)
}

fn bounded(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
