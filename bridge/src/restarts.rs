//! When the target's child may be started again after it has ended too soon.
//!
//! A child that ends soon after its start would be started in a loop by callers that try again: each such end doubles a
//! wait, and several in a minute make the target count as failed for a while. Requests are refused meanwhile.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Age below which the end of a child counts as too soon.
pub(crate) const QUICK_END: Duration = Duration::from_secs(10);

/// Wait after the first end that came too soon: a server that needs another try at once loses little time.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(500);

/// Longest wait: a server that is repaired is back after half a minute.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Ends within [`FAILURE_WINDOW`] that make the target count as failed.
pub(crate) const QUICK_ENDS_MAX: usize = 5;

/// Time in which ends that came too soon are counted.
pub(crate) const FAILURE_WINDOW: Duration = Duration::from_secs(60);

/// Time for which a target counts as failed.
pub const FAILURE_TIME: Duration = Duration::from_secs(60);

/// Remembers the ends that came too soon.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    /// Moments of the latest ends that came too soon.
    quick: VecDeque<Instant>,
    wait: Duration,
    /// No child starts before this moment.
    not_before: Option<Instant>,
    failed: Option<Failed>,
    reason: Box<str>,
}

#[derive(Clone, Copy, Debug)]
struct Failed {
    since: Instant,
    until: Instant,
}

/// Why no child is started now.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    /// How the latest child ended.
    pub(crate) reason: Box<str>,
    /// Time until a child may be started.
    pub(crate) wait: Duration,
}

impl Restarts {
    /// Notes that a child has ended by itself, `age` after its start.
    pub(crate) fn ended(&mut self, now: Instant, age: Duration, reason: &str) {
        if age >= QUICK_END {
            self.quick.clear();
            self.wait = Duration::ZERO;
            self.not_before = None;
            return;
        }
        self.reason = reason.into();
        self.wait = (self.wait * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
        self.not_before = Some(now + self.wait);
        self.quick.push_back(now);
        while let Some(first) = self.quick.front()
            && now.duration_since(*first) >= FAILURE_WINDOW
        {
            self.quick.pop_front();
        }
        if self.quick.len() >= QUICK_ENDS_MAX {
            self.quick.clear();
            let until = now + FAILURE_TIME;
            self.failed = Some(Failed { since: now, until });
            self.not_before = Some(until);
        }
    }

    /// Why no child may be started at `now`; `None` if one may.
    pub(crate) fn hold(&self, now: Instant) -> Option<Hold> {
        let until = self.not_before.filter(|until| *until > now)?;
        Some(Hold {
            reason: self.reason.clone(),
            wait: until.duration_since(now),
        })
    }

    /// Moment since which the target counts as failed, if it does at `now`.
    pub(crate) fn failed_since(&self, now: Instant) -> Option<Instant> {
        let failed = self.failed.filter(|failed| failed.until > now)?;
        Some(failed.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::first_moment;

    const SOON: Duration = Duration::from_secs(1);

    fn wait(restarts: &Restarts, now: Instant) -> Option<Duration> {
        restarts.hold(now).map(|hold| hold.wait)
    }

    #[test]
    fn the_wait_doubles_and_ends() {
        let (mut restarts, start) = (Restarts::default(), first_moment());
        assert_eq!(wait(&restarts, start), None);
        restarts.ended(start, SOON, "exit status 1");
        assert_eq!(wait(&restarts, start), Some(BACKOFF_MIN));
        assert_eq!(wait(&restarts, start + BACKOFF_MIN), None);
        restarts.ended(start, SOON, "exit status 1");
        assert_eq!(wait(&restarts, start), Some(BACKOFF_MIN * 2));
        assert_eq!(restarts.failed_since(start), None);
    }

    #[test]
    fn five_early_ends_in_a_minute_make_the_target_fail_for_a_minute() {
        let (mut restarts, start) = (Restarts::default(), first_moment());
        for second in 0..5 {
            restarts.ended(start + second * SOON, SOON, "exit status 1");
        }
        let now = start + 4 * SOON;
        assert_eq!(restarts.failed_since(now), Some(now));
        assert_eq!(wait(&restarts, now), Some(FAILURE_TIME));
        assert_eq!(restarts.failed_since(now + FAILURE_TIME), None);
        assert_eq!(wait(&restarts, now + FAILURE_TIME), None);
    }

    #[test]
    fn ends_far_apart_only_wait_up_to_the_longest_time() {
        let (mut restarts, start) = (Restarts::default(), first_moment());
        for turn in 0..20 {
            restarts.ended(start + turn * BACKOFF_MAX, SOON, "exit status 1");
        }
        let now = start + 19 * BACKOFF_MAX;
        assert_eq!(wait(&restarts, now), Some(BACKOFF_MAX));
        assert_eq!(restarts.failed_since(now), None);
    }

    #[test]
    fn a_long_run_clears_the_record() {
        let (mut restarts, start) = (Restarts::default(), first_moment());
        restarts.ended(start, SOON, "exit status 1");
        restarts.ended(start, QUICK_END, "exit status 0");
        assert_eq!(wait(&restarts, start), None);
        restarts.ended(start, SOON, "exit status 1");
        assert_eq!(wait(&restarts, start), Some(BACKOFF_MIN));
    }
}
