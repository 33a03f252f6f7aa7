//! When a certificate is renewed, and how long to wait after an order that failed. Times are seconds since 1970.

use std::time::Duration;

/// Pause after the first failure, and the longest one. Both are shorter for certificates of less than an hour.
const PAUSE_SECONDS: i64 = 60;
const PAUSE_SECONDS_MAX: i64 = 6 * 60 * 60;

/// Shortest pause to which the end of a certificate for days shortens a longer one. Less the random quarter it is 12
/// minutes, after which Let's Encrypt forgives a failure of a name; it forgives five at once
/// (letsencrypt.org/docs/rate-limits).
const SHORTENED_SECONDS: i64 = 16 * 60;

/// Longest pause after an order from before a start. Four failures an hour are fewer than CAs allow
/// for a name (letsencrypt.org/docs/rate-limits), and an operator who has mended the cause does not wait for long.
const START_PAUSE_MAX: Duration = Duration::from_secs(15 * 60);

/// Shortest and longest time between two questions for the CA's window of renewal (RFC 9773, section 4.3.2).
const ASK_SECONDS_MIN: i64 = 60;
pub(super) const ASK_SECONDS_MAX: i64 = 24 * 60 * 60;

/// Parts of a whole that a share is counted in.
pub(super) const WHOLE: u32 = 1000;

/// Validity of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Term {
    pub(super) start: i64,
    pub(super) end: i64,
}

/// Time in which the CA wants a certificate to be renewed (ARI, RFC 9773).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start: i64,
    pub(super) end: i64,
}

impl Term {
    fn life(self) -> i64 {
        self.end.saturating_sub(self.start).max(0)
    }

    /// When the certificate is renewed: in the CA's window, but behind the first quarter of its life, since a window that
    /// always lies in the past would cause one order after another, and before the last fifth; without a window at two
    /// thirds of its life, or up to a thirtieth before. `share` of [`WHOLE`] is random, so that relays that started
    /// together do not come to the CA together.
    pub(super) fn renewal(self, window: Option<Window>, share: u32) -> i64 {
        let (life, share) = (self.life(), i64::from(share));
        match window {
            Some(window) => {
                let length = window.end.saturating_sub(window.start).max(0);
                let at = window.start.saturating_add(part(length, share));
                at.max(self.start.saturating_add(life / 4))
                    .min(self.end.saturating_sub(life / 5))
            }
            None => self.end.saturating_sub(life / 3 + part(life / 30, share)),
        }
    }

    /// Pause before the next question for the window, of which the CA says `wish`.
    pub(super) fn ask_pause(self, wish: Duration) -> i64 {
        let wish = i64::try_from(wish.as_secs()).unwrap_or(i64::MAX);
        let least = (self.life() / 60).clamp(1, ASK_SECONDS_MIN);
        wish.clamp(least, ASK_SECONDS_MAX)
    }

    /// Shortest time between two orders that succeed, so that a CA with a wrong clock is not asked again and again.
    pub(super) fn rest(self) -> Duration {
        // Rounded up: the last second of a validity counts, and is not in the difference of its ends.
        let twentieth = self.life().saturating_add(19) / 20;
        seconds(twentieth.clamp(1, PAUSE_SECONDS_MAX))
    }
}

/// Pause after `failures` orders that failed in a row: it doubles each time. While the certificate in use is valid, the
/// pause is at most a tenth of the time left, or [`SHORTENED_SECONDS`] if that is longer; a sixtieth of the
/// certificate's life in their place if it is less. Once the certificate has expired, hurry saves nothing. `share` of
/// [`WHOLE`] is random and takes away up to a quarter, but a second is left.
pub(super) fn pause(failures: u32, in_use: Option<Term>, now: i64, share: u32) -> Duration {
    let sixtieth = in_use.map_or(i64::MAX, |term| term.life() / 60).max(1);
    let first = sixtieth.min(PAUSE_SECONDS);
    let doubled = first << failures.saturating_sub(1).min(16);
    let mut pause = doubled.min(first * (PAUSE_SECONDS_MAX / PAUSE_SECONDS));
    if let Some(term) = in_use
        && now <= term.end
    {
        let left = term.end.saturating_sub(now);
        pause = pause.min((left / 10).max(sixtieth.min(SHORTENED_SECONDS)));
    }
    let pause = seconds(pause);
    (pause - pause / 4 * share.min(WHOLE) / WHOLE).max(seconds(1))
}

/// Time until the next order after `failures` in a row, the last of which this relay began at `began`, before it was
/// started. After a clock that was ahead there is none.
pub(super) fn wait_after(failures: u32, began: i64, in_use: Option<Term>, now: i64) -> Duration {
    if failures == 0 || began > now {
        return Duration::ZERO;
    }
    let pause = pause(failures, in_use, now, WHOLE).min(START_PAUSE_MAX);
    pause.saturating_sub(seconds(now.saturating_sub(began)))
}

/// Longest pause that a busy CA gets: half of what is left of the certificate in use, and no limit once none is valid.
pub(super) fn longest_pause(in_use: Option<Term>, now: i64) -> Duration {
    let left = in_use.map(|term| term.end.saturating_sub(now));
    left.filter(|left| *left > 0)
        .map_or(Duration::MAX, |left| seconds(left / 2))
}

fn part(whole: i64, share: i64) -> i64 {
    whole.saturating_mul(share) / i64::from(WHOLE)
}

/// `count` seconds, and none for a negative count.
pub(super) fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 24 * 60 * 60;
    const QUARTER: Term = Term {
        start: 0,
        end: 90 * DAY,
    };
    const MINUTE: Term = Term { start: 0, end: 60 };

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life() {
        assert_eq!(QUARTER.renewal(None, 0), 60 * DAY);
        assert_eq!(QUARTER.renewal(None, WHOLE), 57 * DAY);
        assert_eq!(MINUTE.renewal(None, 0), 40);
        // Damaged dates do no harm.
        let odd = Term {
            start: i64::MAX,
            end: i64::MIN,
        };
        assert_eq!(odd.renewal(None, WHOLE), i64::MIN);
    }

    #[test]
    fn the_window_of_the_ca_comes_before_the_rule() {
        let window = |start, end| Some(Window { start, end });
        assert_eq!(QUARTER.renewal(window(40 * DAY, 42 * DAY), 0), 40 * DAY);
        assert_eq!(QUARTER.renewal(window(40 * DAY, 42 * DAY), 500), 41 * DAY);
        // A window in the first quarter of the life, or before it, counts from then on.
        assert_eq!(MINUTE.renewal(window(-10, -5), 0), 15);
        assert_eq!(QUARTER.renewal(window(0, 24 * DAY), 500), 90 * DAY / 4);
        assert_eq!(MINUTE.renewal(window(i64::MIN, i64::MIN), WHOLE), 15);
        // A window near or behind the end does not count.
        assert_eq!(QUARTER.renewal(window(89 * DAY, 99 * DAY), 0), 72 * DAY);
        assert_eq!(QUARTER.renewal(window(i64::MAX, i64::MIN), WHOLE), 72 * DAY);
    }

    #[test]
    fn pauses_double_and_leave_time_before_the_end() {
        let seconds = |failures, in_use, now| pause(failures, in_use, now, 0).as_secs();
        let of = |failures| seconds(failures, None, 0);
        assert_eq!([of(1), of(2), of(3), of(9)], [60, 120, 240, 15_360]);
        assert_eq!([of(10), of(u32::MAX)], [21_600, 21_600]);
        // Ten days before its end a certificate for 90 days leaves time for the longest pause.
        assert_eq!(seconds(50, Some(QUARTER), 80 * DAY), 21_600);
        assert_eq!(seconds(50, Some(QUARTER), 89 * DAY), 8640);
        assert_eq!(seconds(50, Some(QUARTER), 90 * DAY - 3600), 960);
        assert_eq!(seconds(1, Some(QUARTER), 90 * DAY - 3600), 60);
        let of_minute = |failures, now| seconds(failures, Some(MINUTE), now);
        assert_eq!([of_minute(1, 40), of_minute(50, 40)], [1, 2]);
        assert_eq!(of_minute(50, 60), 1);
        assert_eq!(pause(1, None, 0, WHOLE), Duration::from_secs(45));
        // Chance does not make the shortest pause shorter.
        assert_eq!(pause(1, Some(MINUTE), 40, WHOLE), Duration::from_secs(1));
    }

    #[test]
    fn the_end_of_a_certificate_ends_the_hurry() {
        let after = |failures, in_use: Term| {
            let pause = pause(failures, Some(in_use), in_use.end + 1, 0);
            pause.as_secs()
        };
        let of = |in_use| [1, 2, 3, 50].map(|failures| after(failures, in_use));
        assert_eq!(of(QUARTER), [60, 120, 240, 21_600]);
        assert_eq!(of(MINUTE), [1, 2, 4, 360]);
        // Damaged dates do no harm.
        let odd = Term {
            start: i64::MAX,
            end: i64::MIN,
        };
        assert_eq!(pause(50, Some(odd), 0, 0).as_secs(), 360);
    }

    /// When orders begin that all fail, from second `from` of a certificate's life to half of that life behind its end.
    /// Each takes `took`; `share` makes the pauses.
    fn failing(
        term: Term,
        from: i64,
        took: Duration,
        mut share: impl FnMut() -> u32,
    ) -> Vec<Duration> {
        let mut at = seconds(from);
        let (mut began, mut failures) = (Vec::new(), 0);
        while at < seconds(term.end + term.life() / 2) {
            began.push(at);
            failures += 1;
            at += took;
            let now = i64::try_from(at.as_secs()).unwrap();
            at += pause(failures, Some(term), now, share());
        }
        began
    }

    proptest! {
        #[test]
        fn failing_orders_spare_the_ca_and_do_not_miss_the_end(
            life in prop_oneof![60..3600_i64, 3600..DAY, DAY..400 * DAY],
            due in 250..800_i64,
            took in 0..60_000_u64,
            seed in any::<u64>(),
        ) {
            let term = Term { start: 0, end: life };
            let took = Duration::from_millis(took);
            let mut random = fastrand::Rng::with_seed(seed);
            let began = failing(term, part(life, due), took, || random.u32(0..=WHOLE));
            // For a certificate of days this is an hour, and never more than that.
            let least = seconds((life / 60).min(SHORTENED_SECONDS));
            let hour = least / 4 * 3 * 5;
            prop_assert!(life < DAY || hour == seconds(3600));
            let within = |orders: &[Duration], count: usize| {
                orders.windows(count + 1).all(|it| it[count] - it[0] >= hour)
            };
            prop_assert!(within(&began, 9));
            // The first four pauses are short for a failure that does not last.
            prop_assert!(within(began.get(4..).unwrap_or_default(), 5));
            let end = seconds(life);
            let last = began.iter().rfind(|it| **it <= end).unwrap();
            prop_assert!(*last + took + least + Duration::from_secs(1) >= end);
        }

        #[test]
        fn pauses_are_those_without_a_certificate_once_it_has_expired(
            life in 3600..400 * DAY, passed in 1..i64::MAX / 2,
            failures in any::<u32>(), share in 0..=WHOLE
        ) {
            let term = Term { start: 0, end: life };
            let expired = pause(failures, Some(term), life + passed, share);
            prop_assert_eq!(expired, pause(failures, None, 0, share));
        }
    }

    #[test]
    fn a_busy_ca_does_not_outlast_the_certificate_in_use() {
        let hours = |count: u64| Duration::from_secs(count * 3600);
        assert_eq!(longest_pause(Some(QUARTER), 90 * DAY - 8 * 3600), hours(4));
        assert_eq!(longest_pause(Some(QUARTER), 90 * DAY), Duration::MAX);
        assert_eq!(longest_pause(None, 0), Duration::MAX);
    }

    #[test]
    fn a_start_waits_for_orders_that_failed_before_it_but_not_for_long() {
        let wait = |failures, passed| wait_after(failures, 1000, None, 1000 + passed).as_secs();
        assert_eq!([wait(1, 0), wait(1, 15), wait(1, 45)], [45, 30, 0]);
        assert_eq!([wait(9, 0), wait(u32::MAX, 800)], [900, 100]);
        assert_eq!([wait(0, 0), wait(9, -1), wait(9, i64::MAX - 1000)], [0; 3]);
        assert_eq!(wait_after(9, i64::MIN, None, 1000), Duration::ZERO);
        // A certificate for a minute does not end meanwhile.
        assert!(wait_after(9, 40, Some(MINUTE), 40) <= Duration::from_secs(2));
    }

    #[test]
    fn the_ca_is_not_asked_all_the_time() {
        let hours = |count: u64| Duration::from_secs(count * 3600);
        assert_eq!(QUARTER.ask_pause(hours(6)), 6 * 3600);
        assert_eq!(QUARTER.ask_pause(Duration::ZERO), 60);
        assert_eq!(QUARTER.ask_pause(Duration::MAX), DAY);
        assert_eq!(MINUTE.ask_pause(Duration::ZERO), 1);
        assert_eq!(MINUTE.rest(), Duration::from_secs(3));
        let five_minutes = Term { start: 0, end: 299 };
        assert_eq!(five_minutes.rest(), Duration::from_secs(15));
    }
}
