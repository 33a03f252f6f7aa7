//! Registrations that are answered, renewed, refused and taken back, in simulated time.

use super::*;

const HOUR_S: u32 = 3_600;

fn random() -> fastrand::Rng {
    fastrand::Rng::with_seed(7)
}

fn after(now: Instant, seconds: u64) -> Instant {
    now + Duration::from_secs(seconds)
}

fn refusal(reason: RefusalReason) -> Refusal {
    Refusal::new(reason, "")
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
    let mut it = Registrations::new([false; 1].into_iter(), start);
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
    for reason in [
        RefusalReason::TokenExpired,
        RefusalReason::BadToken,
        RefusalReason::Overload,
        RefusalReason::NameTaken,
        RefusalReason::NameBound,
    ] {
        let mut it = Registrations::new([false; 1].into_iter(), start);
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
fn what_another_link_had_meanwhile_is_registered_again_without_news() {
    let (start, mut random) = (Instant::now(), random());
    let mut it = Registrations::new([false; 3].into_iter(), start);
    it.granted(0, 60, start, &mut random);
    it.granted(1, 0, start, &mut random);
    it.refused(2, refusal(RefusalReason::BadToken), start, &mut random);
    let now = after(start, 10);
    it.again(now);
    assert_eq!(it.take_due(now), [0, 1]);
    // The token is the same, and the permission has come no nearer to its end.
    assert_eq!(it.granted(0, 50, now, &mut random), Change::Repeated);
    assert_eq!(it.granted(1, 0, now, &mut random), Change::Repeated);
    // The next renewal has its news again.
    let now = it.wakes_at().unwrap();
    assert_eq!(it.take_due(now), [0]);
    assert_eq!(it.granted(0, 120, now, &mut random), Change::Renewed);
}

#[test]
fn a_fresh_token_is_taken_even_where_it_ends_sooner() {
    let (start, mut random) = (Instant::now(), random());
    let mut it = Registrations::new([false].into_iter(), start);
    it.granted(0, HOUR_S, start, &mut random);
    // The file was touched, and holds the same token.
    let now = after(start, 60);
    it.token_changed(now);
    assert_eq!(it.take_due(now), [0]);
    let change = it.granted(0, HOUR_S - 60, now, &mut random);
    assert!(matches!(change, Change::Ending(_)), "{change:?}");
    // Another token, valid for five minutes.
    it.token_changed(now);
    assert_eq!(it.take_due(now), [0]);
    assert_eq!(it.granted(0, 300, now, &mut random), Change::Renewed);
    let due = it.wakes_at().unwrap();
    assert!(due <= after(now, 200), "{:?}", due - now);
    // The same token once more is not fresh.
    assert_eq!(it.take_due(due), [0]);
    let left = 300 - u32::try_from((due - now).as_secs()).unwrap();
    let change = it.granted(0, left, due, &mut random);
    assert!(matches!(change, Change::Ending(_)), "{change:?}");
}

#[test]
fn a_name_that_is_lost_when_it_is_renewed_is_lost() {
    let (now, mut random) = (Instant::now(), random());
    let mut it = Registrations::new([false; 1].into_iter(), now);
    it.granted(0, 60, now, &mut random);
    it.refused(0, refusal(RefusalReason::ClaimTimeout), now, &mut random);
    assert!(!it.any_up());
    assert!(!it.failure().unwrap().is_final());
    // This run had the name, so it may get the name back.
    let change = it.refused(0, refusal(RefusalReason::NameTaken), now, &mut random);
    assert_eq!(change, Change::Refused { is_final: false });
    let error = it.failure().unwrap();
    assert_eq!((error.word(), error.is_final()), ("name_taken", false));
}

#[test]
fn a_name_that_may_become_free_is_asked_for_slowly_and_one_of_another_agent_never() {
    let (now, mut random) = (Instant::now(), random());
    for (had, reason, is_final) in [
        (false, RefusalReason::NameTaken, true),
        (true, RefusalReason::NameTaken, false),
        (false, RefusalReason::NameBound, false),
        (true, RefusalReason::NameBound, false),
        (true, RefusalReason::NameNotAllowed, true),
    ] {
        let mut it = Registrations::new([had, false].into_iter(), now);
        it.granted(1, 0, now, &mut random);
        let change = it.refused(0, refusal(reason), now, &mut random);
        assert_eq!(change, Change::Refused { is_final }, "{reason:?} {had}");
        assert!(it.take_due(after(now, 40)).is_empty(), "{reason:?}");
        let due: &[usize] = if is_final { &[] } else { &[0] };
        assert_eq!(it.take_due(after(now, 80)), due, "{reason:?} {had}");
    }
}

#[test]
fn a_permission_without_end_is_never_renewed() {
    let (now, mut random) = (Instant::now(), random());
    let mut it = Registrations::new([false; 2].into_iter(), now);
    assert_eq!(it.granted(0, 0, now, &mut random), Change::Up);
    assert_eq!(it.granted(1, 0, now, &mut random), Change::Up);
    it.token_changed(now);
    assert_eq!(it.wakes_at(), None);
    assert!(it.take_due(after(now, 1_000_000)).is_empty());
}

#[test]
fn one_targets_refusal_does_not_end_the_others() {
    let (now, mut random) = (Instant::now(), random());
    let mut it = Registrations::new([false; 3].into_iter(), now);
    let change = it.refused(0, refusal(RefusalReason::NameTaken), now, &mut random);
    assert_eq!(change, Change::Refused { is_final: true });
    assert!(it.failure().is_none(), "two targets have no answer yet");
    it.granted(1, 0, now, &mut random);
    let change = it.refused(2, refusal(RefusalReason::TunnelLimit), now, &mut random);
    assert_eq!(change, Change::Refused { is_final: false });
    assert!(it.failure().is_none());
    // A refusal that may change is tried again on the same link; a final refusal is not.
    assert_eq!(it.take_due(after(now, 60)), [2]);
    assert_eq!(it.granted(2, 0, after(now, 60), &mut random), Change::Up);
}

#[test]
fn all_refused_is_final_only_if_each_of_them_is() {
    let (now, mut random) = (Instant::now(), random());
    let mut it = Registrations::new([false; 2].into_iter(), now);
    it.refused(0, refusal(RefusalReason::BadToken), now, &mut random);
    it.refused(1, refusal(RefusalReason::NameTaken), now, &mut random);
    let error = it.failure().unwrap();
    assert_eq!((error.word(), error.is_final()), ("bad_token", true));
    it.refused(1, refusal(RefusalReason::Overload), now, &mut random);
    let error = it.failure().unwrap();
    assert_eq!((error.word(), error.is_final()), ("overload", false));
    // A tunnel of any target makes the link worth keeping.
    it.granted(0, 0, now, &mut random);
    assert!(it.failure().is_none());
    it.granted(1, 0, now, &mut random);
    it.refused(0, refusal(RefusalReason::ClaimTimeout), now, &mut random);
    assert!(it.failure().is_none());
}

#[test]
fn a_tunnel_that_is_taken_back_is_asked_for_again_unless_that_cannot_help() {
    let (now, mut random) = (Instant::now(), random());
    let mut it = Registrations::new([false; 2].into_iter(), now);
    for target in [0, 1] {
        it.granted(target, 60, now, &mut random);
    }
    // As answers to a renewal, these reasons would leave the tunnel up.
    for reason in [
        RefusalReason::Kicked,
        RefusalReason::TokenExpired,
        RefusalReason::AuthUnavailable,
    ] {
        let change = it.lost(0, refusal(reason), now, &mut random);
        assert_eq!(change, Change::Refused { is_final: false });
        assert!(it.any_up() && it.failure().is_none());
        assert_eq!(it.take_due(after(now, 8)), [0], "{reason:?}");
        let change = it.granted(0, 60, now, &mut random);
        assert_eq!(change, Change::Up, "{reason:?}");
    }
    let change = it.lost(0, refusal(RefusalReason::Revoked), now, &mut random);
    assert_eq!(change, Change::Refused { is_final: true });
    assert!(it.failure().is_none(), "the other target's tunnel is up");
    it.granted(1, 0, now, &mut random);
    assert_eq!(it.take_due(after(now, 1_000)), [] as [usize; 0]);
    it.lost(1, refusal(RefusalReason::Kicked), now, &mut random);
    assert!(
        !it.failure().unwrap().is_final(),
        "a new link may bring the tunnel back"
    );
}

#[test]
fn a_renewal_that_crosses_the_loss_of_its_tunnel_decides() {
    let (start, mut random) = (Instant::now(), random());
    for reason in [RefusalReason::Kicked, RefusalReason::Revoked] {
        let asked = |random: &mut fastrand::Rng| {
            let mut it = Registrations::new([false; 1].into_iter(), start);
            it.granted(0, 60, start, random);
            let now = it.wakes_at().unwrap();
            assert_eq!(it.take_due(now), [0]);
            it.lost(0, refusal(reason), now, random);
            // The renewal's answer is on its way: nothing else is asked, and the link is not given up.
            assert!(!it.any_up() && it.failure().is_none(), "{reason:?}");
            assert_eq!(it.take_due(after(now, 10)), [] as [usize; 0]);
            assert_eq!(it.wakes_at(), Some(now + REGISTER_TIMEOUT));
            (it, now)
        };
        let (mut it, now) = asked(&mut random);
        assert_eq!(it.granted(0, 60, now, &mut random), Change::Up);
        assert!(it.any_up() && it.failure().is_none(), "{reason:?}");
        // This refusal leaves a tunnel up that still exists; here the tunnel is gone.
        let (mut it, now) = asked(&mut random);
        let change = it.refused(0, refusal(RefusalReason::Overload), now, &mut random);
        assert_eq!(change, Change::Refused { is_final: false });
        assert!(!it.any_up() && !it.failure().unwrap().is_final());
        // An answer that never comes is asked for again.
        let (mut it, now) = asked(&mut random);
        assert_eq!(it.take_due(now + REGISTER_TIMEOUT), [0]);
    }
}

#[test]
fn an_answer_that_does_not_come_is_asked_for_again() {
    let (now, mut random) = (Instant::now(), random());
    let mut it = Registrations::new([false; 2].into_iter(), now);
    it.granted(0, 0, now, &mut random);
    let late = now + REGISTER_TIMEOUT;
    assert_eq!(it.wakes_at(), Some(late));
    assert_eq!(it.take_due(late), [1]);
    assert_eq!(it.take_due(late), [] as [usize; 0]);
}

#[test]
fn a_relay_that_was_asked_a_moment_ago_may_still_answer_however_old_the_link_is() {
    let (start, mut random) = (Instant::now(), random());
    let mut it = Registrations::new([false; 2].into_iter(), start);
    it.granted(0, 0, start, &mut random);
    it.granted(1, 0, start, &mut random);
    let old = after(start, 3_600);
    for target in 0..2 {
        it.lost(target, refusal(RefusalReason::Kicked), old, &mut random);
    }
    let asked = it.wakes_at().unwrap();
    assert!(!it.take_due(asked).is_empty());
    assert!(!it.is_unanswered(asked));
    assert!(it.is_unanswered(asked + REGISTER_TIMEOUT));
    it.granted(0, 0, asked, &mut random);
    it.granted(1, 0, asked, &mut random);
    assert!(!it.is_unanswered(asked + REGISTER_TIMEOUT));
}

#[test]
fn another_link_covers_the_tunnels_only_if_it_has_each_that_is_up() {
    let (now, mut random) = (Instant::now(), random());
    let mut it = Registrations::new([false; 3].into_iter(), now);
    assert!(it.are_covered_by(&[]), "no tunnel is up");
    it.granted(0, 0, now, &mut random);
    it.refused(1, refusal(RefusalReason::ClaimTimeout), now, &mut random);
    it.granted(2, 0, now, &mut random);
    assert!(it.are_covered_by(&[2, 0]) && it.are_covered_by(&[0, 1, 2]));
    // As many tunnels, but not the same.
    assert!(!it.are_covered_by(&[0, 1]) && !it.are_covered_by(&[1, 2]));
}
