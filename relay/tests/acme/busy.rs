//! A CA that is busy, and the certificate that orders say they replace.

use super::*;

#[test]
fn a_busy_ca_is_asked_again_when_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, relay, before) = certified(folder.path());
    ca.order(|script| {
        script.busy_seconds = Some(5);
        script.make_due();
    });
    let orders = wait("second order", || {
        Some(ca.turned_away()).filter(|it| it.len() > 1)
    });
    // Without the CA's wish it would be two seconds at most.
    assert!(orders[1] - orders[0] >= Duration::from_secs(5));
    assert!(failure(&relay).contains("too many orders"));
    ca.order(|script| script.busy_seconds = None);
    renewed(&relay, &ca, NAME, &before);
    assert!(ca.asked()[1]["replaces"].is_string());
}

#[test]
fn a_busy_ca_that_names_no_pause_learns_which_certificate_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, relay, before) = certified(folder.path());
    ca.order(|script| {
        script.busy_seconds = Some(0);
        script.make_due();
    });
    wait("order", || ca.turned_away().first().copied());
    ca.order(|script| script.busy_seconds = None);
    renewed(&relay, &ca, NAME, &before);
    assert!(ca.asked()[1]["replaces"].is_string());
}

#[test]
fn a_certificate_that_another_order_has_replaced_is_named_once() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, relay, before) = certified(folder.path());
    ca.order(|script| {
        script.is_replaced = true;
        script.busy_seconds = Some(1);
        script.make_due();
    });
    wait("second order", || {
        (ca.turned_away().len() > 1).then_some(())
    });
    ca.order(|script| script.busy_seconds = None);
    renewed(&relay, &ca, NAME, &before);
    assert_eq!(ca.already_replaced(), 1);
    assert!(ca.asked()[1]["replaces"].is_null());
}
