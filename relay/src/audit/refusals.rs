//! Rate limit for noted refusals: any peer that can connect can cause refusals, and a flood must not push
//! the important entries out of the file.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::time::{Duration, Instant};

/// Refusals noted per second in the long run. A flood then writes some 250 MB a day, at 300 bytes
/// each; the files kept by default hold 270 MB or more.
const PER_SECOND: u64 = 10;

/// Refusals noted at once after a quiet time, such as those of a whole studio whose key changed.
const BURST: u64 = 1000;

const PRICE_NS: u64 = 1_000_000_000 / PER_SECOND;

/// Time from the first refusal left out to the entry that counts them.
const SUM_INTERVAL: Duration = Duration::from_secs(10);

/// What happens to one refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    Noted,
    /// Left out as the first since the last count: the file must state the count after [`SUM_INTERVAL`].
    First,
    LeftOut,
}

/// Lock-free counters of noted and left-out refusals, shared by all shards.
#[derive(Debug)]
pub(super) struct Refusals {
    started: Instant,
    /// Time at which the rate limit has paid for all noted refusals, in nanoseconds since `started`.
    paid_at: AtomicU64,
    /// Refusals left out since the start.
    left_out: AtomicU64,
    /// Refusals left out that the file has not counted yet.
    untold: AtomicU64,
    /// Time of the first uncounted refusal left out, in nanoseconds since `started`; 0 without any.
    since: AtomicU64,
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            paid_at: AtomicU64::default(),
            left_out: AtomicU64::default(),
            untold: AtomicU64::default(),
            since: AtomicU64::default(),
        }
    }
}

impl Refusals {
    /// Nanoseconds since `started`.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX / 2)
    }

    /// Decides on a refusal at `now`, and counts it if it is left out.
    pub(super) fn rule(&self, now: u64) -> Ruling {
        let paid = self.paid_at.fetch_update(AcqRel, Acquire, |paid_at| {
            let then = paid_at.max(now) + PRICE_NS;
            (then <= now + BURST * PRICE_NS).then_some(then)
        });
        if paid.is_ok() {
            return Ruling::Noted;
        }
        self.left_out.fetch_add(1, Relaxed);
        self.untold.fetch_add(1, AcqRel);
        let since = &self.since;
        match since.compare_exchange(0, now.max(1), AcqRel, Acquire) {
            Ok(_) => Ruling::First,
            Err(_) => Ruling::LeftOut,
        }
    }

    /// Time until the file must count the refusals left out, if there are any.
    pub(super) fn due_in(&self, now: u64) -> Option<Duration> {
        let since = match self.since.load(Acquire) {
            0 => return None,
            since => Duration::from_nanos(now.saturating_sub(since)),
        };
        Some(SUM_INTERVAL.saturating_sub(since))
    }

    /// Takes the number of uncounted refusals left out, and the time since the first, for the file.
    pub(super) fn tell(&self, now: u64) -> (u64, Duration) {
        let since = self.since.swap(0, AcqRel);
        let count = self.untold.swap(0, AcqRel);
        (count, Duration::from_nanos(now.saturating_sub(since)))
    }

    /// Refusals left out since the start.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_flood_is_noted_at_first_and_then_now_and_then() {
        let refusals = Refusals::default();
        let noted = |now: u64, count: u64| {
            let rulings = (0..count).map(|_| refusals.rule(now));
            rulings.filter(|it| *it == Ruling::Noted).count() as u64
        };
        let start = 1000 * SECOND;
        assert_eq!(noted(start, BURST), BURST);
        assert_eq!((refusals.left_out(), refusals.due_in(start)), (0, None));
        assert_eq!(refusals.rule(start), Ruling::First);
        assert_eq!(refusals.rule(start), Ruling::LeftOut);
        assert_eq!(noted(start + 3 * SECOND, 500), 3 * PER_SECOND);
        assert_eq!(noted(start + 10_000 * SECOND, 2 * BURST), BURST);
    }

    #[test]
    fn those_that_are_left_out_are_told_together_after_a_while() {
        let refusals = Refusals::default();
        let start = 1000 * SECOND;
        for _ in 0..BURST + 7 {
            refusals.rule(start);
        }
        let due = |seconds: u64| refusals.due_in(start + seconds * SECOND);
        assert_eq!(due(0), Some(SUM_INTERVAL));
        assert_eq!(due(4), Some(SUM_INTERVAL - Duration::from_secs(4)));
        assert_eq!(due(60), Some(Duration::ZERO));
        let told = refusals.tell(start + 12 * SECOND);
        assert_eq!(told, (7, Duration::from_secs(12)));
        assert_eq!((due(60), refusals.left_out()), (None, 7));
    }
}
