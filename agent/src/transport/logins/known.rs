//! What is known about one login at a proxy: how many may be under way, and when it may be sent again after a refusal.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::line::Line;
use super::login::{Failure, Login};
use crate::error::{NextTry, RefusedLogin, UnansweredLogin};

/// Wait after the first refusal. A login that failed because the proxy's directory was away for a moment works then.
pub(super) const WAIT_FIRST: Duration = Duration::from_secs(30);

/// Factor by which each wait is longer than the one before.
///
/// With 30 s, 5 min and then 15 min, a wrong password is sent three times in the first 10 minutes and four times in the
/// first half hour, then at most twice in half an hour. Accounts are usually locked after 3 to 10 wrong passwords in 10
/// to 30 minutes.
pub(super) const GROWTH: u32 = 10;

/// Longest wait, before the random part.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(15 * 60);

/// Longest wait if no user name is sent: then no account can be locked, and the proxy may soon let this machine pass.
pub(super) const WAIT_WITHOUT_USER_MAX: Duration = Duration::from_secs(60);

/// Largest random part of a wait, as a fraction of it: machines that share a proxy do not come back together.
pub(super) const SPREAD: f64 = 0.25;

/// Time for which an accepted login is taken to be accepted again, so that dials need not wait for each other.
pub(super) const ACCEPTED_FOR: Duration = Duration::from_secs(60);

/// Time after the end of a wait, without another refusal, after which the refusals before it no longer count.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_secs(15 * 60);

/// Largest number of accepted logins that may be under way at a time.
///
/// If the password changes at that moment, all of them are wrong, so the number is below the 10 that lock most accounts.
/// Reached only after as many acceptances in a row: the first dials after a pause risk one login, then two. Hundreds of
/// dials at once still take no longer than an eighth of their answers one after the other: 300 with answers in 100 ms
/// take 4 s, and a dial has 10 s.
pub(super) const OPEN_MAX: u32 = 8;

/// Time without an answer after which the logins under way are taken to get none: half of the time that a dial has.
const QUIET_AFTER: Duration = Duration::from_secs(5);

/// Refusals that several logins count as which were refused together: the next wait is then 5 minutes.
const TOGETHER: u32 = 2;

#[derive(Debug)]
pub(super) struct Known {
    pub(super) login: Login,
    pub(super) line: Arc<Line>,
    /// Logins under way: sent, and not answered yet.
    open: u32,
    /// When the first login under way was sent, or another one ended after that.
    quiet_since: Instant,
    accepted_at: Option<Instant>,
    /// Logins that were accepted in a row, without a failure or a pause of [`ACCEPTED_FOR`].
    row: u32,
    /// Failures that counted, since the start: tells whether one was noted after a login was sent.
    failures: u64,
    refusal: Option<Refusal>,
}

impl Known {
    pub(super) fn new(login: &Login) -> Self {
        Self {
            login: login.clone(),
            line: Arc::default(),
            open: 0,
            quiet_since: Instant::now(),
            accepted_at: None,
            row: 0,
            failures: 0,
            refusal: None,
        }
    }

    /// The refusal, if the proxy must not be asked yet.
    pub(super) fn error(&self) -> Option<RefusedLogin> {
        let refusal = self.refusal.as_ref();
        refusal.filter(|it| it.bars()).map(Refusal::error)
    }

    /// True if a login is under way.
    pub(super) const fn is_open(&self) -> bool {
        self.open > 0
    }

    /// Takes a place among the logins under way; returns the failures so far, or `None` if no place is free.
    pub(super) fn begin(&mut self) -> Option<u64> {
        let is_free = self.open < self.open_max();
        is_free.then(|| {
            if self.open == 0 {
                self.quiet_since = Instant::now();
            }
            self.open += 1;
            self.failures
        })
    }

    /// Gives a place among the logins under way back.
    pub(super) fn end(&mut self) {
        self.open = self.open.saturating_sub(1);
        self.quiet_since = Instant::now();
    }

    /// True if the proxy has answered none of the logins under way for [`QUIET_AFTER`].
    pub(super) fn is_quiet(&self) -> bool {
        self.login.user.is_some() && self.is_open() && self.quiet_since.elapsed() >= QUIET_AFTER
    }

    /// What is told of the last login, if the proxy gave it no answer and has given none since.
    pub(super) fn unanswered(&self) -> Option<UnansweredLogin> {
        let refusal = self.refusal.as_ref();
        let silent = refusal.filter(|it| !it.is_sure && !it.is_over);
        silent.map(|it| UnansweredLogin {
            text: it.text.clone(),
        })
    }

    /// Largest number of logins that may be under way now: one, until the proxy is taken to accept the login.
    fn open_max(&self) -> u32 {
        match (self.is_accepted(), &self.login.user) {
            (false, _) => 1,
            (true, Some(_)) => self.row.saturating_add(1).min(OPEN_MAX),
            (true, None) => u32::MAX,
        }
    }

    /// True if the proxy is taken to accept the login now.
    fn is_accepted(&self) -> bool {
        let is_refused = self.refusal.as_ref().is_some_and(|it| !it.is_over);
        // Without a user name each dial may find out by itself what has changed: no account can be locked.
        !is_refused
            && match self.login.user {
                None => self.accepted_at.is_some(),
                Some(_) => self.is_freshly_accepted(),
            }
    }

    fn is_freshly_accepted(&self) -> bool {
        self.accepted_at
            .is_some_and(|at| at.elapsed() < ACCEPTED_FOR)
    }

    /// Notes that the proxy has accepted a login that was sent after `failures`.
    pub(super) fn accepted(&mut self, failures: u64) {
        let before = match self.is_freshly_accepted() {
            true => self.row,
            false => 0,
        };
        // An answer that was under way when another login failed says little about the password now.
        self.row = match failures == self.failures {
            true => before.saturating_add(1),
            false => 0,
        };
        self.accepted_at = Some(Instant::now());
        match self.refusal.as_mut().filter(|it| it.is_sure) {
            Some(refusal) => refusal.is_over = true,
            // It was not the password.
            None => self.refusal = None,
        }
    }

    /// Notes that a login has failed that was sent after `failures`, with `text` for people; says when the proxy may be
    /// asked again, or `None` if that is now: it had accepted the login and may restart, so one dial may try at once.
    pub(super) fn failed(
        &mut self,
        failure: Failure,
        failures: u64,
        text: String,
        next: NextTry,
    ) -> Option<RefusedLogin> {
        let has_user = self.login.user.is_some();
        let is_sure = failure == Failure::Refused;
        if failures != self.failures {
            // The wait that began after this login was sent holds for it, too.
            let refusal = self.refusal.as_mut()?;
            if is_sure && !refusal.is_over {
                refusal.join(text, has_user);
            }
            return refusal.bars().then(|| refusal.error());
        }
        let before = self.refusal.as_ref().map_or(0, Refusal::counted);
        let last = self.refusal.as_ref().filter(|it| !it.is_over);
        let may_restart = !is_sure && last.is_none() && self.accepted_at.is_some();
        let was_restart = last.is_some_and(|it| it.is_restart);
        let wait = match (may_restart, was_restart, before) {
            (true, ..) => Duration::ZERO,
            // The try at once came before these waits, so a wait is left out: else there are four tries in 10 minutes.
            (_, true, 0 | 1) => wait(0, has_user),
            (_, true, _) => wait(u32::MAX, has_user),
            _ => wait(before, has_user),
        };
        self.row = 0;
        self.failures += 1;
        let refusal = self.refusal.insert(Refusal {
            text,
            count: before.saturating_add(1),
            again_at: Instant::now() + spread(wait),
            next,
            is_sure,
            is_restart: may_restart || was_restart,
            is_over: false,
        });
        (!may_restart).then(|| refusal.error())
    }

    /// Notes that the proxy has answered a login at last that counted as unanswered, and did not refuse it.
    pub(super) fn answered_late(&mut self) {
        if let Some(refusal) = self.refusal.as_mut().filter(|it| !it.is_sure) {
            refusal.is_over = true;
            refusal.count = refusal.count.saturating_sub(1);
        }
    }

    /// True if the proxy has accepted the login in this process.
    #[cfg(test)]
    pub(super) const fn was_accepted(&self) -> bool {
        self.accepted_at.is_some()
    }
}

/// The last refusal of a login. A login that the proxy did not answer counts as refused.
#[derive(Debug)]
struct Refusal {
    /// What the proxy refuses, in words that name it.
    text: String,
    /// Refusals so far; a time without one starts the count over ([`FORGOTTEN_AFTER`]).
    count: u32,
    again_at: Instant,
    next: NextTry,
    /// True if the proxy said that it refuses the login; false if it did not answer.
    is_sure: bool,
    /// True if the refusals began with one that was taken for a restart of the proxy.
    is_restart: bool,
    /// True if the proxy has accepted the login since, which ends the wait. The count stays: behind one name there
    /// may be several proxies, of which one refuses the login again and again.
    is_over: bool,
}

impl Refusal {
    /// True while the proxy must not be asked.
    fn bars(&self) -> bool {
        !self.is_over && !self.left().is_zero()
    }

    /// Time until the proxy may be asked.
    fn left(&self) -> Duration {
        self.again_at.saturating_duration_since(Instant::now())
    }

    fn error(&self) -> RefusedLogin {
        RefusedLogin {
            text: self.text.clone(),
            again: self.left(),
            next: self.next,
        }
    }

    /// Refusals that the length of the next wait depends on.
    fn counted(&self) -> u32 {
        match self.again_at.elapsed() < FORGOTTEN_AFTER {
            true => self.count,
            false => 0,
        }
    }

    /// Adds the refusal of a login that was sent before this one was known: a second one lengthens the first wait,
    /// because two wrong passwords were sent, and further ones change nothing.
    fn join(&mut self, text: String, has_user: bool) {
        let count = match self.is_sure {
            true => self.count.max(TOGETHER),
            false => self.count,
        };
        if self.is_sure && count == self.count {
            return;
        }
        let wait = wait(count.saturating_sub(1), has_user);
        self.text = text;
        self.count = count;
        self.is_sure = true;
        self.again_at = self.again_at.max(Instant::now() + spread(wait));
    }
}

/// Wait after a refusal that follows `before` others, without the random part.
pub(super) fn wait(before: u32, has_user: bool) -> Duration {
    let longest = match has_user {
        true => WAIT_MAX,
        false => WAIT_WITHOUT_USER_MAX,
    };
    let growth = GROWTH.saturating_pow(before);
    WAIT_FIRST.saturating_mul(growth).min(longest)
}

/// `wait` with its random part.
fn spread(wait: Duration) -> Duration {
    wait.mul_f64(1.0 + SPREAD * fastrand::f64())
}
