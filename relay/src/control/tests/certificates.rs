//! Certificates that change while the relay runs.

use std::fs;
use std::os::unix::fs::symlink;

use tokio::task::yield_now;
use tracing::subscriber::DefaultGuard;

use super::*;
use crate::certificates::tests::Files;
use crate::config::{AcmeConfig, CertificateFiles, TlsConfig};

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
        Self::with(Certificates::read(config, None).unwrap().unwrap())
    }

    fn with(certificates: Certificates) -> Self {
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

/// What a thread logs, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Keeps what this thread logs until the guard is dropped.
    fn start() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone());
        (log, tracing::subscriber::set_default(subscriber.finish()))
    }

    /// The lines with `text`.
    fn lines(&self, text: &str) -> Vec<String> {
        let log = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = log.lines().filter(|line| line.contains(text));
        lines.map(str::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_damaged_ordered_certificate_is_told_once_at_the_start_and_once_at_a_change() {
    let files = Files::new();
    let acme = AcmeConfig::new(vec!["relay.example".to_owned()], files.path(""));
    let name = acme.certificate_file();
    files.write(&name, "nonsense", 0o600);
    let (log, _guard) = Log::start();
    let certificates = Certificates::read(&TlsConfig::default(), Some(&acme));
    let mut rig = Rig::with(certificates.unwrap().unwrap());
    rig.look(5).await;
    let told = log.lines(&name);
    assert!(
        told.len() == 1 && told[0].ends_with("; another certificate is ordered"),
        "{told:?}"
    );

    put_ordered(&files, &name);
    rig.look(4).await;
    assert_eq!(rig.count(), 1);
    files.write(&name, "nonsense", 0o600);
    rig.look(5).await;
    let told = log.lines(&name);
    let wanted = "stays in use, and another one is ordered";
    assert!(told.len() == 2 && told[1].ends_with(wanted), "{told:?}");
    assert_eq!(rig.count(), 1);
}

/// Puts a new certificate and its key where the relay keeps what it orders.
fn put_ordered(files: &Files, name: &str) {
    let new = files.lasting("ordered", &["relay.example"]);
    let [key, cert] = [new.key, new.cert].map(|it| fs::read_to_string(it).unwrap());
    files.write(name, &(key + &cert), 0o600);
}

#[tokio::test]
async fn a_bad_file_is_told_once_until_it_changes_or_the_operator_has_it_read() {
    let files = Files::new();
    let acme = AcmeConfig::new(vec!["relay.example".to_owned()], files.path(""));
    let name = acme.certificate_file();
    put_ordered(&files, &name);
    let named = files.lasting("named", &["named.example"]);
    let config = TlsConfig {
        certificates: vec![named.clone()],
        ..TlsConfig::default()
    };
    let (log, _guard) = Log::start();
    let certificates = Certificates::read(&config, Some(&acme));
    let mut rig = Rig::with(certificates.unwrap().unwrap());
    rig.look(3).await;
    fs::write(&named.cert, "nonsense").unwrap();
    rig.look(5).await;
    let told = || log.lines("named.pem").len();
    assert_eq!(told(), 1);
    // Another file has changed.
    put_ordered(&files, &name);
    rig.look(5).await;
    assert_eq!((rig.count(), told()), (1, 1));
    fs::write(&named.cert, "more nonsense").unwrap();
    rig.look(5).await;
    assert_eq!(told(), 2);
    rig.updater.look(true).await;
    assert_eq!(told(), 2);
    rig.updater.reload().await;
    assert_eq!((rig.count(), told()), (1, 3));
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
