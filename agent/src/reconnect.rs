//! Decides when to dial again: within half a second while this machine's network settles, within seconds while a relay
//! may be restarting, after doubling waits while it is busy, never after a final refusal.
//!
//! Pure: the caller supplies random numbers and does the waiting.

use std::io;
use std::time::Duration;

use tieline_wire::{LinkEnd, RefusalReason};

use crate::error::Error;

/// Shortest wait, so that a relay that closes at once is not dialled in a tight loop.
pub const BACKOFF_MIN: Duration = Duration::from_millis(200);

/// Longest wait of the quick phase.
///
/// With 5,000 agents that each dial every 1.1 s on average, a relay sees some 4,500 dials a second, and all
/// agents within 2 s of its return. A refused dial costs the relay's kernel one packet, a handshake some 0.2 ms of
/// one core.
pub const QUICK_WAIT_MAX: Duration = Duration::from_secs(2);

/// Longest wait while this machine's network settles after a change or a sleep, if the error may come from that: not all
/// agents of a relay dial together then.
pub(crate) const SETTLING_WAIT_MAX: Duration = Duration::from_millis(500);

/// Sum of waits up to which a wait is quick: a restart of a relay, or of a proxy in front of it, takes less time.
pub const QUICK_PHASE: Duration = Duration::from_secs(60);

/// Ceiling of the first wait after the quick phase, or after a relay reports that it is busy.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(1);

/// Largest ceiling of a wait.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Average wait before a name that is bound to another agent is asked for again; drawn from 3/4 to 5/4 of this
/// value. Only an operator, or the other agent's end, frees the name.
pub const NAME_WAIT: Duration = Duration::from_secs(60);

/// Computes waits from the failures since the last registration.
///
/// Waits are drawn evenly from a range, so that the agents of a restarted relay do not arrive together: from
/// [`BACKOFF_MIN`] to [`QUICK_WAIT_MAX`] at first, then from [`BACKOFF_MIN`] to a ceiling that doubles up to
/// [`BACKOFF_MAX`]. While this machine's network settles, they go up to half a second. An error that a quick
/// retry would worsen, or could not change, skips the short waits. A login that a proxy refused has waits of its own.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    /// Number of failures after the quick phase; sets the ceiling.
    failures: u32,
    /// Sum of the quick waits so far.
    waited: Duration,
}

impl Backoff {
    /// Starts over after a successful registration.
    pub const fn registered(&mut self) {
        self.failures = 0;
        self.waited = Duration::ZERO;
    }

    /// Wait before the next attempt after `error`; `None` if another attempt would fail in the same way. `settles` is
    /// true while this machine's network may not be usable yet.
    pub fn after(
        &mut self,
        error: &Error,
        settles: bool,
        random: &mut fastrand::Rng,
    ) -> Option<Duration> {
        if error.is_final() {
            return None;
        }
        if matches!(error, Error::NameHeld { .. }) {
            return Some(NAME_WAIT.mul_f64(0.75 + random.f64() / 2.0));
        }
        // The dialler counts the refusals, so that all links of an agent have one wait.
        if let Some(refused) = error.refused_login() {
            return Some(refused.again.max(BACKOFF_MIN));
        }
        let settles = settles && may_be_own_network(error);
        let is_quick = (settles || self.waited < QUICK_PHASE) && !backs_off_at_once(error);
        let ceiling = if is_quick && settles {
            SETTLING_WAIT_MAX
        } else if is_quick {
            QUICK_WAIT_MAX
        } else {
            self.failures = self.failures.saturating_add(1);
            let doublings = (self.failures - 1).min(16);
            BACKOFF_FIRST
                .saturating_mul(1 << doublings)
                .min(BACKOFF_MAX)
        };
        let wait = BACKOFF_MIN + (ceiling - BACKOFF_MIN).mul_f64(random.f64());
        if is_quick {
            self.waited += wait;
        }
        Some(wait)
    }
}

/// True for an error that an unusable network of this machine may cause. A relay that refuses a connection, or that ends
/// a link with a reason, is reachable.
fn may_be_own_network(error: &Error) -> bool {
    match error {
        Error::Dial { source, .. } => source.kind() != io::ErrorKind::ConnectionRefused,
        Error::Link { reason, .. } => matches!(reason, LinkEnd::LinkLost | LinkEnd::Stale),
        _ => false,
    }
}

/// True for an error that skips the quick phase: the relay is busy or at a limit, or the token file must change first,
/// and a change of that file triggers a dial anyway.
fn backs_off_at_once(error: &Error) -> bool {
    match error {
        Error::Link { reason, .. } => matches!(
            reason,
            LinkEnd::Overload
                | LinkEnd::Limited
                | LinkEnd::LinkLimit
                | LinkEnd::SessionLimit
                // Another service answers at the relay's address; that rarely changes soon.
                | LinkEnd::Preface
        ),
        Error::Refused { reason, .. } => matches!(
            reason,
            RefusalReason::Overload
                | RefusalReason::Limited
                | RefusalReason::TunnelLimit
                | RefusalReason::AuthUnavailable
                | RefusalReason::TokenExpired
                | RefusalReason::TokenNotYet
        ),
        Error::Upgrade { is_busy, .. } => *is_busy,
        Error::Token(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{NextTry, RefusedLogin};

    const AGENTS: usize = 5_000;

    fn wait_after(error: &Error, backoff: &mut Backoff, random: &mut fastrand::Rng) -> Duration {
        let wait = backoff.after(error, false, random);
        wait.unwrap_or_else(|| panic!("{error} is not final"))
    }

    fn lost() -> Error {
        Error::link_lost("cut")
    }

    fn refused(reason: RefusalReason) -> Error {
        Error::refused(reason, String::new())
    }

    #[test]
    fn a_minute_of_quick_waits_comes_before_those_that_double() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut backoff, mut sum) = (Backoff::default(), Duration::ZERO);
            while sum < QUICK_PHASE {
                let wait = wait_after(&lost(), &mut backoff, &mut random);
                let range = BACKOFF_MIN..=QUICK_WAIT_MAX;
                assert!(range.contains(&wait), "seed {seed}: {wait:?}");
                sum += wait;
            }
            for ceiling in [1, 2, 4, 8, 16, 32, 60, 60, 60].map(Duration::from_secs) {
                let wait = wait_after(&lost(), &mut backoff, &mut random);
                let range = BACKOFF_MIN..=ceiling;
                assert!(range.contains(&wait), "seed {seed}: {wait:?}");
            }
        }
    }

    #[test]
    fn while_the_network_settles_waits_are_short_however_long_the_relay_was_out_of_reach() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff {
            failures: 10,
            waited: QUICK_PHASE,
        };
        for _ in 0..100 {
            let wait = backoff.after(&lost(), true, &mut random).unwrap();
            assert!(
                (BACKOFF_MIN..=SETTLING_WAIT_MAX).contains(&wait),
                "{wait:?}"
            );
        }
        let busy = refused(RefusalReason::Overload);
        let waits = (0..100).map(|_| backoff.after(&busy, true, &mut random).unwrap());
        assert!(waits.max() > Some(BACKOFF_MAX / 2));
    }

    #[test]
    fn a_relay_that_refuses_connections_is_not_dialled_more_often_while_the_network_settles() {
        let refuses = Error::Dial {
            relay: "tcp://relay.test:9001".to_owned(),
            source: io::ErrorKind::ConnectionRefused.into(),
        };
        for seed in 0..20 {
            let waits = |settles| {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut backoff = Backoff::default();
                let waits = (0..100).map(|_| backoff.after(&refuses, settles, &mut random));
                waits.collect::<Vec<_>>()
            };
            assert_eq!(waits(true), waits(false));
        }
    }

    #[test]
    fn a_firewall_of_this_machine_that_stops_a_dial_is_no_proxy_that_refuses_a_login() {
        let stopped = Error::Dial {
            relay: "tcp://relay.test:9001".to_owned(),
            // EPERM, as of a firewall that waits for a VPN.
            source: io::ErrorKind::PermissionDenied.into(),
        };
        let mut random = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            let wait = backoff.after(&stopped, true, &mut random).unwrap();
            assert!(wait <= SETTLING_WAIT_MAX, "{wait:?}");
        }
    }

    #[test]
    fn a_busy_relay_is_left_alone_for_longer_from_the_first_time_on() {
        let refusals = [
            RefusalReason::Overload,
            RefusalReason::Limited,
            RefusalReason::TunnelLimit,
        ];
        let ends = [
            LinkEnd::Overload,
            LinkEnd::Limited,
            LinkEnd::LinkLimit,
            LinkEnd::SessionLimit,
        ];
        let of_link = |reason| Error::of_farewell(reason, String::new());
        let errors = refusals.map(refused).into_iter();
        for error in errors.chain(ends.map(of_link)) {
            let mut random = fastrand::Rng::with_seed(7);
            let mut backoff = Backoff::default();
            let mut ceiling = BACKOFF_FIRST;
            let mut longest = Duration::ZERO;
            for _ in 0..12 {
                let wait = wait_after(&error, &mut backoff, &mut random);
                assert!(wait <= ceiling, "{error}: {wait:?}");
                longest = longest.max(wait);
                ceiling = (ceiling * 2).min(BACKOFF_MAX);
            }
            assert!(longest > BACKOFF_MAX / 2, "{error}: {longest:?}");
        }
    }

    #[test]
    fn a_refused_login_waits_until_the_proxy_may_be_asked_again_and_is_no_failure_of_the_relay() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff::default();
        for seconds in [30, 300, 900] {
            let again = Duration::from_secs(seconds);
            let text = "the proxy wants a login".to_owned();
            let next = NextTry::Process;
            let login = Error::Dial {
                relay: "https://relay.test".to_owned(),
                source: RefusedLogin { text, again, next }.into(),
            };
            assert_eq!(backoff.after(&login, true, &mut random), Some(again));
        }
        assert!(wait_after(&lost(), &mut backoff, &mut random) <= QUICK_WAIT_MAX);
    }

    #[test]
    fn waits_are_spread_over_the_whole_range() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut waits: Vec<_> = (0..1_000)
            .map(|_| {
                let mut backoff = Backoff {
                    failures: 10,
                    waited: QUICK_PHASE,
                };
                wait_after(&lost(), &mut backoff, &mut random)
            })
            .collect();
        waits.sort();
        assert!(waits[100] < Duration::from_secs(9), "{:?}", waits[100]);
        assert!(waits[900] > Duration::from_secs(51), "{:?}", waits[900]);
    }

    /// Counts the dials that a relay sees from agents that all lost it at the same moment.
    #[test]
    fn five_thousand_agents_at_once_come_back_spread_over_two_seconds() {
        const WINDOW_MS: usize = 100;
        let mut dials = vec![0_usize; 30_000 / WINDOW_MS];
        let mut first_after_10_s = Vec::new();
        for seed in 0..AGENTS {
            let mut random = fastrand::Rng::with_seed(seed as u64);
            let (mut backoff, mut at) = (Backoff::default(), Duration::ZERO);
            let mut is_back = false;
            loop {
                at += wait_after(&lost(), &mut backoff, &mut random);
                let ms = usize::try_from(at.as_millis()).unwrap();
                let Some(window) = dials.get_mut(ms / WINDOW_MS) else {
                    break;
                };
                *window += 1;
                if !is_back && ms >= 10_000 {
                    is_back = true;
                    first_after_10_s.push(ms - 10_000);
                }
            }
        }
        // An even spread is 5,000 dials in 1.1 s, or 455 in 0.1 s; the first two rounds are denser.
        let busiest = dials.iter().max().unwrap();
        assert!(*busiest < 700, "{busiest} dials in {WINDOW_MS} ms");
        // The relay returns after 10 s: each agent dials within 2 s, half of them within 0.7 s.
        first_after_10_s.sort_unstable();
        assert_eq!(first_after_10_s.len(), AGENTS);
        assert!(first_after_10_s[AGENTS - 1] <= 2_000);
        assert!(first_after_10_s[AGENTS / 2] < 700);
    }

    #[test]
    fn a_registration_starts_the_count_over() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff::default();
        for _ in 0..1_000 {
            wait_after(&lost(), &mut backoff, &mut random);
        }
        backoff.registered();
        assert!(wait_after(&lost(), &mut backoff, &mut random) <= QUICK_WAIT_MAX);
        backoff.registered();
        let busy = refused(RefusalReason::Overload);
        assert!(wait_after(&busy, &mut backoff, &mut random) <= BACKOFF_FIRST);
    }

    #[test]
    fn a_name_that_may_become_free_is_asked_for_about_once_a_minute() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            let error = Error::refused(RefusalReason::NameBound, String::new());
            let Some(wait) = backoff.after(&error, false, &mut random) else {
                panic!("a bound name may become free");
            };
            assert!((45..=75).contains(&wait.as_secs()), "{wait:?}");
        }
        // A bound name does not count as a failure of the relay.
        assert!(wait_after(&lost(), &mut backoff, &mut random) <= QUICK_WAIT_MAX);
    }

    #[test]
    fn a_final_refusal_ends_it_and_every_other_reason_does_not() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut gives_up = |error: &Error| {
            let wait = Backoff::default().after(error, false, &mut random);
            wait.is_none()
        };
        for reason in RefusalReason::ALL {
            let error = Error::refused(*reason, String::new());
            assert_eq!(gives_up(&error), reason.is_final(), "{reason:?}");
        }
        for reason in LinkEnd::ALL {
            let error = Error::of_farewell(*reason, String::new());
            assert_eq!(gives_up(&error), reason.is_final(), "{reason:?}");
        }
    }
}
