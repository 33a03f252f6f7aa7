//! When to dial again: full jitter, reset by a registration, never after a final refusal.
//!
//! Pure: the caller brings the random numbers and does the waiting.

use std::time::Duration;

use crate::error::Error;

/// Ceiling of the first wait.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(1);

/// Ceiling of every later wait.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Shortest wait, so that a relay that closes at once is not dialled in a tight loop.
pub const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// What to do after a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Dial again after this wait.
    RetryIn(Duration),
    /// Stop: the same would happen again.
    GiveUp,
}

/// Counts failures since the last registration.
///
/// The wait is drawn evenly from zero to a ceiling that doubles, so that the agents of a relay
/// that came back do not arrive together.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// A registration succeeded: the next failure starts over.
    pub const fn registered(&mut self) {
        self.failures = 0;
    }

    /// What to do after `error`.
    pub fn after(&mut self, error: &Error, random: &mut fastrand::Rng) -> Next {
        if error.is_final() {
            return Next::GiveUp;
        }
        let ceiling = BACKOFF_FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        Next::RetryIn(ceiling.mul_f64(random.f64()).max(BACKOFF_MIN))
    }
}

#[cfg(test)]
mod tests {
    use tieline_wire::Reason;

    use super::*;

    fn wait(backoff: &mut Backoff, random: &mut fastrand::Rng) -> Duration {
        match backoff.after(&Error::link_lost("cut"), random) {
            Next::RetryIn(wait) => wait,
            Next::GiveUp => panic!("a lost link is worth another try"),
        }
    }

    #[test]
    fn waits_stay_below_a_ceiling_that_doubles_up_to_a_minute() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut backoff = Backoff::default();
            for ceiling in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
                let wait = wait(&mut backoff, &mut random);
                assert!(wait >= BACKOFF_MIN, "seed {seed}: {wait:?}");
                assert!(
                    wait <= Duration::from_secs(ceiling),
                    "seed {seed}: {wait:?}"
                );
            }
        }
    }

    #[test]
    fn waits_are_spread_over_the_whole_range() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut waits: Vec<_> = (0..1_000)
            .map(|_| wait(&mut Backoff { failures: 10 }, &mut random))
            .collect();
        waits.sort();
        assert!(waits[100] < Duration::from_secs(9), "{:?}", waits[100]);
        assert!(waits[900] > Duration::from_secs(51), "{:?}", waits[900]);
    }

    #[test]
    fn a_registration_starts_the_count_over() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff::default();
        for _ in 0..1_000 {
            wait(&mut backoff, &mut random);
        }
        backoff.registered();
        assert!(wait(&mut backoff, &mut random) <= BACKOFF_FIRST);
    }

    #[test]
    fn a_final_refusal_ends_it_and_every_other_reason_does_not() {
        let mut random = fastrand::Rng::with_seed(1);
        for reason in Reason::ALL {
            let error = Error::refused(*reason, String::new());
            let next = Backoff::default().after(&error, &mut random);
            assert_eq!(next == Next::GiveUp, reason.is_final(), "{reason:?}");
        }
    }
}
