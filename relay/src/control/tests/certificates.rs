//! Certificates that change while the relay runs.

use std::fs;
use std::os::unix::fs::symlink;

use tokio::task::yield_now;

use super::*;
use crate::certificates::tests::Files;
use crate::config::{CertificateFiles, TlsConfig};

/// An updater of one certificate, and the configurations that the shards get from it.
struct Rig {
    updater: CertificateUpdater,
    reload: Arc<Notify>,
    applied: Arc<Mutex<Vec<Arc<ServerConfigs>>>>,
}

impl Rig {
    fn new(files: CertificateFiles) -> Self {
        Self::of(&TlsConfig {
            certificates: vec![files],
            ..TlsConfig::default()
        })
    }

    fn of(config: &TlsConfig) -> Self {
        let certificates = Certificates::read(config, None).unwrap().unwrap();
        let fake = Fake::default();
        let (reload, applied) = (Arc::<Notify>::default(), Arc::clone(&fake.tls));
        let inspect: Arc<dyn Inspect> = Arc::new(fake);
        let updater = CertificateUpdater::new(certificates, &reload, &inspect, None);
        Self {
            updater,
            reload,
            applied,
        }
    }

    async fn look(&mut self, times: usize) {
        for _ in 0..times {
            self.updater.look(false).await;
        }
    }

    fn count(&self) -> usize {
        self.applied.lock().unwrap().len()
    }
}

/// Puts files in the place of others, as a program that renews a certificate does.
fn replace(old: &CertificateFiles, new: &CertificateFiles) {
    fs::rename(&new.cert, &old.cert).unwrap();
    fs::rename(&new.key, &old.key).unwrap();
}

#[tokio::test]
async fn a_new_certificate_counts_once_its_key_is_there() {
    let files = Files::new();
    let old = files.lasting("old", &["relay.example"]);
    let mut rig = Rig::new(old.clone());
    // The files are unchanged since the relay read them at the start.
    rig.look(3).await;
    assert_eq!(rig.count(), 0);

    let new = files.lasting("new", &["relay.example"]);
    fs::rename(&new.cert, &old.cert).unwrap();
    rig.look(4).await;
    assert_eq!(rig.count(), 0, "the certificate has another key");
    fs::rename(&new.key, &old.key).unwrap();
    rig.look(1).await;
    assert_eq!(rig.count(), 0, "the key may still be being written");
    rig.look(1).await;
    assert_eq!(rig.count(), 1);
    rig.updater.look(true).await;
    assert_eq!(rig.count(), 1);
}

#[tokio::test]
async fn another_authority_of_agents_counts_like_another_certificate() {
    let files = Files::new();
    let ca = files.authority("one", "agents").cert;
    let mut rig = Rig::of(&TlsConfig {
        certificates: vec![files.lasting("relay", &["relay.example"])],
        agent_ca: Some(ca.clone()),
        ..TlsConfig::default()
    });
    rig.look(3).await;
    assert_eq!(rig.count(), 0);
    fs::rename(files.authority("two", "agents").cert, &ca).unwrap();
    rig.look(2).await;
    assert_eq!(rig.count(), 1);
    fs::write(&ca, "nonsense").unwrap();
    rig.look(4).await;
    assert_eq!(rig.count(), 1, "the authorities stay as they were");
}

#[tokio::test]
async fn a_bad_certificate_changes_nothing() {
    let files = Files::new();
    let old = files.lasting("old", &["relay.example"]);
    let mut rig = Rig::new(old.clone());
    for bad in [
        files.certificate_of_years("expired", &["relay.example"], 2000..=2001),
        files.lasting("nameless", &[]),
    ] {
        replace(&old, &bad);
        rig.look(4).await;
        rig.updater.look(true).await;
    }
    fs::write(&old.cert, "nonsense").unwrap();
    rig.look(4).await;
    fs::remove_file(&old.key).unwrap();
    rig.look(4).await;
    assert_eq!(rig.count(), 0);
    replace(&old, &files.lasting("good", &["relay.example"]));
    rig.look(2).await;
    assert_eq!(rig.count(), 1);
}

#[tokio::test]
async fn an_expired_certificate_of_the_start_does_not_keep_others_from_being_renewed() {
    let files = Files::new();
    let expired = files.certificate_of_years("expired", &["relay.example"], 2000..=2001);
    let other = files.lasting("other", &["other.example"]);
    let mut rig = Rig::of(&TlsConfig {
        certificates: vec![expired.clone(), other.clone()],
        ..TlsConfig::default()
    });
    rig.look(3).await;
    assert_eq!(rig.count(), 0);
    replace(&other, &files.lasting("new", &["other.example"]));
    rig.look(2).await;
    assert_eq!(rig.count(), 1);
    let late = files.certificate_of_years("late", &["relay.example"], 2000..=2001);
    replace(&expired, &late);
    rig.look(4).await;
    assert_eq!(rig.count(), 1, "a new file that is expired is refused");
    replace(&expired, &files.lasting("good", &["relay.example"]));
    rig.look(2).await;
    assert_eq!(rig.count(), 2);
}

#[tokio::test]
async fn a_swapped_symbolic_link_is_a_change() {
    let files = Files::new();
    let before = files.lasting("before", &["relay.example"]);
    let after = files.lasting("after", &["other.example"]);
    let links = CertificateFiles {
        cert: before.cert.with_file_name("live.pem"),
        key: before.key.with_file_name("live.key"),
    };
    let swap = |to: &CertificateFiles| {
        for (file, link) in [(&to.cert, &links.cert), (&to.key, &links.key)] {
            let beside = link.with_extension("beside");
            symlink(file, &beside).unwrap();
            fs::rename(&beside, link).unwrap();
        }
    };
    swap(&before);
    let mut rig = Rig::new(links.clone());
    rig.look(3).await;
    assert_eq!(rig.count(), 0);
    swap(&after);
    rig.look(2).await;
    assert_eq!(rig.count(), 1);
    let applied = rig.applied.lock().unwrap();
    let shown = format!("{:?}", applied[0].callers.cert_resolver);
    assert!(shown.contains("other.example"), "{shown}");
}

// The clock stands still while a task runs, so that no look but the first comes by itself.
#[tokio::test(start_paused = true)]
async fn an_operator_need_not_wait_for_a_look() {
    let files = Files::new();
    let old = files.lasting("old", &["relay.example"]);
    let rig = Rig::new(old.clone());
    replace(&old, &files.lasting("new", &["relay.example"]));
    let running = tokio::spawn(rig.updater.run());
    rig.reload.notify_one();
    for _ in 0..100_000 {
        yield_now().await;
        if !rig.applied.lock().unwrap().is_empty() {
            break;
        }
    }
    assert_eq!(rig.applied.lock().unwrap().len(), 1);
    running.abort();
}
