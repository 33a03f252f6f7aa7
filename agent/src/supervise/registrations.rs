//! Where the registrations of one link stand, and when to ask the relay again. Pure: the caller
//! brings time and random numbers, and does the asking.

use std::time::Duration;

use tieline_wire::{Reason, Refusal};
use tokio::time::Instant;

use crate::error::Error;
use crate::reconnect::{BACKOFF_MAX, Backoff, Next};

/// How long the relay may take to answer a registration.
///
/// Ten times the 2 s after which a relay withdraws a claim by itself.
pub(super) const REGISTER_TIMEOUT: Duration = Duration::from_secs(20);

/// A permission is renewed so long before its end, if it lasts much longer than that.
const RENEW_MARGIN: Duration = Duration::from_secs(5);

/// Shortest time between two attempts to renew, so that the last seconds of a permission bring no
/// flood.
const RENEW_PAUSE_MIN: Duration = Duration::from_secs(1);

/// Longest time between two attempts to renew, once one of them has not helped.
const RENEW_PAUSE_MAX: Duration = Duration::from_secs(300);

/// A permission that ends less than this later than before is the one before: both ends are whole
/// seconds, rounded.
const RENEWED_MIN: Duration = Duration::from_secs(2);

/// What an answer changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The tunnel is up.
    Up,
    /// It was up, and may stay so for longer.
    Renewed,
    /// It is up, and its permission ends after this time as before.
    Ending(Duration),
    /// There is no tunnel.
    Refused { is_final: bool },
}

/// All targets of one link, in the order of the settings.
#[derive(Debug)]
pub(super) struct Registrations(Vec<Standing>);

#[derive(Debug)]
struct Standing {
    phase: Phase,
    /// A question that waits for its answer, since then.
    asked_at: Option<Instant>,
    /// When to ask next.
    due_at: Option<Instant>,
    backoff: Backoff,
}

#[derive(Debug)]
enum Phase {
    Asked,
    Up { ends_at: Option<Instant> },
    Refused(Refusal),
}

impl Registrations {
    /// So many targets, all asked for now.
    pub(super) fn new(targets: usize, now: Instant) -> Self {
        let standing = || Standing {
            phase: Phase::Asked,
            asked_at: Some(now),
            due_at: None,
            backoff: Backoff::default(),
        };
        Self(std::iter::repeat_with(standing).take(targets).collect())
    }

    /// The relay granted a target's tunnel for so many seconds; 0 is for ever.
    pub(super) fn granted(
        &mut self,
        target: usize,
        expires_in_s: u32,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Change {
        let lasts = Duration::from_secs(expires_in_s.into());
        let ends_at = (expires_in_s > 0).then(|| now + lasts);
        let it = &mut self.0[target];
        it.asked_at = None;
        it.backoff.registered();
        let before = std::mem::replace(&mut it.phase, Phase::Up { ends_at });
        let (change, wait) = match (before, ends_at) {
            (Phase::Up { ends_at: Some(was) }, Some(end)) if end < was + RENEWED_MIN => {
                (Change::Ending(lasts), Some(renew_again_in(lasts, random)))
            }
            (Phase::Up { .. }, _) => (Change::Renewed, ends_at.map(|_| renew_in(lasts, random))),
            (_, _) => (Change::Up, ends_at.map(|_| renew_in(lasts, random))),
        };
        it.due_at = wait.map(|wait| now + wait);
        change
    }

    /// The relay refused a target's tunnel, or to renew it.
    pub(super) fn refused(
        &mut self,
        target: usize,
        refusal: Refusal,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Change {
        self.0[target].asked_at = None;
        if keeps_tunnel(refusal.reason)
            && let Some(left) = self.not_renewed(target, now, random)
        {
            return Change::Ending(left);
        }
        let it = &mut self.0[target];
        let error = Error::refused(refusal.reason, refusal.message.clone());
        it.phase = Phase::Refused(refusal);
        it.due_at = match it.backoff.after(&error, random) {
            Next::GiveUp => None,
            Next::RetryIn(wait) => Some(now + wait),
        };
        Change::Refused {
            is_final: it.due_at.is_none(),
        }
    }

    /// A target cannot be asked for now, or asking did not help; how long its permission still
    /// lasts, if it is up.
    pub(super) fn not_renewed(
        &mut self,
        target: usize,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Option<Duration> {
        let it = &mut self.0[target];
        it.asked_at = None;
        let (left, is_up) = match it.phase {
            Phase::Up { ends_at: Some(end) } => (end.saturating_duration_since(now), true),
            Phase::Up { ends_at: None } => (Duration::MAX, true),
            Phase::Asked | Phase::Refused(_) => (BACKOFF_MAX, false),
        };
        it.due_at = Some(now + renew_again_in(left, random));
        is_up.then_some(left)
    }

    /// The file with the token changed: what waits for a better one is due now.
    pub(super) fn token_changed(&mut self, now: Instant) {
        for it in &mut self.0 {
            let waits = match &it.phase {
                Phase::Up { ends_at } => ends_at.is_some(),
                Phase::Refused(refusal) => refusal.reason == Reason::TokenExpired,
                Phase::Asked => false,
            };
            if waits {
                it.due_at = Some(now);
            }
        }
    }

    /// The targets to ask for now; from now on they wait for an answer.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<usize> {
        let mut due = Vec::new();
        for (target, it) in self.0.iter_mut().enumerate() {
            // An answer that does not come is asked for again. One that is due already waits for
            // the one that is on its way: the relay works through them in order.
            let late = it.asked_at.is_some_and(|at| now >= at + REGISTER_TIMEOUT);
            let is_due = it.asked_at.is_none() && it.due_at.is_some_and(|at| now >= at);
            if late || is_due {
                it.asked_at = Some(now);
                it.due_at = None;
                due.push(target);
            }
        }
        due
    }

    /// When to look for due ones again.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        let wakes_at = |it: &Standing| match it.asked_at {
            Some(at) => Some(at + REGISTER_TIMEOUT),
            None => it.due_at,
        };
        self.0.iter().filter_map(wakes_at).min()
    }

    /// Whether any tunnel is up.
    pub(super) fn any_up(&self) -> bool {
        let up = |it: &Standing| matches!(it.phase, Phase::Up { .. });
        self.0.iter().any(up)
    }

    /// Why this link is of no use, once every target has its answer and none has a tunnel.
    ///
    /// It is final if all answers are; otherwise a new link may bring better ones.
    pub(super) fn failure(&self) -> Option<Error> {
        let mut first = None;
        for it in &self.0 {
            let Phase::Refused(refusal) = &it.phase else {
                return None;
            };
            if it.asked_at.is_some() {
                return None;
            }
            let error = Error::refused(refusal.reason, refusal.message.clone());
            if !error.is_final() {
                return Some(error);
            }
            first = first.or(Some(error));
        }
        first
    }
}

/// Whether a tunnel that is up stays so when it is not renewed for this reason. The relay looks at
/// the token before it touches the name; who holds the name it decides last.
const fn keeps_tunnel(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::NameTaken | Reason::Superseded | Reason::ClaimTimeout | Reason::Cancelled
    )
}

/// When to renew a permission that lasts so long: after two thirds, and a little before, so that
/// agents that started together do not ask together.
fn renew_in(lasts: Duration, random: &mut fastrand::Rng) -> Duration {
    let share = (lasts * 2 / 3).mul_f64(1.0 - 0.1 * random.f64());
    let least = (lasts / 4).max(RENEW_PAUSE_MIN / 2);
    share.min(lasts.saturating_sub(RENEW_MARGIN)).max(least)
}

/// When to try again after an attempt that did not help: the less is left, the sooner.
fn renew_again_in(left: Duration, random: &mut fastrand::Rng) -> Duration {
    let wait = (left / 2).clamp(RENEW_PAUSE_MIN, RENEW_PAUSE_MAX);
    wait.mul_f64(1.0 - 0.1 * random.f64()).max(RENEW_PAUSE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_S: u32 = 3_600;

    fn random() -> fastrand::Rng {
        fastrand::Rng::with_seed(7)
    }

    fn after(now: Instant, seconds: u64) -> Instant {
        now + Duration::from_secs(seconds)
    }

    fn refusal(reason: Reason) -> Refusal {
        let message = String::new();
        Refusal { reason, message }
    }

    #[test]
    fn a_permission_is_renewed_well_before_its_end_and_not_by_all_at_once() {
        for seed in 0..100 {
            let mut random = fastrand::Rng::with_seed(seed);
            for lasts in [8, 10, 20, 60, 3_600, 30 * 86_400].map(Duration::from_secs) {
                let wait = renew_in(lasts, &mut random);
                assert!(
                    wait <= lasts * 2 / 3 && wait >= lasts / 4,
                    "{lasts:?}: {wait:?}"
                );
                assert!(lasts - wait >= RENEW_MARGIN, "{lasts:?}: {wait:?}");
            }
            for lasts in [1, 2, 5].map(Duration::from_secs) {
                let wait = renew_in(lasts, &mut random);
                assert!(
                    wait < lasts && wait >= RENEW_PAUSE_MIN / 2,
                    "{lasts:?}: {wait:?}"
                );
            }
        }
        let mut random = random();
        let waits: Vec<_> = (0..9)
            .map(|_| renew_in(Duration::from_secs(3_600), &mut random))
            .collect();
        assert!(waits.iter().any(|wait| *wait != waits[0]));
    }

    #[test]
    fn a_token_that_does_not_change_is_tried_ever_sooner_and_never_in_a_flood() {
        let (start, mut random) = (Instant::now(), random());
        let mut it = Registrations::new(1, start);
        assert_eq!(it.granted(0, HOUR_S, start, &mut random), Change::Up);
        let end = after(start, HOUR_S.into());
        let (mut attempts, mut last_wait) = (0, Duration::MAX);
        loop {
            let now = it.wakes_at().unwrap();
            if now >= end {
                break;
            }
            assert_eq!(it.take_due(now), [0]);
            let left = u32::try_from((end - now).as_secs()).unwrap().max(1);
            let change = it.granted(0, left, now, &mut random);
            assert!(matches!(change, Change::Ending(_)), "{change:?}");
            let wait = it.wakes_at().unwrap() - now;
            assert!(wait >= RENEW_PAUSE_MIN && wait <= last_wait, "{wait:?}");
            (attempts, last_wait) = (attempts + 1, wait.max(RENEW_PAUSE_MAX));
        }
        assert!((8..30).contains(&attempts), "{attempts}");
        let now = after(start, 3_599);
        assert_eq!(it.granted(0, HOUR_S, now, &mut random), Change::Renewed);
    }

    #[test]
    fn a_renewal_that_is_refused_leaves_the_tunnel_up_and_is_tried_again() {
        let (start, mut random) = (Instant::now(), random());
        for reason in [Reason::TokenExpired, Reason::BadToken, Reason::Overload] {
            let mut it = Registrations::new(1, start);
            it.granted(0, 60, start, &mut random);
            let now = it.wakes_at().unwrap();
            it.take_due(now);
            let change = it.refused(0, refusal(reason), now, &mut random);
            assert!(matches!(change, Change::Ending(_)), "{reason:?}");
            assert!(it.any_up() && it.failure().is_none(), "{reason:?}");
            it.token_changed(now);
            assert_eq!(it.take_due(now), [0], "{reason:?}");
            assert_eq!(it.granted(0, 60, now, &mut random), Change::Renewed);
        }
    }

    #[test]
    fn a_name_that_is_lost_when_it_is_renewed_is_lost() {
        let (now, mut random) = (Instant::now(), random());
        let mut it = Registrations::new(1, now);
        it.granted(0, 60, now, &mut random);
        it.refused(0, refusal(Reason::ClaimTimeout), now, &mut random);
        assert!(!it.any_up());
        assert!(!it.failure().unwrap().is_final());
        it.refused(0, refusal(Reason::NameTaken), now, &mut random);
        assert!(it.failure().unwrap().is_final());
    }

    #[test]
    fn a_permission_without_end_is_never_renewed() {
        let (now, mut random) = (Instant::now(), random());
        let mut it = Registrations::new(2, now);
        assert_eq!(it.granted(0, 0, now, &mut random), Change::Up);
        assert_eq!(it.granted(1, 0, now, &mut random), Change::Up);
        it.token_changed(now);
        assert_eq!(it.wakes_at(), None);
        assert!(it.take_due(after(now, 1_000_000)).is_empty());
    }

    #[test]
    fn one_targets_refusal_does_not_end_the_others() {
        let (now, mut random) = (Instant::now(), random());
        let mut it = Registrations::new(3, now);
        let change = it.refused(0, refusal(Reason::NameTaken), now, &mut random);
        assert_eq!(change, Change::Refused { is_final: true });
        assert!(it.failure().is_none(), "two have no answer yet");
        it.granted(1, 0, now, &mut random);
        let change = it.refused(2, refusal(Reason::TunnelLimit), now, &mut random);
        assert_eq!(change, Change::Refused { is_final: false });
        assert!(it.failure().is_none());
        // What may get better is asked for again on the same link, and what cannot is not.
        assert_eq!(it.take_due(after(now, 60)), [2]);
        assert_eq!(it.granted(2, 0, after(now, 60), &mut random), Change::Up);
    }

    #[test]
    fn all_refused_is_final_only_if_each_of_them_is() {
        let (now, mut random) = (Instant::now(), random());
        let mut it = Registrations::new(2, now);
        it.refused(0, refusal(Reason::BadToken), now, &mut random);
        it.refused(1, refusal(Reason::NameTaken), now, &mut random);
        let error = it.failure().unwrap();
        assert_eq!((error.word(), error.is_final()), ("bad_token", true));
        it.refused(1, refusal(Reason::Overload), now, &mut random);
        let error = it.failure().unwrap();
        assert_eq!((error.word(), error.is_final()), ("overload", false));
    }

    #[test]
    fn an_answer_that_does_not_come_is_asked_for_again() {
        let (now, mut random) = (Instant::now(), random());
        let mut it = Registrations::new(2, now);
        it.granted(0, 0, now, &mut random);
        let late = now + REGISTER_TIMEOUT;
        assert_eq!(it.wakes_at(), Some(late));
        assert_eq!(it.take_due(late), [1]);
        assert_eq!(it.take_due(late), [] as [usize; 0]);
    }
}
