//! Tests of a whole relay that orders its certificate from a CA, and renews it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod busy;
mod ca;
mod checks;
mod client;
mod lost;
mod script;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tieline_relay::config::{ExternalAccount, HttpUrl, Secret};
use tieline_relay::{AcmeConfig, Config, ListenKind, Relay};

use ca::Ca;
use client::{certificate, is_alive, page, shake};
use script::Script;

const NAME: &str = "relay.example";

/// Time limit for an order, or for an attempt after one that failed.
const SOON: Duration = Duration::from_secs(60);

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(20);

fn start(ca: &Ca, cache: &Path, change: impl FnOnce(&mut Config)) -> Relay {
    let mut acme = AcmeConfig::new(vec![NAME.to_owned()], cache.to_owned());
    acme.directory_url = HttpUrl::parse(&ca.directory()).unwrap();
    let mut config = Config {
        shards: 2,
        http_listen: ["tls://127.0.0.1:0", "127.0.0.1:0"]
            .map(|it| it.parse().unwrap())
            .into(),
        acme: Some(acme),
        ..Config::default()
    };
    change(&mut config);
    let relay = Relay::start(config).unwrap();
    ca.checks_at(address(&relay, true), address(&relay, false));
    relay
}

fn address(relay: &Relay, is_tls: bool) -> SocketAddr {
    let all = relay.listening(ListenKind::Http);
    all.iter().find(|it| it.is_tls == is_tls).unwrap().address
}

/// Waits until `look` finds something.
fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what}");
        pause();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the relay's handshakes are the only sign of a new certificate"
)]
fn pause() {
    std::thread::sleep(LOOK);
}

/// The certificate that a client gets who trusts the CA.
fn shown(relay: &Relay, ca: &Ca, name: &str) -> Option<CertificateDer<'static>> {
    let stream = shake(address(relay, true), name, "http/1.1", Some(ca.root()));
    stream.ok().map(|stream| certificate(&stream))
}

/// A CA whose certificates are [`Script::short_lived`], and a relay with the first of them, which is not due yet.
fn certified(cache: &Path) -> (Ca, Relay, CertificateDer<'static>) {
    let ca = Ca::start(Script::short_lived());
    let relay = start(&ca, cache, |_| {});
    let first = wait("certificate", || shown(&relay, &ca, NAME));
    (ca, relay, first)
}

/// Waits for another certificate than `before`.
fn renewed(
    relay: &Relay,
    ca: &Ca,
    name: &str,
    before: &CertificateDer<'static>,
) -> CertificateDer<'static> {
    wait("new certificate", || {
        shown(relay, ca, name).filter(|it| it != before)
    })
}

fn health(relay: &Relay) -> Value {
    let (status, body) = page(relay.admin_addresses()[0], "localhost", "/healthz?verbose").unwrap();
    assert_eq!(status, 200);
    serde_json::from_str(&body).unwrap()
}

/// Why the last order failed, once it has.
fn failure(relay: &Relay) -> String {
    wait("failure", || {
        let failure = health(relay)["acme"]["last_failure"].clone();
        failure.as_str().map(str::to_owned)
    })
}

fn now_seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// Records that the operator has to put into DNS, once the relay knows them.
fn records(relay: &Relay) -> Option<Vec<String>> {
    let records = health(relay)["acme"]["dns_records"].clone();
    serde_json::from_value(records).ok()
}

/// Orders a certificate with a wildcard, by a record that stays.
fn with_wildcard(config: &mut Config) {
    let acme = config.acme.as_mut().unwrap();
    acme.domains = vec![NAME.to_owned(), format!("*.{NAME}")];
    acme.dns_persist_issuer = Some("ca.example".to_owned());
}

fn metric(relay: &Relay, line: &str) -> bool {
    let (_, body) = page(relay.admin_addresses()[0], "localhost", "/metrics").unwrap();
    body.lines().any(|it| it == line)
}

#[test]
fn a_certificate_comes_by_itself_and_is_there_at_once_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("acme");
    let ca = Ca::start(Script::default());
    let relay = start(&ca, &cache, |config| {
        config.acme.as_mut().unwrap().profile = Some("shortlived".to_owned());
    });
    let first = wait("certificate", || shown(&relay, &ca, NAME));
    assert_eq!(ca.checks(), ["tls-alpn-01"]);
    assert_eq!(ca.asked()[0]["profile"], "shortlived");
    let health = health(&relay);
    assert_eq!(health["certificates"][0]["names"][0], NAME);
    assert_eq!(health["acme"]["domains"][0], NAME);
    assert!(metric(
        &relay,
        "relay_acme_orders_total{outcome=\"issued\"} 1"
    ));
    for file in fs::read_dir(&cache).unwrap() {
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    relay.stop();

    ca.order(|script| script.is_down = true);
    let relay = start(&ca, &cache, |_| {});
    assert_eq!(shown(&relay, &ca, NAME).unwrap(), first);
    // A second relay with the same folder has it, too.
    let other = start(&ca, &cache, |_| {});
    assert_eq!(shown(&other, &ca, NAME).unwrap(), first);
    assert_eq!((ca.asked().len(), ca.accounts()), (1, 1));
}

#[test]
fn a_ca_that_checks_over_http_gets_its_answer() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::start(Script {
        offers: vec!["dns-01", "http-01"],
        ..Script::default()
    });
    let relay = start(&ca, folder.path(), |config| {
        config.domain = Some("elsewhere.example".to_owned());
        config.acme.as_mut().unwrap().domains = vec![NAME.to_owned(), "two.example".to_owned()];
    });
    wait("certificate", || shown(&relay, &ca, NAME));
    assert!(shown(&relay, &ca, "two.example").is_some());
    assert_eq!(ca.checks(), ["http-01", "http-01"]);
    // The answers are gone with the order.
    let path = "/.well-known/acme-challenge/token-0-0";
    let (status, _) = page(address(&relay, false), NAME, path).unwrap();
    assert_ne!(status, 200);
}

#[test]
fn a_nonce_that_the_ca_does_not_know_any_more_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::start(Script {
        bad_nonces: 7,
        ..Script::default()
    });
    let relay = start(&ca, folder.path(), |config| {
        config.acme.as_mut().unwrap().domains = vec![NAME.to_owned(), "two.example".to_owned()];
    });
    wait("certificate", || shown(&relay, &ca, NAME));
    // Account, order and its state, two names with a check each, request and certificate.
    assert_eq!(ca.bad_nonces(), [7; 9]);
    assert_eq!(health(&relay)["acme"]["orders_failed"], 0);
    assert_eq!((ca.accounts(), ca.asked().len()), (1, 1));
}

#[test]
fn a_ca_that_refuses_every_nonce_is_not_asked_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::start(Script {
        bad_nonces: usize::MAX,
        ..Script::default()
    });
    let relay = start(&ca, folder.path(), |_| {});
    let failure = failure(&relay);
    assert!(failure.contains("badNonce"), "{failure}");
    assert_eq!(ca.bad_nonces(), [15]);
}

#[test]
fn certificates_are_renewed_when_the_ca_wants_it_and_no_connection_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, relay, mut before) = certified(folder.path());
    let tls = address(&relay, true);
    let mut open = shake(tls, NAME, "http/1.1", Some(ca.root())).unwrap();
    assert!(is_alive(&mut open));
    ca.order(Script::make_due);
    for _ in 0..2 {
        before = renewed(&relay, &ca, NAME, &before);
        assert!(is_alive(&mut open));
    }
    let asked = ca.asked();
    assert!(asked[0]["replaces"].is_null() && asked[1]["replaces"].is_string());
    assert_eq!(ca.accounts(), 1);
}

#[test]
fn an_order_that_fails_keeps_the_certificate_in_use_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, relay, before) = certified(folder.path());
    ca.order(|script| {
        script.refuses = true;
        script.make_due();
    });
    let failure = failure(&relay);
    assert!(failure.contains("refused on command"), "{failure}");
    assert_eq!(shown(&relay, &ca, NAME).unwrap(), before);
    ca.order(|script| script.refuses = false);
    renewed(&relay, &ca, NAME, &before);
    assert!(health(&relay)["acme"]["last_failure"].is_null());
    // The order after the failure began with the other check.
    assert!(ca.checks().iter().any(|it| it == "http-01"));
}

#[test]
fn without_a_certificate_clients_are_refused_and_counted_and_the_relay_runs() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::start(Script {
        is_down: true,
        ..Script::default()
    });
    let relay = start(&ca, folder.path(), |_| {});
    for protocol in ["http/1.1", "acme-tls/1"] {
        assert!(shake(address(&relay, true), NAME, protocol, None).is_err());
    }
    let line = "relay_tls_failures_total{reason=\"no_certificate\"} 2";
    wait("count", || metric(&relay, line).then_some(()));
    wait("failed order", || {
        health(&relay)["acme"]["last_failure"]
            .is_string()
            .then_some(())
    });
    let (status, _) = page(address(&relay, false), "127.0.0.1", "/health").unwrap();
    assert_eq!(status, 200);
    // The pause after the first failure is 45 to 60 s.
    let at = wait("next order", || {
        let at = health(&relay)["acme"]["renewal_epoch_seconds"].as_u64();
        at.filter(|at| *at > now_seconds() + 30)
    });
    assert!(at <= now_seconds() + 61);
}

#[test]
fn an_order_with_more_checks_than_names_fails_before_the_first_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::start(Script {
        surplus: 1,
        ..Script::default()
    });
    let relay = start(&ca, folder.path(), |_| {});
    let failure = failure(&relay);
    assert!(failure.contains("2 checks for 1 names"), "{failure}");
    assert!(ca.checks().is_empty());
    // The check that is not made any more does not wait at the CA.
    assert_eq!(ca.given_up(), [(0, 0)]);
}

#[test]
fn a_relay_that_the_ca_refuses_does_not_keep_another_one_from_ordering() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::start(Script {
        refuses: true,
        ..Script::default()
    });
    let refused = start(&ca, folder.path(), |config| {
        config.http_listen.push("127.0.0.1:0".parse().unwrap());
    });
    failure(&refused);
    let has_tries = || {
        let mut files = fs::read_dir(folder.path()).unwrap();
        files.any(|file| {
            file.unwrap()
                .path()
                .extension()
                .is_some_and(|it| it == "tries")
        })
    };
    assert!(has_tries());
    ca.order(|script| script.refuses = false);
    let began = Instant::now();
    let other = start(&ca, folder.path(), |_| {});
    wait("certificate", || shown(&other, &ca, NAME));
    // The pause after a failure is 45 s at least.
    assert!(began.elapsed() < Duration::from_secs(40));
    assert_eq!(ca.asked().len(), 2);
    assert_eq!(health(&other)["acme"]["orders_issued"], 1);
    // The failure counts no more for the relay that failed, either.
    assert!(!has_tries());
}

#[test]
fn an_account_is_bound_to_the_one_that_the_operator_has() {
    let folder = tempfile::tempdir().unwrap();
    let key = b"0123456789abcdef0123456789abcdef".to_vec();
    let ca = Ca::start(Script {
        account_key: Some(("kid-1", key.clone())),
        ..Script::default()
    });
    let without = start(&ca, &folder.path().join("without"), |_| {});
    let failure = failure(&without);
    assert!(failure.contains("acme_eab_kid"), "{failure}");
    let relay = start(&ca, &folder.path().join("with"), |config| {
        config.acme.as_mut().unwrap().eab = Some(ExternalAccount {
            key_id: "kid-1".to_owned(),
            key: Secret::new(BASE64URL_NOPAD.encode(&key)),
        });
    });
    wait("certificate", || shown(&relay, &ca, NAME));
}

#[test]
fn a_hook_puts_records_into_dns_and_takes_them_out_again() {
    let folder = tempfile::tempdir().unwrap();
    let (hook, records) = (folder.path().join("hook"), folder.path().join("records"));
    let script = format!("#!/bin/sh\necho \"$@\" >> '{}'\n", records.display());
    fs::write(&hook, script).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let ca = Ca::start(Script {
        offers: vec!["dns-01", "http-01", "tls-alpn-01"],
        records: Some(records.clone()),
        ..Script::default()
    });
    let relay = start(&ca, &folder.path().join("acme"), |config| {
        let acme = config.acme.as_mut().unwrap();
        acme.domains = vec![NAME.to_owned(), format!("*.{NAME}")];
        acme.dns_hook = Some(hook);
    });
    wait("certificate", || {
        shown(&relay, &ca, &format!("maya.{NAME}"))
    });
    assert_eq!(ca.checks(), ["dns-01", "dns-01"]);
    let text = fs::read_to_string(records).unwrap();
    let begins = |word: &str| text.lines().filter(|it| it.starts_with(word)).count();
    let record = format!("_acme-challenge.{NAME} ");
    assert_eq!(begins(&format!("present {record}")), 2);
    assert_eq!(begins(&format!("cleanup {record}")), 2);
}

#[test]
fn a_wildcard_is_validated_by_a_record_that_stays() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::start(Script {
        offers: vec!["dns-01", "tls-alpn-01", "dns-persist-01"],
        ..Script::short_lived()
    });
    let relay = start(&ca, folder.path(), with_wildcard);
    let lines = wait("record", || records(&relay));
    let account = ca.directory().replace("directory", "account/0");
    let value = format!("ca.example; accounturi={account}; policy=wildcard");
    let wanted = format!("_validation-persist.{NAME}. IN TXT \"{value}\"");
    assert_eq!(lines, [wanted]);
    ca.publish(&lines);
    let tunnel = format!("maya.{NAME}");
    let before = wait("certificate", || shown(&relay, &ca, &tunnel));
    // The next order needs no other record.
    ca.order(Script::make_due);
    renewed(&relay, &ca, &tunnel, &before);
    assert!(ca.checks().iter().all(|it| it == "dns-persist-01"));
    assert_eq!((ca.accounts(), records(&relay)), (1, Some(lines)));
    assert!(ca.given_up().is_empty());
}

#[test]
fn while_an_order_runs_the_time_of_the_next_one_is_now() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::start(Script {
        offers: vec!["dns-persist-01"],
        ..Script::default()
    });
    let relay = start(&ca, folder.path(), with_wildcard);
    wait("order", || (!ca.asked().is_empty()).then_some(()));
    // The CA's check waits for a record, and the order for the check.
    let began = now_seconds();
    wait("later time", || (now_seconds() > began + 2).then_some(()));
    let before = now_seconds();
    let health = health(&relay);
    let acme = &health["acme"];
    let at = acme["renewal_epoch_seconds"].as_u64().unwrap();
    assert!((before..=now_seconds()).contains(&at));
    assert_eq!(acme["orders_issued"], 0);
    assert_eq!(acme["orders_failed"], 0);
    assert!(acme["is_ordering"].is_null());
}

#[test]
fn a_missing_record_is_told_and_looked_for_again_later() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::start(Script {
        offers: vec!["dns-persist-01"],
        ..Script::short_lived()
    });
    let relay = start(&ca, folder.path(), with_wildcard);
    let lines = wait("record", || records(&relay));
    ca.publish(&lines);
    let before = wait("certificate", || shown(&relay, &ca, NAME));
    ca.publish(&[]);
    ca.order(Script::make_due);
    let failure = failure(&relay);
    assert!(failure.contains("no record of"), "{failure}");
    assert_eq!(shown(&relay, &ca, NAME).unwrap(), before);
    assert_eq!(records(&relay).as_ref(), Some(&lines));
    ca.publish(&lines);
    renewed(&relay, &ca, NAME, &before);
    assert!(health(&relay)["acme"]["last_failure"].is_null());
}

#[test]
fn a_ca_that_hashes_accounts_finds_the_record_of_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::start(Script {
        offers: vec!["dns-persist-01"],
        hash_prefix: Some("https://ca.example/hash/"),
        ..Script::default()
    });
    let relay = start(&ca, folder.path(), with_wildcard);
    let lines = wait("record", || records(&relay));
    let account = "accounturi=https://ca.example/hash/sha-256/";
    assert!(lines[0].contains(account), "{lines:?}");
    ca.publish(&lines);
    wait("certificate", || {
        shown(&relay, &ca, &format!("maya.{NAME}"))
    });
}

#[test]
fn a_ca_that_would_look_for_another_record_is_not_told_to_look() {
    let folder = tempfile::tempdir().unwrap();
    for (offer, issuer, wanted) in [
        (
            "dns-persist-01",
            "other.example",
            "looks for a record of ca.example",
        ),
        (
            "dns-01",
            "ca.example",
            "acme_dns_persist_issuer needs a CA with dns-persist-01",
        ),
    ] {
        let ca = Ca::start(Script {
            offers: vec![offer],
            ..Script::default()
        });
        let relay = start(&ca, &folder.path().join(offer), |config| {
            with_wildcard(config);
            config.acme.as_mut().unwrap().dns_persist_issuer = Some(issuer.to_owned());
        });
        let failure = failure(&relay);
        assert!(failure.contains(wanted), "{failure}");
        assert!(ca.checks().is_empty());
        assert_eq!(ca.given_up(), [(0, 0), (0, 1)]);
    }
}

#[test]
fn an_account_that_the_ca_forgot_is_made_again_within_the_same_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, relay, before) = certified(folder.path());
    ca.order(|script| {
        script.known_from = 1;
        script.make_due();
    });
    renewed(&relay, &ca, NAME, &before);
    assert_eq!(health(&relay)["acme"]["orders_failed"], 0);
    assert_eq!(ca.accounts(), 2);
    // The new account names no certificate of the old one.
    assert!(ca.asked()[1]["replaces"].is_null());
}

#[test]
fn damaged_files_in_the_folder_cost_an_account_and_an_order_and_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::start(Script::default());
    let relay = start(&ca, folder.path(), |_| {});
    let first = wait("certificate", || shown(&relay, &ca, NAME));
    relay.stop();
    let files = fs::read_dir(folder.path()).unwrap();
    let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    let file = |ending: &str| {
        let mut all = files.iter();
        let found = all.find(|it| it.to_str().unwrap().ends_with(ending));
        found.unwrap()
    };
    let account = file(".account.json");
    fs::write(account, "{").unwrap();
    fs::write(file(".pem"), "").unwrap();

    let relay = start(&ca, folder.path(), |_| {});
    let second = wait("certificate", || shown(&relay, &ca, NAME));
    assert_ne!(second, first);
    assert_eq!((ca.accounts(), ca.asked().len()), (2, 2));
    assert_eq!(health(&relay)["acme"]["orders_failed"], 0);
    let aside = account.with_extension("damaged.json");
    assert_eq!(fs::read_to_string(aside).unwrap(), "{");
}

#[test]
fn a_ca_that_forgets_every_account_is_not_asked_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::start(Script {
        known_from: usize::MAX,
        ..Script::default()
    });
    let relay = start(&ca, folder.path(), |_| {});
    let failure = failure(&relay);
    assert!(failure.contains("accountDoesNotExist"), "{failure}");
    assert_eq!(health(&relay)["acme"]["orders_failed"], 1);
    assert_eq!(ca.accounts(), 2);
}
