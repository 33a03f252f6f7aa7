//! The folder that keeps the account, the certificate and its key. Each file is replaced as a whole, and only the relay's
//! user can read it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64URL_NOPAD;
use instant_acme::{AccountCredentials, Key};
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::Value;
use tracing::warn;

use super::error::AcmeError;
use crate::certificates::OrderedCertificate;
use crate::config::{AcmeConfig, read_secret_file};
use crate::error::{ConfigError, StartError};
use crate::state::Folder;

/// The file that the relay locks while it orders.
const LOCK_FILE: &str = "order.lock";

/// A file that is written and removed, to see whether the folder takes another one.
const PROBE_FILE: &str = "order.probe";

/// Relays whose failed orders are kept; a name of each has so many bytes of a digest. Their lines fit into the longest
/// file that a [`Folder`] reads.
const RELAYS_MAX: usize = 32;
const RELAY_BYTES: usize = 12;

/// Accounts of one CA that are kept aside for one reason.
const ASIDE_MAX: usize = 8;

/// Longest certificate with its key, in bytes.
const CERTIFICATE_BYTES_MAX: usize = 128 * 1024;

/// The folder of one relay, or of several that order the same certificate.
pub(super) struct Cache {
    folder: Folder,
    /// URL of the CA's directory, to which the account belongs.
    directory_url: String,
    account_file: String,
    certificate_file: String,
    tries_file: String,
    /// Name of this relay among those with the folder.
    relay: String,
}

/// Orders so far of one relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tries {
    /// Orders that failed or were cut off since the last one that succeeded.
    pub(super) failures: u32,
    /// Second since 1970 at which the last order began.
    pub(super) began: i64,
}

/// Keeps other relays with the same folder from ordering until it is dropped.
pub(super) struct OrderLock {
    _file: File,
}

impl Cache {
    /// Opens the folder, and creates it if it is missing. The addresses in `listens` tell this relay from others with
    /// the folder: on one machine those listen on other ones, and this relay has the same after a restart, as has one
    /// that takes over.
    ///
    /// # Errors
    /// The folder cannot be created, or other users can change it.
    pub(super) fn open(config: &AcmeConfig, listens: &str) -> Result<Self, StartError> {
        let folder = Folder::open(&config.cache_dir).map_err(|error| match error {
            StartError::State { path, problem } => {
                StartError::Config(ConfigError::content(&path, problem))
            }
            other => other,
        })?;
        Ok(Self {
            folder,
            directory_url: config.directory_url.to_string(),
            account_file: config.account_file(),
            certificate_file: config.certificate_file(),
            tries_file: config.tries_file(),
            relay: relay_name(listens),
        })
    }

    /// The account at the CA, if there is one; a damaged one counts as none.
    ///
    /// # Errors
    /// The file cannot be read, or other users can read it.
    pub(super) fn credentials(&self) -> Result<Option<AccountCredentials>, AcmeError> {
        let content = self.folder.read(&self.account_file).map_err(failed)?;
        let account = content.map(|content| self.account_of(&content));
        Ok(account.and_then(|account| account.unwrap_or_default()))
    }

    /// The account in the content of its file; `None` if it is one at another CA.
    ///
    /// # Errors
    /// What is damaged.
    fn account_of(&self, content: &[u8]) -> Result<Option<AccountCredentials>, String> {
        let content: Value = serde_json::from_slice(content).map_err(|error| error.to_string())?;
        let directory = content.get("directory").and_then(Value::as_str);
        if directory.ok_or("it names no CA")? != self.directory_url {
            return Ok(None);
        }
        let account = serde_json::from_value::<AccountCredentials>(content);
        let account = account.map_err(|error| error.to_string())?;
        let key = PrivatePkcs8KeyDer::from(account.private_key().secret_pkcs8_der());
        Key::from_pkcs8_der(key).map_err(|error| error.to_string())?;
        Ok(Some(account))
    }

    /// Puts a damaged account aside, where the operator can look at it. Must be called under the lock.
    ///
    /// # Errors
    /// The file cannot be read or moved.
    pub(super) fn put_damaged_aside(&self) -> Result<(), AcmeError> {
        let content = self.folder.read(&self.account_file).map_err(failed)?;
        let Some(Err(problem)) = content.map(|content| self.account_of(&content)) else {
            return Ok(());
        };
        let path = self.folder.path().join(&self.account_file);
        let aside = aside(&path, "damaged");
        let (from, to) = (path.display(), aside.display());
        fs::rename(&path, &aside)
            .map_err(|error| AcmeError::Here(format!("{from} cannot be moved to {to}: {error}")))?;
        warn!("{from} is damaged ({problem}): it is {to} now, and the relay makes another account");
        Ok(())
    }

    /// URL of the account in the folder; `None` if there is none, or its file is damaged.
    fn account_url(&self) -> Option<String> {
        let bytes = self.folder.read(&self.account_file).ok()??;
        let content: Value = serde_json::from_slice(&bytes).ok()?;
        content.get("id")?.as_str().map(str::to_owned)
    }

    /// Keeps the account at the CA.
    pub(super) fn keep_credentials(
        &self,
        credentials: &AccountCredentials,
    ) -> Result<(), AcmeError> {
        let bytes = serde_json::to_vec(credentials);
        let bytes = bytes.map_err(|error| AcmeError::Here(error.to_string()))?;
        self.folder
            .replace(&self.account_file, &bytes)
            .map_err(failed)
    }

    /// Puts the account with the URL `account` aside, which the CA does not know any more: if the CA errs, the operator
    /// can put it back, and records in DNS that name it are good again. Another account stays: another relay with the
    /// folder has made it since.
    pub(super) fn forget_credentials(&self, account: &str) {
        if self.account_url().is_some_and(|kept| kept != account) {
            return;
        }
        let path = self.folder.path().join(&self.account_file);
        // If the file stays, the CA refuses the account once more.
        let _ = fs::rename(&path, aside(&path, "gone"));
    }

    /// The certificate in the folder, if there is one.
    pub(super) fn certificate(&self) -> Result<Option<OrderedCertificate>, ConfigError> {
        OrderedCertificate::read(&self.folder.path().join(&self.certificate_file))
    }

    /// Keeps a certificate and its key, which can be read again then.
    pub(super) fn keep_certificate(&self, pem: &str) -> Result<(), AcmeError> {
        if pem.len() > CERTIFICATE_BYTES_MAX {
            let text = format!("the CA's certificate has {} bytes, too many", pem.len());
            return Err(AcmeError::Here(text));
        }
        self.folder
            .replace(&self.certificate_file, pem.as_bytes())
            .map_err(failed)?;
        match self.certificate() {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(AcmeError::Here("the certificate's file is gone".to_owned())),
            Err(error) => Err(AcmeError::Here(error.to_string())),
        }
    }

    /// Checks that the folder takes a certificate, and that its key could be read there: a certificate that is lost would
    /// be ordered again and again. A folder in the place of its file could not be replaced.
    pub(super) fn check(&self) -> Result<(), AcmeError> {
        // A file is written beside its place first.
        for name in [
            &self.certificate_file,
            &format!("{}.new", self.certificate_file),
        ] {
            let path = self.folder.path().join(name);
            if fs::symlink_metadata(&path).is_ok_and(|it| it.is_dir()) {
                return Err(AcmeError::Here(format!(
                    "{} is a folder in the place of the certificate's file: remove it",
                    path.display()
                )));
            }
        }
        let content = vec![b'\n'; CERTIFICATE_BYTES_MAX];
        let written = self.folder.replace(PROBE_FILE, &content).map_err(failed);
        let path = self.folder.path().join(PROBE_FILE);
        let read = written.and_then(|()| {
            read_secret_file(&path).map_err(|error| AcmeError::Here(error.to_string()))
        });
        // It is written again before the next order.
        let _ = fs::remove_file(&path);
        read.map(drop)
    }

    /// What the folder tells of this relay's orders so far; a line that is damaged tells nothing.
    pub(super) fn tries(&self) -> Tries {
        let mut all = self.notes().into_iter();
        let own = all.find(|(relay, _)| *relay == self.relay);
        own.map_or_else(Tries::default, |(_, tries)| tries)
    }

    /// Notes the orders of this relay so far. Must be called under the lock, since the notes of other relays stay; only
    /// the oldest of too many go.
    pub(super) fn note(&self, tries: Tries) -> Result<(), AcmeError> {
        let others = self.notes().into_iter();
        let others = others.filter(|(relay, _)| *relay != self.relay);
        let all = [(self.relay.clone(), tries)].into_iter().chain(others);
        let lines = all
            .take(RELAYS_MAX)
            .map(|(relay, tries)| format!("{} {} {relay}\n", tries.failures, tries.began));
        self.folder
            .replace(&self.tries_file, lines.collect::<String>().as_bytes())
            .map_err(failed)
    }

    /// Forgets the orders of all relays, since one has succeeded. If the file stays, the next order waits some minutes
    /// at most.
    pub(super) fn forget_tries(&self) {
        let _ = fs::remove_file(self.folder.path().join(&self.tries_file));
    }

    /// The relays that have ordered, the last one first, and their orders.
    fn notes(&self) -> Vec<(String, Tries)> {
        let content = self.folder.read(&self.tries_file).ok().flatten();
        let text = String::from_utf8_lossy(&content.unwrap_or_default()).into_owned();
        let notes = text.lines().filter_map(|line| {
            let (failures, rest) = line.split_once(' ')?;
            let (began, relay) = rest.split_once(' ')?;
            let is_name = BASE64URL_NOPAD.decode(relay.as_bytes()).ok()?.len() == RELAY_BYTES;
            let tries = Tries {
                failures: failures.parse().ok()?,
                began: began.parse().ok()?,
            };
            is_name.then(|| (relay.to_owned(), tries))
        });
        notes.collect()
    }

    /// Keeps other relays with this folder from ordering; `None` if one of them orders now.
    pub(super) fn lock(&self) -> Result<Option<OrderLock>, AcmeError> {
        let path = self.folder.path().join(LOCK_FILE);
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&path);
        let unfit = |error: std::io::Error| {
            AcmeError::Here(format!("{} cannot be locked: {error}", path.display()))
        };
        let file = opened.map_err(unfit)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(OrderLock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(unfit(error)),
        }
    }
}

/// A name beside the account's file `path` for an account that is put aside: `….account.WHY.json`, then
/// `….account.WHY.2.json` and so on, up to [`ASIDE_MAX`] files. If all exist, it is the name of the one that was written
/// longest ago, which the log tells; the first file always stays, because records in DNS may name its account.
fn aside(path: &Path, why: &str) -> PathBuf {
    let written = |path: &Path| fs::symlink_metadata(path).and_then(|it| it.modified());
    let first = path.with_extension(format!("{why}.json"));
    if written(&first).is_err() {
        return first;
    }
    let others = (2..=ASIDE_MAX).map(|number| path.with_extension(format!("{why}.{number}.json")));
    // A free name has no time, and comes before all others.
    let oldest = others.min_by_key(|path| written(path).ok());
    let oldest = oldest.unwrap_or(first);
    if written(&oldest).is_ok() {
        warn!(
            "{} is replaced: the folder keeps {ASIDE_MAX} accounts that were put aside",
            oldest.display()
        );
    }
    oldest
}

/// Name of the relay that listens on `listens`.
fn relay_name(listens: &str) -> String {
    let digest = digest(&SHA256, listens.as_bytes());
    let bytes: &[u8] = digest.as_ref();
    BASE64URL_NOPAD.encode(&bytes[..RELAY_BYTES])
}

/// The failure of a file, without the name of another setting in front of it.
fn failed(error: StartError) -> AcmeError {
    AcmeError::Here(match error {
        StartError::State { path, problem } => format!("{} {problem}", path.display()),
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, SystemTime};

    use super::*;

    const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
    const ACCOUNT_FILE: &str = "acme/acme-v02.api.letsencrypt.org_directory.account.json";
    const TRIES_FILE: &str = "acme/acme-v02.api.letsencrypt.org_directory.tries";

    fn cache(folder: &Path) -> Cache {
        cache_of(folder, "tls://0.0.0.0:443")
    }

    fn cache_of(folder: &Path, listens: &str) -> Cache {
        let config = AcmeConfig::new(vec!["relay.example".to_owned()], folder.join("acme"));
        Cache::open(&config, listens).unwrap()
    }

    /// The file of an account `id` at the CA with `directory`.
    fn account(id: &str, directory: &str) -> String {
        let (_, key) = Key::generate_pkcs8().unwrap();
        let key = BASE64URL_NOPAD.encode(key.secret_pkcs8_der());
        format!(r#"{{"id":"{id}","key_pkcs8":"{key}","directory":"{directory}"}}"#)
    }

    fn write_secret(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn one_relay_orders_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (cache(folder.path()), cache(folder.path()));
        let lock = one.lock().unwrap();
        assert!(lock.is_some() && other.lock().unwrap().is_none());
        drop(lock);
        assert!(other.lock().unwrap().is_some());
    }

    #[test]
    fn keys_are_for_the_relay_alone() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        let acme = folder.path().join("acme");
        assert_eq!(mode(&acme), 0o700);
        assert!(cache.certificate().unwrap().is_none());
        let made = rcgen::generate_simple_self_signed(["relay.example".to_owned()]).unwrap();
        let pem = made.signing_key.serialize_pem() + &made.cert.pem();
        cache.keep_certificate(&pem).unwrap();
        let file = acme.join("acme-v02.api.letsencrypt.org_directory.pem");
        assert_eq!(mode(&file), 0o600);
        let kept = cache.certificate().unwrap().unwrap();
        assert_eq!(kept.names, ["relay.example"]);
        assert_eq!(kept, OrderedCertificate::of_pem(&pem).unwrap());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(cache.certificate().is_err());
    }

    #[test]
    fn a_certificate_that_cannot_be_kept_is_not_ordered() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        cache.check().unwrap();
        let acme = folder.path().join("acme");
        assert_eq!(fs::read_dir(&acme).unwrap().count(), 0);
        // As on a disk that takes no file: there cannot be one where a folder is.
        fs::create_dir(acme.join("order.probe.new")).unwrap();
        assert!(cache.check().is_err());
        fs::remove_dir(acme.join("order.probe.new")).unwrap();
        cache.check().unwrap();
        // No file can be renamed to the name of a folder.
        let file = acme.join("acme-v02.api.letsencrypt.org_directory.pem");
        for folder in [file.clone(), file.with_extension("pem.new")] {
            fs::create_dir(&folder).unwrap();
            let error = cache.check().unwrap_err().line();
            let wanted = format!("{} is a folder", folder.display());
            assert!(error.contains(&wanted), "{error}");
            fs::remove_dir(&folder).unwrap();
        }
        let made = rcgen::generate_simple_self_signed(["relay.example".to_owned()]).unwrap();
        let pem = made.signing_key.serialize_pem() + &made.cert.pem();
        let long = pem.clone() + &"\n".repeat(CERTIFICATE_BYTES_MAX);
        assert!(cache.keep_certificate(&long).is_err());
        assert!(cache.keep_certificate("nonsense").is_err());
        cache.keep_certificate(&pem).unwrap();
    }

    #[test]
    fn orders_that_failed_are_known_after_a_start() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(cache(folder.path()).tries(), Tries::default());
        let tries = Tries {
            failures: 3,
            began: 1_800_000_000,
        };
        cache(folder.path()).note(tries).unwrap();
        assert_eq!(cache(folder.path()).tries(), tries);
        let file = folder.path().join(TRIES_FILE);
        let name = cache(folder.path()).relay;
        for text in ["", "3", "3 7", "3 x", "-1 7", "99999999999 7", "\u{fffd} 7"] {
            fs::write(&file, format!("{text} {name}\n{text}\n")).unwrap();
            let is_whole = text == "3 7";
            let is_known = cache(folder.path()).tries() != Tries::default();
            assert_eq!(is_known, is_whole, "{text}");
        }
    }

    #[test]
    fn each_relay_has_its_own_count_until_an_order_of_one_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let of = |port: usize| cache_of(folder.path(), &format!("tls://0.0.0.0:{port}"));
        let tries = |failures| Tries {
            failures,
            began: 1_800_000_000,
        };
        of(1).note(tries(1)).unwrap();
        of(2).note(tries(5)).unwrap();
        of(1).note(tries(2)).unwrap();
        let of_all = [1, 2, 3].map(|port| of(port).tries());
        assert_eq!(of_all, [tries(2), tries(5), Tries::default()]);
        // The count of the relay that has not ordered for longest goes first.
        for port in 3..=RELAYS_MAX + 1 {
            of(port).note(tries(u32::MAX)).unwrap();
        }
        assert_eq!(
            [1, 2].map(|port| of(port).tries()),
            [tries(2), Tries::default()]
        );
        of(3).forget_tries();
        assert_eq!([1, 3].map(|port| of(port).tries()), [Tries::default(); 2]);
        assert!(!folder.path().join(TRIES_FILE).exists());
    }

    #[test]
    fn an_account_of_another_ca_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        assert!(cache.credentials().unwrap().is_none());
        let path = folder.path().join(ACCOUNT_FILE);
        write_secret(&path, &account("x", "https://other.example/directory"));
        assert!(cache.credentials().unwrap().is_none());
        cache.put_damaged_aside().unwrap();
        assert!(path.exists());
        let own = |id: &str| write_secret(&path, &account(id, LETS_ENCRYPT));
        own("x");
        assert!(cache.credentials().unwrap().is_some());
        cache.forget_credentials("x");
        assert!(cache.credentials().unwrap().is_none());
        let aside = path.with_file_name("acme-v02.api.letsencrypt.org_directory.account.gone.json");
        assert_eq!(mode(&aside), 0o600);
        // Another relay has made an account since, and this one learns only now that the first is gone.
        own("y");
        cache.forget_credentials("x");
        assert!(cache.credentials().unwrap().is_some());
        cache.forget_credentials("y");
        assert!(cache.credentials().unwrap().is_none());
        assert!(fs::read_to_string(&aside).unwrap().contains(r#""id":"x""#));
        let second = aside.with_extension("2.json");
        assert!(fs::read_to_string(second).unwrap().contains(r#""id":"y""#));
    }

    #[test]
    fn a_damaged_account_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        cache.put_damaged_aside().unwrap();
        let path = folder.path().join(ACCOUNT_FILE);
        let whole = account("x", LETS_ENCRYPT);
        let key = format!(r#"{{"id":"x","key_pkcs8":"AAAA","directory":"{LETS_ENCRYPT}"}}"#);
        let texts = ["", &whole[..60], "\0\u{1}garbage", "{}", "[]", &key];
        for text in texts {
            write_secret(&path, text);
            assert!(cache.credentials().unwrap().is_none(), "{text}");
            cache.put_damaged_aside().unwrap();
            assert!(!path.exists());
        }
        let all = (1..).map(|number| damaged(&path, number));
        for (text, aside) in texts.iter().zip(all) {
            assert_eq!(fs::read_to_string(aside).unwrap(), *text);
        }
        write_secret(&path, &whole);
        cache.put_damaged_aside().unwrap();
        assert!(cache.credentials().unwrap().is_some());
        // A file that the relay does not trust may be whole.
        write_secret(&path, "{");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(cache.credentials().is_err() && cache.put_damaged_aside().is_err());
        assert!(path.exists());
    }

    /// The file of the damaged account that was put aside as number `number`.
    fn damaged(path: &Path, number: usize) -> PathBuf {
        match number {
            1 => path.with_extension("damaged.json"),
            _ => path.with_extension(format!("damaged.{number}.json")),
        }
    }

    #[test]
    fn of_many_accounts_put_aside_the_first_one_and_the_newest_stay() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        let path = folder.path().join(ACCOUNT_FILE);
        for number in 1..=ASIDE_MAX + 2 {
            write_secret(&path, &number.to_string());
            // Files that are written at the same time have no order.
            let written =
                SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(number).unwrap());
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(written).unwrap();
            cache.put_damaged_aside().unwrap();
        }
        let kept: Vec<_> = (1..=ASIDE_MAX)
            .map(|number| fs::read_to_string(damaged(&path, number)).unwrap())
            .collect();
        assert_eq!(kept, ["1", "9", "10", "4", "5", "6", "7", "8"]);
        assert!(!damaged(&path, ASIDE_MAX + 1).exists());
    }
}
