//! Orders the relay's certificate from a CA by ACME (RFC 8555), and renews it.
//!
//! [`Acme`] decides when. `renewal` computes the time, from the certificate and from the CA's wish (ARI, RFC 9773);
//! `order` is one order over the `account`; `challenge` and `hook` answer the CA's checks, and `persist` has the
//! records that the operator puts into DNS for them; `heard` is what the CA says and the ACME client does not read;
//! `nonce` repeats requests; `cache` keeps the result. A new certificate lies in the cache, where the updater of
//! certificates reads it as it reads any other file: that gives it to the shards, and relays with the same cache see it
//! too. The updater also tells [`Acme`] when the file has changed, be it damaged. An order that fails touches no
//! certificate.

mod account;
mod cache;
mod challenge;
mod error;
mod heard;
mod hook;
mod nonce;
mod order;
mod persist;
mod renewal;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use instant_acme::{Account, CertificateIdentifier};
use tokio::sync::{Notify, watch};
use tokio::time::{self, Instant};
use tracing::{info, warn};

use self::cache::{Cache, Tries};
use self::challenge::{Check, Means};
use self::error::{AcmeError, line};
use self::heard::Heard;
use self::order::{Wanted, order};
use self::persist::{Orderer, records};
use self::renewal::{
    ASK_SECONDS_MAX, Term, WHOLE, Window, longest_pause, pause, seconds, wait_after,
};
use super::Phase;
use super::client::HttpClient;
use crate::certificates::{Certificates, Challenges, OrderedCertificate};
use crate::config::{AcmeConfig, Config};
use crate::error::StartError;
use crate::metrics::AcmeReport;
use crate::state::now_seconds;

/// Longest pause between two looks at the clock, which may be set, and runs on while a machine sleeps.
const LOOK_MAX: Duration = Duration::from_secs(10 * 60);

/// Pause while another relay with the same cache orders.
const OTHER_PAUSE: Duration = Duration::from_secs(5);

/// The CA's wish for a pause where it does not tell one.
const ASK_PAUSE: Duration = Duration::from_secs(6 * 60 * 60);

/// State that the admin port shows.
pub(super) type ShownAcme = Arc<Mutex<AcmeReport>>;

/// Orders the certificate, and renews it.
pub(super) struct Acme {
    config: AcmeConfig,
    client: HttpClient,
    heard: Heard,
    cache: Cache,
    challenges: Arc<Challenges>,
    checks: Vec<Check>,
    /// Makes the updater of certificates read the cache.
    issued: Arc<Notify>,
    /// Makes this task look at the cache: the updater has read it.
    was_read: Arc<Notify>,
    shown: ShownAcme,
    account: Option<Account>,
    /// The certificate in the cache, or the last one there if its file is damaged or gone.
    held: Option<Held>,
    /// Whether the file was damaged before the first certificate was read from it.
    was_damaged: bool,
    /// Whether the last order that succeeded replaced a file that was damaged or gone.
    has_replaced_lost: bool,
    /// Orders that failed since the last one that succeeded.
    failures: u32,
    /// Whether the next order may say that it replaces the certificate in use (ARI, RFC 9773).
    may_replace: bool,
    /// The last question about a renewal failed, which is logged once.
    asks_in_vain: bool,
    /// What this relay has noted in the cache about its orders.
    noted: Option<Tries>,
    /// Earliest time of the next order.
    not_before: Instant,
}

/// The certificate in the cache, and when it is renewed.
struct Held {
    certificate: OrderedCertificate,
    /// Whether its file is damaged or gone since.
    is_lost: bool,
    term: Term,
    /// Name of the certificate in questions about its renewal; absent if it does not say who signed it.
    identifier: Option<CertificateIdentifier<'static>>,
    window: Option<Window>,
    /// Second at which the CA is asked for the window.
    ask_at: i64,
    /// Random part of [`WHOLE`].
    share: u32,
}

impl Held {
    fn new(certificate: OrderedCertificate) -> Self {
        let identifier = CertificateIdentifier::try_from(&certificate.leaf);
        Self {
            term: Term {
                start: certificate.start_seconds,
                end: certificate.end_seconds,
            },
            identifier: identifier.ok().map(CertificateIdentifier::into_owned),
            window: None,
            ask_at: 0,
            share: fastrand::u32(0..=WHOLE),
            is_lost: false,
            certificate,
        }
    }

    /// Whether it is time to ask for the window: also after the clock was set back, when the time to ask is far away.
    const fn is_to_ask(&self, now: i64) -> bool {
        now >= self.ask_at || self.ask_at.saturating_sub(now) > ASK_SECONDS_MAX
    }
}

impl Acme {
    /// What the configuration asks for; `None` if the relay orders no certificate.
    ///
    /// # Errors
    /// The cache cannot be used, or the system has no authorities to check the CA's server with.
    pub(super) fn new(
        config: &Config,
        certificates: Option<&Certificates>,
    ) -> Result<Option<Self>, StartError> {
        let challenges = certificates.and_then(|it| it.challenges.as_ref());
        let (Some(acme), Some(challenges)) = (&config.acme, challenges) else {
            return Ok(None);
        };
        let report = AcmeReport {
            domains: acme.domains.clone(),
            ..AcmeReport::default()
        };
        let listens = [
            &config.http_listen,
            &config.tcp_listen,
            &config.agent_listen,
        ];
        let listens: Vec<_> = listens
            .into_iter()
            .flatten()
            .map(ToString::to_string)
            .collect();
        Ok(Some(Self {
            client: HttpClient::new(&acme.directory_url)?,
            heard: Heard::default(),
            cache: Cache::open(acme, &listens.join(" "))?,
            config: acme.clone(),
            challenges: Arc::clone(challenges),
            checks: Check::all(config),
            issued: Arc::default(),
            was_read: Arc::default(),
            shown: Arc::new(Mutex::new(report)),
            account: None,
            held: None,
            was_damaged: false,
            has_replaced_lost: false,
            failures: 0,
            may_replace: true,
            asks_in_vain: false,
            noted: None,
            not_before: Instant::now(),
        }))
    }

    /// State for the admin port.
    pub(super) fn shown(&self) -> ShownAcme {
        Arc::clone(&self.shown)
    }

    /// Is to be notified when the certificate's file was read because it changed.
    pub(super) fn was_read(&self) -> Arc<Notify> {
        Arc::clone(&self.was_read)
    }

    /// Is notified when a new certificate is in the cache.
    pub(super) fn issued(&self) -> Arc<Notify> {
        Arc::clone(&self.issued)
    }

    /// Runs from [`Phase::Serves`] to [`Phase::Drains`]: before, no CA could reach the relay, and afterwards its
    /// successor orders. An order in progress goes on.
    pub(super) async fn run(mut self, mut phase: watch::Receiver<Phase>) {
        // An error means a stop, which ends this task, too.
        let _ = phase.wait_for(|phase| *phase >= Phase::Serves).await;
        while *phase.borrow() < Phase::Drains {
            let pause = self.step().await.min(LOOK_MAX);
            tokio::select! {
                () = time::sleep(pause) => {}
                () = self.was_read.notified() => {}
                _ = phase.wait_for(|phase| *phase >= Phase::Drains) => {}
            }
        }
    }

    /// Does what is due, and shows when the next order is; returns the time until the next step.
    async fn step(&mut self) -> Duration {
        let pause = self.advance().await;
        self.show_next();
        pause
    }

    /// Shows when the next order is.
    fn show_next(&self) {
        let now = now();
        let wait = self.not_before.saturating_duration_since(Instant::now());
        // Rounded up: a time in the past would be one that the relay has missed.
        let wait = i64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let may_begin = now.saturating_add(wait);
        let due = self.due_at().unwrap_or(now);
        self.report().renewal_epoch_seconds = Some(due.max(may_begin));
    }

    /// Does what is due; returns the time until the next step.
    async fn advance(&mut self) -> Duration {
        self.look();
        let now = now();
        self.ask_window(now).await;
        self.show_next();
        let due = self.due_at();
        if let Some(due) = due
            && now < due
        {
            let asks = self.held.as_ref().map_or(due, |held| held.ask_at);
            return seconds((due.min(asks) - now).max(1));
        }
        let wait = self.not_before.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            return wait;
        }
        let lock = match self.cache.lock() {
            Ok(Some(lock)) => lock,
            Ok(None) => return OTHER_PAUSE,
            Err(error) => return self.failed(&error),
        };
        // Another relay may have ordered before this one got the lock.
        self.look();
        if self.due_at().is_some_and(|due| now < due) {
            return Duration::ZERO;
        }
        if let Some(wait) = self.wait_for_earlier(now) {
            return wait;
        }
        self.report().is_ordering = true;
        let mut outcome = self.order().await;
        if let Err(error) = &outcome
            && (self.forgets_account(error) || self.forgets_replaced(error))
        {
            // Once: the pause holds for all other failures.
            outcome = self.order().await;
        }
        self.report().is_ordering = false;
        let pause = match outcome {
            Ok(()) => self.succeeded(),
            Err(error) => self.failed(&error),
        };
        // Only now: an account that the CA does not know is put aside under the lock.
        drop(lock);
        pause
    }

    /// Time to wait after an order that this relay began before it was started: a relay that ends again and again must
    /// not order each time. What other relays with this cache have tried does not count: the CA may find this one.
    fn wait_for_earlier(&mut self, now: i64) -> Option<Duration> {
        let tries = self.cache.tries();
        if self.noted == Some(tries) {
            return None;
        }
        self.failures = self.failures.max(tries.failures);
        // Why those orders failed is not known.
        self.may_replace &= tries.failures == 0;
        let in_use = self.held.as_ref().map(|held| held.term);
        let wait = wait_after(tries.failures, tries.began, in_use, now);
        if wait.is_zero() {
            return None;
        }
        self.not_before = Instant::now() + wait;
        let failures = tries.failures;
        info!(
            failures,
            "orders have failed before; the next one is in {wait:.0?}"
        );
        Some(wait)
    }

    /// Looks at the certificate in the cache, which another relay may have put there. A damaged file counts as none, and
    /// so does one that must not take the place of the certificate before; the updater of certificates, which reads the
    /// same file, warns of it.
    fn look(&mut self) {
        let found = self.cache.certificate();
        self.was_damaged |= found.is_err();
        let Some(certificate) = found.unwrap_or_default() else {
            return self.lost();
        };
        match &mut self.held {
            Some(held) if held.certificate == certificate => held.is_lost = false,
            Some(_) if certificate.check(&self.config.domains, now()).is_err() => self.lost(),
            _ => {
                self.failures = 0;
                self.may_replace = true;
                self.held = Some(Held::new(certificate));
            }
        }
    }

    /// Has a certificate whose file is damaged or gone ordered at once: the shards still have it, but the next start
    /// would not. If that befell the certificate before it, too, the pause after an order holds: a program that damages
    /// each file must not use up what the CA issues for a name.
    fn lost(&mut self) {
        let Some(held) = self.held.as_mut().filter(|held| !held.is_lost) else {
            return;
        };
        held.is_lost = true;
        // After a failure the pause is that of the failure.
        if self.failures == 0 && !self.has_replaced_lost {
            self.not_before = Instant::now();
        }
        let wait = self.not_before.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            info!("the ordered certificate's file is bad or gone; the next order is in {wait:.0?}");
        }
    }

    /// Second at which a certificate is due to be ordered; `None` means now, since there is none with all names, or its
    /// file is lost.
    fn due_at(&self) -> Option<i64> {
        let held = self.held.as_ref().filter(|held| !held.is_lost)?;
        match held.certificate.lacks(&self.config.domains) {
            Some(_) => None,
            None => Some(held.term.renewal(held.window, held.share)),
        }
    }

    /// Asks the CA when it wants the certificate to be renewed, if it is time to ask. A CA that does not answer changes
    /// nothing.
    async fn ask_window(&mut self, now: i64) {
        let held = self.held.as_ref().filter(|held| held.is_to_ask(now));
        let Some(identifier) = held.and_then(|held| held.identifier.clone()) else {
            // Without a name of the certificate there is no question.
            if let Some(held) = &mut self.held
                && held.identifier.is_none()
            {
                held.ask_at = i64::MAX;
            }
            return;
        };
        // A question alone is no reason for an account, which only the relay that has the lock makes.
        if self.account.is_none() && matches!(self.cache.credentials(), Ok(None)) {
            if let Some(held) = &mut self.held {
                held.ask_at = now.saturating_add(held.term.ask_pause(ASK_PAUSE));
            }
            return;
        }
        let asked = match self.account().await {
            Ok(account) => {
                let asked = account.renewal_info(&identifier).await;
                asked.map_err(AcmeError::from)
            }
            Err(error) => Err(error),
        };
        let Some(held) = &mut self.held else { return };
        let wish = match &asked {
            Ok((_, wish)) => *wish,
            // The next question goes to the addresses that the CA has then.
            Err(error) if !error.is_unsupported() => {
                self.account = None;
                if !self.asks_in_vain {
                    let line = error.line();
                    warn!(
                        "the CA cannot be asked about renewal: {line}; an order may fail likewise"
                    );
                }
                self.asks_in_vain = true;
                ASK_PAUSE / 6
            }
            Err(_) => ASK_PAUSE,
        };
        held.ask_at = now.saturating_add(held.term.ask_pause(wish));
        if let Ok((info, _)) = asked {
            self.asks_in_vain = false;
            let window = info.suggested_window;
            held.window = Some(Window {
                start: window.start.unix_timestamp(),
                end: window.end.unix_timestamp(),
            });
        }
    }

    /// The account at the CA.
    async fn account(&mut self) -> Result<Account, AcmeError> {
        if let Some(account) = &self.account {
            return Ok(account.clone());
        }
        let account = account::open(&self.config, &self.cache, &self.client, &self.heard).await?;
        self.account = Some(account.clone());
        self.show_records(&account);
        Ok(account)
    }

    /// Tells the operator which TXT records must be in DNS, and again when they change.
    fn show_records(&self, account: &Account) {
        let Some(issuer) = &self.config.dns_persist_issuer else {
            return;
        };
        let orderer = Orderer {
            issuer,
            account: account.id(),
            thumbprint: account.key_thumbprint(),
        };
        let records = match records(&self.config.domains, orderer, &self.heard) {
            Ok(records) => records,
            Err(problem) => {
                warn!("{}", line(&problem));
                return;
            }
        };
        let mut report = self.report();
        if report.dns_records != records {
            for record in &records {
                info!(
                    "this TXT record must be in DNS for the CA's checks, and stay there: {record}"
                );
            }
            report.dns_records = records;
        }
    }

    /// Orders a certificate, and puts it into the cache.
    async fn order(&mut self) -> Result<(), AcmeError> {
        self.cache.check()?;
        self.heard.begin();
        let began = now();
        // Noted before, since this relay may end during the order.
        self.note(Tries {
            failures: self.failures.saturating_add(1),
            began,
        })?;
        let account = self.account().await?;
        let wanted = Wanted {
            config: &self.config,
            means: Means {
                challenges: &self.challenges,
                hook: self.config.dns_hook.as_deref(),
                issuer: self.config.dns_persist_issuer.as_deref(),
                heard: &self.heard,
            },
            checks: &self.checks,
            failures: self.failures,
            replaces: self.replaced(),
        };
        let outcome = order(&account, wanted).await;
        // The CA may have told another name of the account.
        self.show_records(&account);
        self.cache.keep_certificate(&outcome?)?;
        self.cache.forget_tries();
        self.noted = Some(Tries::default());
        Ok(())
    }

    /// The certificate that the next order says it replaces, if it does.
    fn replaced(&self) -> Option<&CertificateIdentifier<'static>> {
        let held = self.held.as_ref().filter(|_| self.may_replace)?;
        held.identifier.as_ref()
    }

    /// Notes this relay's orders so far in the cache.
    fn note(&mut self, tries: Tries) -> Result<(), AcmeError> {
        self.noted = Some(tries);
        self.cache.note(tries)
    }

    /// Gives the new certificate to the shards.
    fn succeeded(&mut self) -> Duration {
        self.issued.notify_one();
        self.failures = 0;
        let held = self.held.as_ref();
        self.has_replaced_lost = held.map_or(self.was_damaged, |held| held.is_lost);
        self.look();
        let rest = self.held.as_ref().map_or(OTHER_PAUSE, |it| it.term.rest());
        self.not_before = Instant::now() + rest;
        let names = self.config.domains.join(", ");
        info!(names, "the CA has issued a certificate");
        let mut report = self.report();
        report.orders_issued += 1;
        report.last_failure = None;
        Duration::ZERO
    }

    /// Puts the account aside if the CA does not know it any more; whether it did.
    fn forgets_account(&mut self, error: &AcmeError) -> bool {
        if !error.is_account_gone() {
            return false;
        }
        let Some(account) = self.account.take() else {
            return false;
        };
        self.cache.forget_credentials(account.id());
        self.heard.forget_account();
        // An account can replace no certificate of another.
        self.may_replace = false;
        info!("the CA does not know this relay's account any more; a new one is made");
        true
    }

    /// Has the next order replace no certificate if the last one failed only because it said which it replaces; whether
    /// it did.
    fn forgets_replaced(&mut self, error: &AcmeError) -> bool {
        let did = error.is_about_replacing() && self.replaced().is_some();
        self.may_replace &= !did;
        did
    }

    /// Tells of an order that failed; returns the pause before the next.
    fn failed(&mut self, error: &AcmeError) -> Duration {
        self.forgets_account(error);
        // The next order begins with the addresses that the CA has then.
        self.account = None;
        // Some CAs do not know what replacing means, and may refuse such an order in any way.
        self.may_replace &= error.is_about_other_than_replacing() || self.heard.is_busy();
        self.failures = self.failures.saturating_add(1);
        let now = now();
        let in_use = self.held.as_ref().map(|held| held.term);
        let pause = pause(self.failures, in_use, now, fastrand::u32(0..=WHOLE));
        let pause = match error {
            AcmeError::Ca(_) => pause.max(self.heard.pause().min(longest_pause(in_use, now))),
            _ => pause,
        };
        self.not_before = Instant::now() + pause;
        let line = error.line();
        let now_used = match in_use {
            Some(term) if now <= term.end => "the certificate in use stays",
            _ => {
                "there is no valid certificate of this CA, so clients are refused unless tls_cert has one"
            }
        };
        warn!("no new certificate: {line}; {now_used}; the next order is in {pause:.0?}");
        let mut report = self.report();
        for record in report.dns_records.iter().filter(|_| error.is_refusal()) {
            warn!("the CA looks for this TXT record in DNS: {record}");
        }
        report.orders_failed += 1;
        report.last_failure = Some(line);
        pause
    }

    fn report(&self) -> MutexGuard<'_, AcmeReport> {
        locked(&self.shown)
    }
}

/// What the admin port shows now. While an order runs the next one is now: neither in the past, as if the relay had
/// missed it, nor later, since this one may succeed.
pub(super) fn report(shown: &ShownAcme) -> AcmeReport {
    let mut report = locked(shown).clone();
    if report.is_ordering {
        report.renewal_epoch_seconds = Some(now());
    }
    report
}

fn locked(shown: &ShownAcme) -> MutexGuard<'_, AcmeReport> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The current time in seconds since 1970.
fn now() -> i64 {
    i64::try_from(now_seconds()).unwrap_or(i64::MAX)
}
