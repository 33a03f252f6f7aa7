//! Remembers that a proxy refused the login, and lets no dial send it again before a growing wait: directories lock an
//! account after some wrong passwords.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync;
use tokio::time::{Instant, timeout_at};

use crate::error::{NextTry, RefusedLogin};

/// Wait after the first refusal. A login that failed because the proxy's directory was away for a moment works then.
const WAIT_FIRST: Duration = Duration::from_secs(30);

/// Factor by which each wait is longer than the one before.
///
/// With 30 s, 5 min and then 15 min, a wrong password is sent three times in the first 10 minutes and four times in the
/// first half hour, then at most twice in half an hour. Accounts are usually locked after 3 to 10 wrong passwords in 10
/// to 30 minutes.
const GROWTH: u32 = 10;

/// Longest wait, before the random part.
const WAIT_MAX: Duration = Duration::from_secs(15 * 60);

/// Longest wait if no user name is sent: then no account can be locked, and the proxy may soon let this machine pass.
const WAIT_WITHOUT_USER_MAX: Duration = Duration::from_secs(60);

/// Largest random part of a wait, as a fraction of it: machines that share a proxy do not come back together.
const SPREAD: f64 = 0.25;

/// Time for which an accepted login is taken to be accepted again, so that dials need not wait for each other.
const ACCEPTED_FOR: Duration = Duration::from_secs(60);

/// Time after the end of a wait, without another refusal, after which the refusals before it no longer count.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15 * 60);

/// Largest number of logins that are remembered: a laptop may change between a few networks, each with its proxy.
const KNOWN_MAX: usize = 8;

/// A proxy, with the user name and password that it is sent.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    /// URL of the proxy without user name and password.
    pub(super) proxy: String,
    /// User name and password, in the form in which they are sent; `None` if the proxy is sent none.
    pub(super) user: Option<Vec<u8>>,
}

/// Shows the proxy's URL without user name and password.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({})", self.proxy)
    }
}

/// What the dials of one dialler know about the logins at their proxies; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Logins(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// True in a command that ends after its dials: it does not ask the proxy again by itself.
    is_one_run: bool,
    /// Held by the dial that finds out whether the proxy accepts the login.
    turn: sync::Mutex<()>,
    /// The logins that proxies accepted or refused, [`KNOWN_MAX`] at most, the newest last.
    known: Mutex<Vec<Known>>,
}

#[derive(Debug)]
struct Known {
    login: Login,
    accepted_at: Option<Instant>,
    refusal: Option<Refusal>,
}

impl Known {
    /// The refusal, if the proxy must not be asked yet.
    fn error(&self) -> Option<RefusedLogin> {
        self.refusal.as_ref().and_then(Refusal::error)
    }

    /// True if the proxy is taken to accept the login now.
    fn is_accepted(&self) -> bool {
        let is_refused = self.refusal.as_ref().is_some_and(|it| !it.is_over);
        // Without a user name each dial may find out by itself what has changed: no account can be locked.
        let is_fresh = |at: Instant| self.login.user.is_none() || at.elapsed() < ACCEPTED_FOR;
        !is_refused && self.accepted_at.is_some_and(is_fresh)
    }
}

/// The last refusal of a login.
#[derive(Debug)]
struct Refusal {
    /// What the proxy refuses, in words that name it.
    text: String,
    /// Refusals so far; a time without one starts the count over ([`FORGOTTEN_AFTER`]).
    count: u32,
    again_at: Instant,
    next: NextTry,
    /// True if the proxy has accepted the login since, which ends the wait. The count stays: behind one name there
    /// may be several proxies, of which one refuses the login again and again.
    is_over: bool,
}

impl Refusal {
    /// The refusal as an error, if the proxy must not be asked yet.
    fn error(&self) -> Option<RefusedLogin> {
        let again = self.again_at.saturating_duration_since(Instant::now());
        (!self.is_over && !again.is_zero()).then(|| RefusedLogin {
            text: self.text.clone(),
            again,
            next: self.next,
        })
    }

    /// Refusals that the length of the next wait depends on.
    fn counted(&self) -> u32 {
        match self.again_at.elapsed() < FORGOTTEN_AFTER {
            true => self.count,
            false => 0,
        }
    }
}

/// A dial's permission to send the login to the proxy.
pub(super) struct Turn<'a> {
    logins: &'a Logins,
    login: &'a Login,
    /// Makes the other dials wait for the answer; `None` if the login is known to be accepted.
    _alone: Option<sync::MutexGuard<'a, ()>>,
}

impl Turn<'_> {
    /// True if the proxy has accepted the login before.
    pub(super) fn was_accepted(&self) -> bool {
        let accepted = self.logins.of(self.login, |it| it.accepted_at.is_some());
        accepted.unwrap_or(false)
    }

    /// Notes that the proxy has accepted the login.
    pub(super) fn accepted(self) {
        self.logins.note(self.login, |known| {
            known.accepted_at = Some(Instant::now());
            if let Some(refusal) = &mut known.refusal {
                refusal.is_over = true;
            }
        });
    }

    /// Notes that the proxy has refused the login, with `text` for people, and says when it may be asked again.
    pub(super) fn refused(self, text: String) -> RefusedLogin {
        let has_user = self.login.user.is_some();
        let next = match self.logins.0.is_one_run {
            true => NextTry::Run { has_user },
            false => NextTry::Process,
        };
        self.logins.note(self.login, |known| {
            // Another dial was refused in the meantime; its wait holds for both.
            if let Some(error) = known.error() {
                return error;
            }
            let before = known.refusal.as_ref().map_or(0, Refusal::counted);
            let again = wait(before, has_user);
            let again = again.mul_f64(1.0 + SPREAD * fastrand::f64());
            known.refusal = Some(Refusal {
                text: text.clone(),
                count: before.saturating_add(1),
                again_at: Instant::now() + again,
                next,
                is_over: false,
            });
            RefusedLogin { text, again, next }
        })
    }
}

/// Wait after a refusal that follows `before` others, without the random part.
fn wait(before: u32, has_user: bool) -> Duration {
    let longest = match has_user {
        true => WAIT_MAX,
        false => WAIT_WITHOUT_USER_MAX,
    };
    let growth = GROWTH.saturating_pow(before);
    WAIT_FIRST.saturating_mul(growth).min(longest)
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
        self.of(login, Known::error)?
    }

    /// Waits, until `deadline`, for the permission to ask the proxy with `login`: until the login is known to be
    /// accepted, one dial at a time has it.
    ///
    /// # Errors
    /// The refusal, if the proxy has refused the login and must not be asked yet; else [`io::ErrorKind::TimedOut`].
    pub(super) async fn turn<'a>(
        &'a self,
        login: &'a Login,
        deadline: Instant,
    ) -> io::Result<Turn<'a>> {
        let alone = match self.is_accepted(login) {
            true => None,
            false => Some(timeout_at(deadline, self.0.turn.lock()).await?),
        };
        if let Some(refusal) = self.refusal(login) {
            return Err(refusal.into());
        }
        // The dial before this one may have had the login accepted.
        let alone = alone.filter(|_| !self.is_accepted(login));
        Ok(Turn {
            logins: self,
            login,
            _alone: alone,
        })
    }

    fn is_accepted(&self, login: &Login) -> bool {
        self.of(login, Known::is_accepted).unwrap_or(false)
    }

    /// What `read` finds in the entry of `login`, if there is one.
    fn of<T>(&self, login: &Login, read: impl FnOnce(&Known) -> T) -> Option<T> {
        let all = self.known();
        all.iter().find(|it| it.login == *login).map(read)
    }

    /// Changes the entry of `login`, or a new one, and makes it the newest.
    fn note<T>(&self, login: &Login, change: impl FnOnce(&mut Known) -> T) -> T {
        let mut all = self.known();
        let mut known = match all.iter().position(|it| it.login == *login) {
            Some(at) => all.remove(at),
            None => Known {
                login: login.clone(),
                accepted_at: None,
                refusal: None,
            },
        };
        let changed = change(&mut known);
        if all.len() >= KNOWN_MAX {
            all.remove(0);
        }
        all.push(known);
        changed
    }

    fn known(&self) -> MutexGuard<'_, Vec<Known>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::ops::RangeInclusive;

    use tokio::time::sleep;

    use super::*;

    fn login(proxy: &str, user: &str) -> Login {
        Login {
            proxy: format!("http://{proxy}:3128"),
            user: Some(user.into()),
        }
    }

    /// A wait with its random part.
    fn spread(wait: Duration) -> RangeInclusive<Duration> {
        wait..=wait.mul_f64(1.0 + SPREAD)
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    /// Sends `login` to a proxy that takes a second to refuse it; true if the login was sent.
    async fn refused(logins: &Logins, login: &Login) -> bool {
        let Ok(turn) = logins.turn(login, far()).await else {
            return false;
        };
        sleep(Duration::from_secs(1)).await;
        turn.refused("no".to_owned());
        true
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_password_is_sent_three_times_in_ten_minutes_and_four_times_in_half_an_hour() {
        let login = login("proxy", "ada:wrong");
        for seed in 0..20 {
            fastrand::seed(seed);
            let (logins, began_at) = (Logins::default(), Instant::now());
            let mut sent = Vec::new();
            while began_at.elapsed() < Duration::from_secs(3600) {
                if refused(&logins, &login).await {
                    sent.push(began_at.elapsed().as_secs() / 60);
                }
                sleep(Duration::from_secs(1)).await;
            }
            let before = |minutes| sent.iter().filter(|at| **at < minutes).count();
            assert_eq!(before(10), 3, "seed {seed}: {sent:?}");
            assert!(before(30) <= 4, "seed {seed}: {sent:?}");
            assert!((5..=6).contains(&before(60)), "seed {seed}: {sent:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_dials_at_the_same_time_one_sends_a_wrong_password() {
        let (logins, login) = (Logins::default(), login("proxy", "ada:wrong"));
        let sent = tokio::join!(
            refused(&logins, &login),
            refused(&logins, &login),
            refused(&logins, &login),
            refused(&logins, &login),
        );
        assert_eq!(sent, (true, false, false, false));
    }

    #[tokio::test(start_paused = true)]
    async fn dials_do_not_wait_for_each_other_once_the_login_is_accepted() {
        let (logins, login) = (Logins::default(), login("proxy", "ada:secret"));
        let at_once = Cell::new(0);
        let most = Cell::new(0);
        let dial = || async {
            let turn = logins.turn(&login, far()).await.unwrap();
            at_once.set(at_once.get() + 1);
            most.set(most.get().max(at_once.get()));
            sleep(Duration::from_secs(1)).await;
            at_once.set(at_once.get() - 1);
            turn.accepted();
        };
        tokio::join!(dial(), dial(), dial(), dial());
        assert_eq!(most.get(), 3, "the first alone, then the others together");
        // After a while the password may be another one.
        sleep(ACCEPTED_FOR).await;
        most.set(0);
        tokio::join!(dial(), dial());
        assert_eq!(most.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_of_one_moment_count_once() {
        let (logins, login) = (Logins::default(), login("proxy", "ada:secret"));
        logins.turn(&login, far()).await.unwrap().accepted();
        let turns = [
            logins.turn(&login, far()).await.unwrap(),
            logins.turn(&login, far()).await.unwrap(),
        ];
        for turn in turns {
            let again = turn.refused("no".to_owned()).again;
            assert!(spread(WAIT_FIRST).contains(&again), "{again:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_accepted_login_ends_the_wait_and_time_alone_ends_the_count() {
        let (logins, login) = (Logins::default(), login("pool", "ada:secret"));
        let refused = async || {
            let turn = logins.turn(&login, far()).await.unwrap();
            turn.refused("no".to_owned()).again
        };
        logins.turn(&login, far()).await.unwrap().accepted();
        for first in [WAIT_FIRST, WAIT_FIRST * GROWTH, WAIT_MAX, WAIT_MAX] {
            // Two dials are under way: one proxy of the pool refuses, and then another accepts.
            let other = logins.turn(&login, far()).await.unwrap();
            let again = refused().await;
            assert!(spread(first).contains(&again), "{again:?}");
            assert!(logins.refusal(&login).is_some());
            other.accepted();
            assert!(logins.refusal(&login).is_none());
        }
        sleep(WAIT_MAX.mul_f64(1.0 + SPREAD) + FORGOTTEN_AFTER).await;
        let again = refused().await;
        assert!(spread(WAIT_FIRST).contains(&again), "{again:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_that_was_accepted_is_remembered_beside_its_refusal_and_other_proxies() {
        let logins = Logins::default();
        let own = login("proxy", "ada:secret");
        let turn = logins.turn(&own, far()).await.unwrap();
        assert!(!turn.was_accepted());
        turn.accepted();
        assert!(refused(&logins, &own).await);
        for number in 1..KNOWN_MAX {
            let other = login(&format!("proxy-{number}"), "ada:secret");
            let turn = logins.turn(&other, far()).await.unwrap();
            assert!(!turn.was_accepted());
            turn.accepted();
        }
        sleep(WAIT_MAX).await;
        let turn = logins.turn(&own, far()).await.unwrap();
        assert!(turn.was_accepted());
        assert_eq!(logins.known().len(), KNOWN_MAX);
        drop(turn);
        let last = login("last", "ada:secret");
        logins.turn(&last, far()).await.unwrap().accepted();
        assert_eq!(logins.known().len(), KNOWN_MAX);
        let turn = logins.turn(&own, far()).await.unwrap();
        assert!(!turn.was_accepted(), "the oldest entry makes room");
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_wants_a_login_and_is_sent_none_is_asked_by_one_dial() {
        let none = Login {
            user: None,
            ..login("proxy", "")
        };
        let logins = Logins::default();
        let mut sent = 0;
        let began_at = Instant::now();
        while began_at.elapsed() < Duration::from_secs(170) {
            let round = tokio::join!(
                refused(&logins, &none),
                refused(&logins, &none),
                refused(&logins, &none),
                refused(&logins, &none),
            );
            let of_round = [round.0, round.1, round.2, round.3];
            sent += of_round.into_iter().filter(|is_sent| *is_sent).count();
            sleep(Duration::from_secs(1)).await;
        }
        // After 0, 30 and then 60 s each, and the random parts.
        assert!((3..=4).contains(&sent), "{sent}");

        // Once the proxy lets this machine pass, dials do not wait for each other, however much later.
        sleep(WAIT_WITHOUT_USER_MAX * 2).await;
        logins.turn(&none, far()).await.unwrap().accepted();
        sleep(ACCEPTED_FOR * 10).await;
        let _first = logins.turn(&none, far()).await.unwrap();
        assert!(logins.turn(&none, far()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn another_proxy_or_password_is_tried_at_once() {
        let logins = Logins::default();
        let wrong = login("proxy", "ada:wrong");
        assert!(refused(&logins, &wrong).await);
        let told = logins.turn(&wrong, far()).await.err().unwrap().to_string();
        assert!(told.starts_with("no; "), "{told}");
        for other in [login("proxy", "ada:right"), login("other", "ada:wrong")] {
            assert!(logins.refusal(&other).is_none());
            assert!(logins.turn(&other, far()).await.is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_ends_does_not_say_that_the_proxy_is_asked_again() {
        let none = Login {
            user: None,
            ..login("proxy", "")
        };
        for (logins, login, words) in [
            (
                Logins::default(),
                login("proxy", "ada:wrong"),
                "no; the proxy is asked again in ",
            ),
            (
                Logins::of_one_run(),
                login("proxy", "ada:wrong"),
                "no; each further run sends the password again",
            ),
            (Logins::of_one_run(), none, "no"),
        ] {
            assert!(refused(&logins, &login).await);
            let told = logins.refusal(&login).unwrap().to_string();
            assert!(told.starts_with(words), "{told}");
            assert_eq!(told.contains(';'), words.contains(';'), "{told}");
        }
    }

    #[test]
    fn a_proxy_that_is_sent_no_user_name_is_asked_again_once_a_minute() {
        let waits = |has_user| [0, 1, 2, 3, u32::MAX].map(|it| wait(it, has_user).as_secs());
        assert_eq!(waits(true), [30, 300, 900, 900, 900]);
        assert_eq!(waits(false), [30, 60, 60, 60, 60]);
    }
}
