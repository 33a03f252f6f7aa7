//! How many connection IDs a peer may use up. `quinn_proto` makes a new one for each that the peer retires, at once and
//! without a limit: three bytes of a packet cost the relay as many draws as there are shards, and the frame with the new
//! ID waits in memory until the peer has acknowledged enough, which it need not do.

use std::time::{Duration, Instant};

/// Connection IDs that a peer may use up at once. A peer retires one for each change of its address.
const IDS_MAX: u32 = 64;

/// Time after which a peer may use up one more.
const INTERVAL: Duration = Duration::from_secs(1);

/// What one peer may still use up.
#[derive(Debug)]
pub(super) struct IdAllowance {
    left: u32,
    /// When `left` was last raised.
    raised: Instant,
}

impl IdAllowance {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            left: IDS_MAX,
            raised: now,
        }
    }

    /// Whether the peer may use up another one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.raised).as_secs() / INTERVAL.as_secs();
        if passed > 0 {
            let more = u32::try_from(passed).unwrap_or(IDS_MAX);
            self.left = self.left.saturating_add(more).min(IDS_MAX);
            self.raised = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_grows_again_with_time_up_to_its_limit() {
        let start = Instant::now();
        let mut allowance = IdAllowance::new(start);
        assert!((0..IDS_MAX).all(|_| allowance.take(start)));
        assert!(!allowance.take(start));
        let later = start + 2 * INTERVAL;
        assert!(allowance.take(later) && allowance.take(later));
        assert!(!allowance.take(later));
        let end = start + 10_000 * INTERVAL;
        assert!((0..IDS_MAX).all(|_| allowance.take(end)));
        assert!(!allowance.take(end));
    }
}
