//! Detects that this machine was asleep: its links may then be dead without a sign.

use std::time::Duration;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
use std::time::SystemTime;

/// Pause between two looks at the clock.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Time beyond [`LOOK_INTERVAL`] that counts as a sleep: a busy machine's looks may be late by less.
const SLEEP_MIN: Duration = Duration::from_secs(5);

/// Compares looks at a clock that goes on while the machine sleeps; timers of the process do not.
#[derive(Debug)]
pub(crate) struct SleepDetector {
    /// The clock at the last look.
    seen: Duration,
}

impl SleepDetector {
    /// A detector whose first look is at `now`.
    pub(crate) const fn new(now: Duration) -> Self {
        Self { seen: now }
    }

    /// How long the machine was asleep since the last look, one [`LOOK_INTERVAL`] of the process ago; `None` if it was not.
    /// A clock that was set back counts as no sleep.
    pub(crate) fn look(&mut self, now: Duration) -> Option<Duration> {
        let passed = now.saturating_sub(self.seen);
        self.seen = now;
        let slept = passed.saturating_sub(LOOK_INTERVAL);
        (slept > SLEEP_MIN).then_some(slept)
    }
}

/// A clock that goes on while the machine sleeps.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn clock() -> Duration {
    use nix::time::{ClockId, clock_gettime};

    // Linux has had this clock since version 2.6.39. A clock that stands still shows no sleep.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// The time of day: it goes on while the machine sleeps. A clock that is set forward looks like a sleep, which costs a test
/// of the links.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn clock() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_jumps_ahead_shows_a_sleep() {
        let ms = Duration::from_millis;
        let mut detector = SleepDetector::new(ms(70_000));
        for (now, slept) in [
            (71_000, None),
            // A busy machine.
            (75_500, None),
            (76_500, None),
            (82_501, Some(5_001)),
            (83_501, None),
            // Set back, and then on as usual.
            (10_000, None),
            (11_000, None),
            (3_612_000, Some(3_600_000)),
        ] {
            assert_eq!(detector.look(ms(now)), slept.map(ms), "{now}");
        }
    }

    #[test]
    fn the_clock_goes_on() {
        let before = clock();
        assert!(before > Duration::ZERO && clock() >= before);
    }
}
