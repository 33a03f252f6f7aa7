//! Files of certificates that are damaged or removed while the relay runs.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::*;

/// Years in which no certificate is due; six hours pass between two orders for it.
fn long_lived() -> Script {
    Script {
        life: Duration::from_secs(5 * 365 * 24 * 60 * 60),
        ..Script::default()
    }
}

/// The file of the only certificate in the folder.
fn file(folder: &Path) -> PathBuf {
    let mut files = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path());
    let is_pem = |it: &PathBuf| it.extension().is_some_and(|it| it == "pem");
    files.find(is_pem).unwrap()
}

/// The content of the file with a certificate for `name`, valid in `years`, that is not of the CA.
fn foreign(name: &str, years: RangeInclusive<i32>) -> String {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = date_time_ymd(*years.start(), 1, 1);
    params.not_after = date_time_ymd(*years.end(), 1, 1);
    let key = KeyPair::generate().unwrap();
    key.serialize_pem() + &params.self_signed(&key).unwrap().pem()
}

/// When the next order is, once its time has been computed anew.
fn later_order(relay: &Relay) -> u64 {
    wait("later order", || {
        let at = health(relay)["acme"]["renewal_epoch_seconds"].as_u64();
        // An hour is more than the pause after a failure.
        at.filter(|at| *at > now_seconds() + 60 * 60)
    })
}

#[test]
fn a_certificate_damaged_while_the_relay_runs_is_ordered_again_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::start(long_lived());
    let relay = start(&ca, folder.path(), |_| {});
    let first = wait("certificate", || shown(&relay, &ca, NAME));
    fs::write(file(folder.path()), "{").unwrap();
    let second = renewed(&relay, &ca, NAME, &first);
    assert_eq!(ca.asked().len(), 2);
    assert_eq!(health(&relay)["acme"]["orders_failed"], 0);
    relay.stop();

    ca.order(|script| script.is_down = true);
    let relay = start(&ca, folder.path(), |_| {});
    assert_eq!(shown(&relay, &ca, NAME).unwrap(), second);
}

#[test]
fn a_file_that_is_lost_again_and_again_does_not_cause_one_order_after_another() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::start(long_lived());
    let relay = start(&ca, folder.path(), |_| {});
    let first = wait("certificate", || shown(&relay, &ca, NAME));
    let file = file(folder.path());
    fs::remove_file(&file).unwrap();
    let second = renewed(&relay, &ca, NAME, &first);
    let due = later_order(&relay);
    fs::remove_file(&file).unwrap();
    // Six hours after the order, and no longer years.
    let at = wait("earlier order", || {
        Some(later_order(&relay)).filter(|at| *at < due)
    });
    assert!(at <= now_seconds() + 6 * 60 * 60);
    assert_eq!(shown(&relay, &ca, NAME).unwrap(), second);
    assert_eq!(ca.asked().len(), 2);
}

#[test]
fn an_order_for_a_lost_file_that_fails_pauses_and_the_certificate_stays_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::start(long_lived());
    let relay = start(&ca, folder.path(), |_| {});
    let first = wait("certificate", || shown(&relay, &ca, NAME));
    ca.order(|script| script.refuses = true);
    fs::write(file(folder.path()), "").unwrap();
    let failure = failure(&relay);
    assert!(failure.contains("refused on command"), "{failure}");
    assert_eq!(shown(&relay, &ca, NAME).unwrap(), first);
    // The pause after the first failure is 45 to 60 s.
    let at = wait("next order", || {
        let at = health(&relay)["acme"]["renewal_epoch_seconds"].as_u64();
        at.filter(|at| *at > now_seconds() + 30)
    });
    assert!(at <= now_seconds() + 61);
    assert_eq!(ca.asked().len(), 2);
}

#[test]
fn a_certificate_that_clients_would_refuse_is_not_used_and_another_is_ordered_at_once() {
    for content in [
        foreign(NAME, 2000..=2001),
        foreign(NAME, 2998..=2999),
        foreign("other.example", 2020..=2999),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::start(long_lived());
        let relay = start(&ca, folder.path(), |_| {});
        let first = wait("certificate", || shown(&relay, &ca, NAME));
        fs::write(file(folder.path()), content).unwrap();
        // Each client until then gets the first one.
        wait("new certificate", || {
            let certificate = shown(&relay, &ca, NAME).unwrap();
            (certificate != first).then_some(())
        });
        assert_eq!(ca.asked().len(), 2);
        relay.stop();
    }
}

#[test]
fn a_folder_in_the_place_of_the_file_costs_no_order() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::start(long_lived());
    let relay = start(&ca, folder.path(), |_| {});
    let first = wait("certificate", || shown(&relay, &ca, NAME));
    let file = file(folder.path());
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let failure = failure(&relay);
    assert!(failure.contains("is a folder"), "{failure}");
    assert_eq!(ca.asked().len(), 1);
    assert_eq!(shown(&relay, &ca, NAME).unwrap(), first);
}

#[test]
fn a_pipe_in_the_place_of_the_file_is_replaced_and_the_relay_stops() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::start(long_lived());
    let relay = start(&ca, folder.path(), |_| {});
    let first = wait("certificate", || shown(&relay, &ca, NAME));
    let file = file(folder.path());
    fs::remove_file(&file).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&file).status();
    assert!(made.unwrap().success());
    renewed(&relay, &ca, NAME, &first);
    assert_eq!(ca.asked().len(), 2);
    relay.stop();
}

#[test]
fn an_order_for_a_file_that_was_damaged_at_the_start_counts_for_the_next_loss() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::start(long_lived());
    let relay = start(&ca, folder.path(), |_| {});
    wait("certificate", || shown(&relay, &ca, NAME));
    relay.stop();
    let file = file(folder.path());
    fs::write(&file, "").unwrap();
    let relay = start(&ca, folder.path(), |_| {});
    let second = wait("certificate", || shown(&relay, &ca, NAME));
    let due = later_order(&relay);
    fs::write(&file, "{").unwrap();
    let at = wait("earlier order", || {
        Some(later_order(&relay)).filter(|at| *at < due)
    });
    assert!(at <= now_seconds() + 6 * 60 * 60);
    assert_eq!(shown(&relay, &ca, NAME).unwrap(), second);
    assert_eq!(ca.asked().len(), 2);
}
