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
const REGISTER_TIMEOUT: Duration = Duration::from_secs(20);

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
    /// The token's file changed since it was last asked for.
    has_new_token: bool,
    /// The question that waits, or was answered last, had the changed token.
    asked_with_new_token: bool,
    backoff: Backoff,
    /// Whether this run of the agent ever had the tunnel.
    had: bool,
}

#[derive(Debug)]
enum Phase {
    Asked,
    Up { ends_at: Option<Instant> },
    Refused(Refusal),
}

impl Registrations {
    /// All targets, asked for now; of each, whether this run `had` its tunnel before.
    pub(super) fn new(had: impl Iterator<Item = bool>, now: Instant) -> Self {
        let standing = |had| Standing {
            phase: Phase::Asked,
            asked_at: Some(now),
            due_at: None,
            has_new_token: false,
            asked_with_new_token: false,
            backoff: Backoff::default(),
            had,
        };
        Self(had.map(standing).collect())
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
        it.had = true;
        let before = std::mem::replace(&mut it.phase, Phase::Up { ends_at });
        let is_fresh = std::mem::take(&mut it.asked_with_new_token);
        let (change, wait) = match (before, ends_at) {
            // Another token may well end sooner than the one before: it is the one that counts now.
            (Phase::Up { ends_at: Some(was) }, Some(end))
                if end < was + RENEWED_MIN && !(is_fresh && end + RENEWED_MIN <= was) =>
            {
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
        self.lost(target, refusal, now, random)
    }

    /// A target has no tunnel: the relay refused it, or took it back. The latter answers no question;
    /// one that crossed it on its way has its answer to come, and that counts.
    pub(super) fn lost(
        &mut self,
        target: usize,
        refusal: Refusal,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Change {
        let it = &mut self.0[target];
        let error = Error::refused_tunnel(&refusal, it.had);
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
                Phase::Refused(refusal) => awaits_token(refusal.reason),
                Phase::Asked => false,
            };
            if waits {
                it.due_at = Some(now);
                it.has_new_token = true;
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
                it.asked_with_new_token |= std::mem::take(&mut it.has_new_token);
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

    /// Whether the relay leaves a question unanswered while no tunnel is up: the link is of no use.
    pub(super) fn is_unanswered(&self, now: Instant) -> bool {
        let is_late = |at: Instant| now >= at + REGISTER_TIMEOUT;
        !self.any_up() && self.0.iter().any(|it| it.asked_at.is_some_and(is_late))
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
        let mut first: Option<Error> = None;
        for it in &self.0 {
            let Phase::Refused(refusal) = &it.phase else {
                return None;
            };
            if it.asked_at.is_some() {
                return None;
            }
            let error = Error::refused_tunnel(refusal, it.had);
            first = match first {
                Some(first) if !first.is_final() || error.is_final() => Some(first),
                _ => Some(error),
            };
        }
        first
    }
}

/// Whether a tunnel that is up stays so when the answer to its renewal is this. The relay looks at
/// the token before it touches the name, and leaves the tunnel as it was where the name is not for the
/// holder of this token. One that it takes back, for whatever reason, does not.
const fn keeps_tunnel(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::Superseded | Reason::ClaimTimeout | Reason::Cancelled
    )
}

/// Whether another token in its file may change this refusal.
pub(super) const fn awaits_token(reason: Reason) -> bool {
    matches!(reason, Reason::TokenExpired | Reason::TokenNotYet)
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
mod tests;
