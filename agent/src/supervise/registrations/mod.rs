//! State of the registrations of one link, and when to ask the relay again. Pure: the caller supplies time and
//! random numbers, and sends the registrations.

use std::time::Duration;

use tieline_wire::{Refusal, RefusalReason};
use tokio::time::Instant;

use crate::error::Error;
use crate::reconnect::{BACKOFF_MAX, Backoff};

/// Time limit for the relay to answer a registration.
///
/// Ten times the 2 s after which a relay withdraws a claim by itself.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(20);

/// Time before its end at which a permission is renewed at the latest, if it lasts much longer.
const RENEW_MARGIN: Duration = Duration::from_secs(5);

/// Shortest time between two attempts to renew, so that the last seconds of a permission do not cause a flood.
const RENEW_PAUSE_MIN: Duration = Duration::from_secs(1);

/// Longest time between two attempts to renew, after an attempt that did not extend the permission.
const RENEW_PAUSE_MAX: Duration = Duration::from_secs(300);

/// A new end that is less than this later than the old end counts as unchanged: both ends are rounded to whole
/// seconds.
const RENEWED_MIN: Duration = Duration::from_secs(2);

/// Effect of the relay's answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The tunnel is up.
    Up,
    /// The tunnel was up, and its permission was extended.
    Renewed,
    /// The tunnel was up, and was registered again as it was.
    Repeated,
    /// The tunnel is up, and its permission still ends after this time.
    Ending(Duration),
    /// The target has no tunnel.
    Refused { is_final: bool },
}

/// State of all targets of one link, in the order of the settings.
#[derive(Debug)]
pub(super) struct Registrations(Vec<TargetRegistration>);

#[derive(Debug)]
struct TargetRegistration {
    phase: Phase,
    /// When the registration was sent that waits for its answer.
    asked_at: Option<Instant>,
    /// When to register next.
    due_at: Option<Instant>,
    /// True if the token file changed since the last registration.
    has_new_token: bool,
    /// True if the registration that waits, or was answered last, had the changed token.
    asked_with_new_token: bool,
    /// True if the registration that is due, or waits, asks for no more than the tunnel has.
    is_repeat: bool,
    backoff: Backoff,
    /// True if this run of the agent ever had the tunnel.
    had: bool,
}

#[derive(Debug)]
enum Phase {
    Asked,
    Up { ends_at: Option<Instant> },
    Refused(Refusal),
}

impl Registrations {
    /// All targets, registered at `now`; `had` tells for each target whether this run had its tunnel before.
    pub(super) fn new(had: impl Iterator<Item = bool>, now: Instant) -> Self {
        let standing = |had| TargetRegistration {
            phase: Phase::Asked,
            asked_at: Some(now),
            due_at: None,
            has_new_token: false,
            asked_with_new_token: false,
            is_repeat: false,
            backoff: Backoff::default(),
            had,
        };
        Self(had.map(standing).collect())
    }

    /// Records that the relay granted a target's tunnel for `expires_in_s` seconds; 0 means without end.
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
        let is_repeat = std::mem::take(&mut it.is_repeat);
        let (change, wait) = match (before, ends_at) {
            (Phase::Up { .. }, _) if is_repeat => {
                (Change::Repeated, ends_at.map(|_| renew_in(lasts, random)))
            }
            // A fresh token may end sooner than the one before: the fresh token decides.
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

    /// Records that the relay refused a target's tunnel, or its renewal.
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

    /// Records that a target has no tunnel: the relay refused it, or took it back. A tunnel taken back leaves an open
    /// registration open: its answer is still to come, and counts.
    pub(super) fn lost(
        &mut self,
        target: usize,
        refusal: Refusal,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Change {
        let it = &mut self.0[target];
        let error = Error::refused_tunnel(&refusal, it.had);
        it.is_repeat = false;
        it.phase = Phase::Refused(refusal);
        it.due_at = it
            .backoff
            .after(&error, false, random)
            .map(|wait| now + wait);
        Change::Refused {
            is_final: it.due_at.is_none(),
        }
    }

    /// Records that a registration could not be sent, or did not extend the permission; returns how long the permission
    /// still lasts, if the tunnel is up.
    pub(super) fn not_renewed(
        &mut self,
        target: usize,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Option<Duration> {
        let it = &mut self.0[target];
        (it.asked_at, it.is_repeat) = (None, false);
        let (left, is_up) = match it.phase {
            Phase::Up { ends_at: Some(end) } => (end.saturating_duration_since(now), true),
            Phase::Up { ends_at: None } => (Duration::MAX, true),
            Phase::Asked | Phase::Refused(_) => (BACKOFF_MAX, false),
        };
        it.due_at = Some(now + renew_again_in(left, random));
        is_up.then_some(left)
    }

    /// Records that the token file changed: targets that wait for a better token are due now.
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

    /// Has every tunnel that is up registered again at once: another link of the agent may have had it meanwhile.
    pub(super) fn again(&mut self, now: Instant) {
        for it in &mut self.0 {
            if matches!(it.phase, Phase::Up { .. }) {
                it.due_at = Some(now);
                it.is_repeat = true;
            }
        }
    }

    /// True if each target whose tunnel is up is among `granted`, the targets of another link's tunnels.
    pub(super) fn are_covered_by(&self, granted: &[usize]) -> bool {
        let mut targets = self.0.iter().enumerate();
        targets
            .all(|(target, it)| !matches!(it.phase, Phase::Up { .. }) || granted.contains(&target))
    }

    /// Takes the targets to register now; from now on they wait for an answer.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<usize> {
        let mut due = Vec::new();
        for (target, it) in self.0.iter_mut().enumerate() {
            // A late answer is asked for again. A due target whose answer is still on its way waits for it:
            // the relay works through registrations in order.
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

    /// When to call [`Self::take_due`] next.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        let wakes_at = |it: &TargetRegistration| match it.asked_at {
            Some(at) => Some(at + REGISTER_TIMEOUT),
            None => it.due_at,
        };
        self.0.iter().filter_map(wakes_at).min()
    }

    /// True if the relay leaves a registration unanswered while no tunnel is up: the link is unusable.
    pub(super) fn is_unanswered(&self, now: Instant) -> bool {
        let is_late = |at: Instant| now >= at + REGISTER_TIMEOUT;
        !self.any_up() && self.0.iter().any(|it| it.asked_at.is_some_and(is_late))
    }

    /// True if any tunnel is up.
    pub(super) fn any_up(&self) -> bool {
        let up = |it: &TargetRegistration| matches!(it.phase, Phase::Up { .. });
        self.0.iter().any(up)
    }

    /// The reason why this link is unusable, once every target has its answer and no target has a tunnel.
    ///
    /// The error is final if all refusals are final; otherwise a new link may succeed.
    pub(super) fn failure(&self) -> Option<Error> {
        let error_of = |it: &TargetRegistration| match (&it.phase, it.asked_at) {
            (Phase::Refused(refusal), None) => Some(Error::refused_tunnel(refusal, it.had)),
            _ => None,
        };
        let errors: Option<Vec<_>> = self.0.iter().map(error_of).collect();
        // The first error that is not final, else the first one.
        errors?.into_iter().min_by_key(Error::is_final)
    }
}

/// True if a tunnel stays up although its renewal was refused for `reason`. The relay checks the token before it
/// touches the name, and leaves the tunnel unchanged if the name is not for this token's holder. A tunnel that the
/// relay takes back is down, for any reason.
const fn keeps_tunnel(reason: RefusalReason) -> bool {
    !matches!(
        reason,
        RefusalReason::Superseded | RefusalReason::ClaimTimeout | RefusalReason::Cancelled
    )
}

/// True if another token in the token file may change this refusal.
pub(super) const fn awaits_token(reason: RefusalReason) -> bool {
    matches!(
        reason,
        RefusalReason::TokenExpired | RefusalReason::TokenNotYet
    )
}

/// Wait before a permission of length `lasts` is renewed: up to two thirds of it, with jitter, so that agents that
/// started together do not ask together.
fn renew_in(lasts: Duration, random: &mut fastrand::Rng) -> Duration {
    let share = (lasts * 2 / 3).mul_f64(1.0 - 0.1 * random.f64());
    let least = (lasts / 4).max(RENEW_PAUSE_MIN / 2);
    share.min(lasts.saturating_sub(RENEW_MARGIN)).max(least)
}

/// Wait after an attempt that did not extend the permission: the less time is left, the shorter.
fn renew_again_in(left: Duration, random: &mut fastrand::Rng) -> Duration {
    let wait = (left / 2).clamp(RENEW_PAUSE_MIN, RENEW_PAUSE_MAX);
    wait.mul_f64(1.0 - 0.1 * random.f64()).max(RENEW_PAUSE_MIN)
}

#[cfg(test)]
mod tests;
