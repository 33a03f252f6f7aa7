use std::cell::Cell;
use std::future::poll_fn;
use std::ops::RangeInclusive;
use std::task::Poll;
use std::time::Duration;

use tokio::time::sleep;

use super::known::{
    ACCEPTED_FOR, FORGOTTEN_AFTER, GROWTH, OPEN_MAX, SPREAD, WAIT_FIRST, WAIT_MAX,
    WAIT_WITHOUT_USER_MAX, wait,
};
use super::*;
use crate::error::UnansweredLogin;

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

/// Sends `login` to a proxy that takes a second and then fails it; true if the login was sent.
async fn failed(logins: &Logins, login: &Login, failure: Failure) -> bool {
    let Ok(mut turn) = logins.turn(login, far()).await else {
        return false;
    };
    sleep(Duration::from_secs(1)).await;
    turn.failed(failure, "no".to_owned());
    true
}

/// Sends `login` to a proxy that takes a second to refuse it; true if the login was sent.
async fn refused(logins: &Logins, login: &Login) -> bool {
    failed(logins, login, Failure::Refused).await
}

/// Has `login` accepted `count` times, one after the other.
async fn accepted(logins: &Logins, login: &Login, count: u32) {
    for _ in 0..count {
        logins.turn(login, far()).await.unwrap().accepted();
    }
}

/// Takes as many turns as there are at a time, `wanted` at most.
async fn turns(logins: &Logins, login: &Login, wanted: usize) -> Vec<Turn> {
    let mut turns = Vec::new();
    let soon = Instant::now() + Duration::from_millis(1);
    while turns.len() < wanted
        && let Ok(turn) = logins.turn(login, soon).await
    {
        turns.push(turn);
    }
    turns
}

/// Runs `dials` side by side; returns what became of them, in the order in which they ended.
async fn all<F: Future>(dials: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = dials.into_iter().map(Box::pin).collect();
    let mut ended = Vec::new();
    poll_fn(|cx| {
        running.retain_mut(|dial| match dial.as_mut().poll(cx) {
            Poll::Ready(end) => {
                ended.push(end);
                false
            }
            Poll::Pending => true,
        });
        match running.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    ended
}

/// Minutes after the start at which `login` is sent in an hour by two dials a second apart, to a proxy that fails it.
async fn sent_in_an_hour(logins: &Logins, login: &Login, failure: Failure) -> Vec<u64> {
    let began_at = Instant::now();
    let mut sent = Vec::new();
    while began_at.elapsed() < Duration::from_secs(3600) {
        let at = began_at.elapsed().as_secs() / 60;
        let both = tokio::join!(
            failed(logins, login, failure),
            failed(logins, login, failure)
        );
        let is_sent = [both.0, both.1].into_iter().filter(|is_sent| *is_sent);
        sent.extend(is_sent.map(|_| at));
        sleep(Duration::from_secs(1)).await;
    }
    sent
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_is_sent_three_times_in_ten_minutes_and_four_times_in_half_an_hour() {
    let login = login("proxy", "ada:wrong");
    for seed in 0..20 {
        for (failure, was_accepted) in [
            (Failure::Refused, false),
            (Failure::Unanswered, false),
            // Accepted long ago: the password may have changed since.
            (Failure::Refused, true),
            (Failure::Unanswered, true),
        ] {
            fastrand::seed(seed);
            let logins = Logins::default();
            accepted(&logins, &login, if was_accepted { 9 } else { 0 }).await;
            sleep(ACCEPTED_FOR).await;
            let sent = sent_in_an_hour(&logins, &login, failure).await;
            let before = |minutes| sent.iter().filter(|at| **at < minutes).count();
            let case = format!("seed {seed}, {failure:?} {was_accepted}: {sent:?}");
            assert_eq!(before(10), 3, "{case}");
            assert!(before(30) <= 4, "{case}");
            assert!((5..=6).contains(&before(60)), "{case}");
        }
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
async fn the_more_logins_are_accepted_in_a_row_the_more_are_under_way_at_a_time() {
    let (logins, login) = (Logins::default(), login("proxy", "ada:secret"));
    let at_once = Cell::new(0);
    let most = Cell::new(0);
    let dial = || async {
        let mut turn = logins.turn(&login, far()).await.unwrap();
        at_once.set(at_once.get() + 1);
        most.set(most.get().max(at_once.get()));
        sleep(Duration::from_millis(100)).await;
        at_once.set(at_once.get() - 1);
        turn.accepted();
    };
    tokio::join!(dial(), dial(), dial(), dial());
    assert_eq!(most.get(), 2, "the first alone, and then two together");
    let began_at = Instant::now();
    all((0..300).map(|_| dial())).await;
    assert_eq!(most.get(), OPEN_MAX);
    assert!(began_at.elapsed() < Duration::from_secs(5), "{began_at:?}");
    // After a while the password may be another one.
    sleep(ACCEPTED_FOR).await;
    most.set(0);
    tokio::join!(dial(), dial());
    assert_eq!(most.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_dropped_makes_room() {
    let (logins, login) = (Logins::default(), login("proxy", "ada:secret"));
    let turn = logins.turn(&login, far()).await.unwrap();
    let next = logins.turn(&login, far());
    let dropping = async {
        sleep(Duration::from_secs(1)).await;
        drop(turn);
    };
    let (next, ()) = tokio::join!(next, dropping);
    assert!(next.is_ok());
    // A dial that waits in vain ends in time.
    let late = logins.turn(&login, far()).await.err().unwrap();
    assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    assert!(late.get_ref().is_none(), "nothing is known of the login");
}

#[tokio::test(start_paused = true)]
async fn dials_in_the_line_are_told_of_a_login_without_an_answer_once_that_is_known() {
    let login = login("proxy", "ada:secret");
    let unit = Duration::from_millis(500);
    for was_accepted in [false, true] {
        let logins = Logins::default();
        accepted(&logins, &login, u32::from(was_accepted)).await;
        let mut under_way = turns(&logins, &login, 9).await;
        let began_at = Instant::now();
        let known_at = began_at + unit * 20;
        let ending = async {
            sleep(unit * 20).await;
            for turn in &mut under_way {
                turn.failed(Failure::Unanswered, "no".to_owned());
            }
        };
        // These dials began before the one with the login, with it and after it.
        let ends = [known_at - unit, known_at, known_at + unit * 10];
        let waiting = all(ends.map(|end| logins.turn(&login, end)));
        let (ended, ()) = tokio::join!(waiting, ending);
        assert!(Instant::now() < known_at + unit, "at the same time");
        let told = ended.iter().filter_map(|it| it.as_ref().err());
        let told: Vec<_> = told
            .map(|error| match RefusedLogin::of(error) {
                Some(_) => "refused",
                None => UnansweredLogin::of(error).map_or("else", |_| "unanswered"),
            })
            .collect();
        if !was_accepted {
            assert_eq!(told, ["refused"; 3]);
            continue;
        }
        // The proxy may restart, so a dial that has time left asks it again, and others wait behind that.
        assert_eq!(told, ["unanswered"; 2]);
        let late = logins.turn(&login, known_at + unit).await.err().unwrap();
        assert!(UnansweredLogin::of(&late).is_some(), "{late}");
        assert_eq!(late.to_string(), "no");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_the_login_counted_as_unanswered_is_told_to_the_line_at_once() {
    let (logins, login) = (Logins::default(), login("proxy", "ada:secret"));
    accepted(&logins, &login, 1).await;
    let mut slow = logins.turn(&login, far()).await.unwrap();
    slow.failed(Failure::Unanswered, "no".to_owned());
    let _again = logins.turn(&login, far()).await.unwrap();
    let began_at = Instant::now();
    let refusing = async {
        sleep(Duration::from_secs(2)).await;
        slow.failed(Failure::Refused, "no".to_owned());
    };
    let (ended, ()) = tokio::join!(logins.turn(&login, far()), refusing);
    let error = ended.err().unwrap();
    assert!(RefusedLogin::of(&error).is_some(), "{error}");
    assert!(began_at.elapsed() < Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn an_accepted_login_that_is_refused_now_is_sent_by_the_dials_under_way_alone() {
    for (before, together) in [(1, 2), (4, 5), (20, 8)] {
        let (logins, login) = (Logins::default(), login("proxy", "ada:secret"));
        accepted(&logins, &login, before).await;
        let dials = (0..50).map(|_| refused(&logins, &login));
        let sent = all(dials).await;
        let count = sent.into_iter().filter(|is_sent| *is_sent).count();
        assert_eq!(count, together, "after {before}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_closes_connections_after_it_accepted_the_login_gets_it_once_more_at_once() {
    let (logins, login) = (Logins::default(), login("proxy", "ada:secret"));
    accepted(&logins, &login, 1).await;
    let closes = || failed(&logins, &login, Failure::Unanswered);
    let sent = all((0..50).map(|_| closes())).await;
    let count = sent.into_iter().filter(|is_sent| *is_sent).count();
    assert_eq!(count, 3, "two that were under way, and one more");
    let again = logins.refusal(&login).unwrap().again;
    assert!(spread(WAIT_FIRST).contains(&again), "{again:?}");

    // It was a restart: failures that the password did not cause are forgotten.
    sleep(WAIT_FIRST.mul_f64(1.0 + SPREAD)).await;
    accepted(&logins, &login, 1).await;
    let mut turn = logins.turn(&login, far()).await.unwrap();
    let told = turn.failed(Failure::Unanswered, "no".to_owned());
    assert!(told.is_none() && logins.refusal(&login).is_none());
    assert_eq!(turns(&logins, &login, 9).await.len(), 1, "by one dial");
}

#[tokio::test(start_paused = true)]
async fn refusals_that_arrive_together_count_as_two_at_most_however_late_they_arrive() {
    let (logins, login) = (Logins::default(), login("proxy", "ada:secret"));
    accepted(&logins, &login, 20).await;
    let mut together = turns(&logins, &login, 9).await;
    assert_eq!(together.len(), 8);
    let mut waits = Vec::new();
    for turn in &mut together {
        let again = turn
            .failed(Failure::Refused, "no".to_owned())
            .unwrap()
            .again;
        waits.push(again);
        sleep(Duration::from_secs(9)).await;
    }
    assert!(spread(WAIT_FIRST).contains(&waits[0]), "{waits:?}");
    assert!(spread(wait(1, true)).contains(&waits[1]), "{waits:?}");
    // Each of the others finds the time that is left.
    let unit = Duration::from_secs(9);
    let mut left = waits[1..].windows(2).map(|pair| pair[0] - pair[1]);
    let is_same = left.all(|it| it.abs_diff(unit) < Duration::from_millis(10));
    assert!(is_same, "{waits:?}");
    sleep(waits[7]).await;
    let mut last = logins.turn(&login, far()).await.unwrap();
    let again = last
        .failed(Failure::Refused, "no".to_owned())
        .unwrap()
        .again;
    assert!(spread(WAIT_MAX).contains(&again), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_ends_the_wait_unless_it_is_a_refusal() {
    let login = login("proxy", "ada:secret");
    let no = || "no".to_owned();
    for is_accepted in [false, true] {
        let logins = Logins::default();
        for _ in 0..4 {
            let mut turn = logins.turn(&login, far()).await.unwrap();
            let again = turn.failed(Failure::Unanswered, no()).map(|it| it.again);
            // Each is the first that counts, and the one after an acceptance may be a restart.
            let is_first = again.is_none_or(|again| spread(WAIT_FIRST).contains(&again));
            assert!(is_first, "{again:?}");
            match is_accepted {
                true => turn.accepted(),
                false => turn.answered_late(),
            }
            assert!(logins.refusal(&login).is_none());
        }
    }
    let logins = Logins::default();
    let mut turn = logins.turn(&login, far()).await.unwrap();
    turn.failed(Failure::Unanswered, no());
    sleep(Duration::from_secs(29)).await;
    let again = turn.failed(Failure::Refused, no()).unwrap().again;
    assert!(spread(WAIT_FIRST).contains(&again), "{again:?}");
    // What another login is answered says nothing about a password that is refused.
    turn.answered_late();
    assert!(logins.refusal(&login).is_some());
}

#[tokio::test(start_paused = true)]
async fn an_accepted_login_ends_the_wait_and_time_alone_ends_the_count() {
    let (logins, login) = (Logins::default(), login("pool", "ada:secret"));
    let refused = async || {
        let mut turn = logins.turn(&login, far()).await.unwrap();
        turn.failed(Failure::Refused, "no".to_owned())
            .unwrap()
            .again
    };
    for first in [WAIT_FIRST, WAIT_FIRST * GROWTH, WAIT_MAX, WAIT_MAX] {
        // Two dials are under way: one proxy of the pool refuses, and then another accepts.
        accepted(&logins, &login, 1).await;
        let mut other = logins.turn(&login, far()).await.unwrap();
        let again = refused().await;
        assert!(spread(first).contains(&again), "{again:?}");
        assert!(logins.refusal(&login).is_some());
        other.accepted();
        assert!(logins.refusal(&login).is_none());
        assert_eq!(turns(&logins, &login, 9).await.len(), 1, "one at a time");
    }
    sleep(WAIT_MAX.mul_f64(1.0 + SPREAD) + FORGOTTEN_AFTER).await;
    let again = refused().await;
    assert!(spread(WAIT_FIRST).contains(&again), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn a_login_that_was_accepted_is_remembered_beside_its_refusal_and_other_proxies() {
    let logins = Logins::default();
    let was_accepted = |login: &Login| logins.find(login, |known| known.was_accepted());
    let own = login("proxy", "ada:secret");
    assert_eq!(was_accepted(&own), None);
    accepted(&logins, &own, 1).await;
    assert!(refused(&logins, &own).await);
    for number in 1..KNOWN_MAX {
        let other = login(&format!("proxy-{number}"), "ada:secret");
        accepted(&logins, &other, 1).await;
    }
    sleep(WAIT_MAX).await;
    let under_way = logins.turn(&own, far()).await.unwrap();
    assert_eq!(was_accepted(&own), Some(true));
    assert_eq!(logins.known().len(), KNOWN_MAX);
    for number in 0..KNOWN_MAX * 2 {
        let last = login(&format!("last-{number}"), "ada:secret");
        accepted(&logins, &last, 1).await;
        assert_eq!(logins.known().len(), KNOWN_MAX);
    }
    assert_eq!(
        was_accepted(&own),
        Some(true),
        "one that is under way stays"
    );
    drop(under_way);
    accepted(&logins, &login("one-more", "ada:secret"), 1).await;
    assert_eq!(was_accepted(&own), None, "the oldest entry makes room");
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
