//! Remembers how proxies answer the login, and lets few dials send it unless it is accepted: directories lock an account
//! after some wrong passwords.
//!
//! A dial takes a [`Turn`], sends the login, and notes the answer in it. Until the proxy accepts the login, one dial at a
//! time has a turn; after a refusal none has before a growing wait; while it is accepted, a few have one at a time.

mod known;
mod line;
mod login;
#[cfg(test)]
mod tests;

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use self::known::Known;
use self::line::Line;
pub(super) use self::login::{Failure, Login};
use crate::error::{NextTry, RefusedLogin};

/// Largest number of logins that are remembered: a laptop may change between a few networks, each with its proxy.
const KNOWN_MAX: usize = 8;

/// Time after its deadline for which a dial in the line waits for the end of a login that has no answer yet.
///
/// Dials that begin together connect to the proxy one after the other, so the one that sent the login may end last. A
/// second covers one packet of its handshake that was lost and sent again (RFC 6298, section 2).
const OUTCOME_TIME: Duration = Duration::from_secs(1);

/// What the dials of one dialler know about the logins at their proxies; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Logins(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// True in a command that ends after its dials: it does not ask the proxy again by itself.
    is_one_run: bool,
    /// The logins that were sent to proxies, [`KNOWN_MAX`] at most, the newest last.
    known: Mutex<Vec<Known>>,
}

impl Logins {
    /// For a command that ends after its dials: refusals do not say that the proxy is asked again.
    #[must_use]
    pub fn of_one_run() -> Self {
        Self(Arc::new(Shared {
            is_one_run: true,
            ..Shared::default()
        }))
    }

    /// The refusal of `login`, if the proxy must not be asked yet.
    pub(super) fn refusal(&self, login: &Login) -> Option<RefusedLogin> {
        self.find(login, |known| known.error())?
    }

    /// Waits, until `deadline`, for the permission to ask the proxy with `login`; up to [`OUTCOME_TIME`] longer for the end
    /// of a login under way that seems to get no answer.
    ///
    /// # Errors
    /// The refusal, if the proxy has refused the login and must not be asked yet; else [`io::ErrorKind::TimedOut`], with
    /// an [`UnansweredLogin`](crate::UnansweredLogin) in it if the proxy gave the last login no answer.
    pub(super) async fn turn(&self, login: &Login, deadline: Instant) -> io::Result<Turn> {
        let line = self.entry(login, |known| Arc::clone(&known.line));
        let mut next = pin!(self.next_turn(login, &line, deadline));
        if let Ok(turn) = timeout_at(deadline, next.as_mut()).await {
            return turn;
        }
        if self.find(login, |known| known.is_quiet()) == Some(true)
            && let Ok(turn) = timeout_at(deadline + OUTCOME_TIME, next).await
        {
            return turn;
        }
        Err(self.late(login))
    }

    /// Waits in `line` for the permission to ask the proxy with `login`; none is given after `deadline`.
    async fn next_turn(
        &self,
        login: &Login,
        line: &Arc<Line>,
        deadline: Instant,
    ) -> io::Result<Turn> {
        let _first = line.first.lock().await;
        loop {
            if let Some(refusal) = self.refusal(login) {
                return Err(refusal.into());
            }
            if Instant::now() >= deadline {
                return Err(self.late(login));
            }
            if let Some(failures) = self.entry(login, Known::begin) {
                return Ok(Turn {
                    logins: self.clone(),
                    login: login.clone(),
                    line: Arc::clone(line),
                    failures,
                    is_open: true,
                });
            }
            line.ended.notified().await;
        }
    }

    /// The error of a dial whose time has ended in the line.
    fn late(&self, login: &Login) -> io::Error {
        if let Some(refusal) = self.refusal(login) {
            return refusal.into();
        }
        match self.find(login, |known| known.unanswered()).flatten() {
            Some(unanswered) => unanswered.into(),
            None => io::ErrorKind::TimedOut.into(),
        }
    }

    /// What `use_it` finds in the entry of `login`, or changes there, if there is one.
    fn find<T>(&self, login: &Login, use_it: impl FnOnce(&mut Known) -> T) -> Option<T> {
        let mut all = self.known();
        all.iter_mut().find(|it| it.login == *login).map(use_it)
    }

    /// Changes the entry of `login`, or a new one, and makes it the newest.
    fn entry<T>(&self, login: &Login, change: impl FnOnce(&mut Known) -> T) -> T {
        let mut all = self.known();
        let mut known = match all.iter().position(|it| it.login == *login) {
            Some(at) => all.remove(at),
            None => Known::new(login),
        };
        let changed = change(&mut known);
        if all.len() >= KNOWN_MAX {
            let idle = all.iter().position(|it| !it.is_open());
            all.remove(idle.unwrap_or(0));
        }
        all.push(known);
        changed
    }

    fn known(&self) -> MutexGuard<'_, Vec<Known>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The permission to send the login to the proxy, until the answer is noted; dropping it gives it back.
pub(super) struct Turn {
    logins: Logins,
    login: Login,
    line: Arc<Line>,
    /// Failures of the login before it was sent this time.
    failures: u64,
    /// True until the answer is noted.
    is_open: bool,
}

impl Turn {
    /// Notes that the proxy has accepted the login.
    pub(super) fn accepted(&mut self) {
        self.logins
            .entry(&self.login, |known| known.accepted(self.failures));
        self.end();
    }

    /// Notes that the login has failed, with `text` for people; says when the proxy may be asked again, or `None` if
    /// the next dial may ask it at once.
    pub(super) fn failed(&mut self, failure: Failure, text: String) -> Option<RefusedLogin> {
        let next = match self.logins.0.is_one_run {
            true => NextTry::Run {
                has_user: self.login.user.is_some(),
            },
            false => NextTry::Process,
        };
        let refused = self.logins.entry(&self.login, |known| {
            known.failed(failure, self.failures, text, next)
        });
        self.end();
        // A refusal that comes after the login counted as unanswered is news for the line as well.
        self.line.ended.notify_one();
        refused
    }

    /// Notes that the proxy has answered at last, after the login counted as unanswered, and did not refuse it.
    pub(super) fn answered_late(&mut self) {
        self.logins.find(&self.login, Known::answered_late);
    }

    /// Lets the next dial in the line have a turn.
    fn end(&mut self) {
        if self.is_open {
            self.is_open = false;
            self.logins.find(&self.login, Known::end);
            self.line.ended.notify_one();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.end();
    }
}
