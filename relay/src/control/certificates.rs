//! Keeps the certificates up to date: reads their files again when one changes, and gives every shard the new ones.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rustls::server::ProducesTickets;
use tokio::sync::{Notify, watch};
use tokio::time::{self, MissedTickBehavior};
use tracing::{info, warn};

use super::Inspect;
use super::acme::{Acme, ShownAcme};
use super::watched::{LOOK_INTERVAL, Watched};
use crate::certificates::{CertificateTable, Certificates, Challenges, ServerConfigs};
use crate::clock::now_seconds;

/// Time before the end of a certificate from which on the log tells of it, once a [`WARN_INTERVAL`].
const NOTICE: Duration = Duration::from_secs(14 * 24 * 60 * 60);
const WARN_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// Keeps the shards' certificates up to date.
pub(super) struct CertificateUpdater {
    inspect: Arc<dyn Inspect>,
    /// Notified when the operator wants the files to be read even if they look unchanged.
    reload: Arc<Notify>,
    /// Notified when the relay has put a certificate that it ordered into its file.
    issued: Arc<Notify>,
    table: Watched<Arc<CertificateTable>>,
    ticketer: Arc<dyn ProducesTickets>,
    challenges: Option<Arc<Challenges>>,
    /// State of the orders, if the relay orders a certificate.
    acme: Option<ShownAcme>,
    /// Notified when the files were read, if the relay orders a certificate.
    was_read: Option<Arc<Notify>>,
    /// The certificates that the admin port shows.
    shown: watch::Sender<Arc<CertificateTable>>,
}

impl CertificateUpdater {
    /// An updater that starts with the certificates that the shards have; `acme` is set if the relay orders a
    /// certificate.
    pub(super) fn new(
        certificates: Certificates,
        reload: &Arc<Notify>,
        inspect: &Arc<dyn Inspect>,
        acme: Option<&Acme>,
    ) -> Self {
        let sources = certificates.sources;
        let paths = sources.paths();
        let read = move |known: &Arc<CertificateTable>| {
            let (table, problems) = sources.read_again(known, now_seconds());
            (Arc::new(table), problems)
        };
        Self {
            inspect: Arc::clone(inspect),
            reload: Arc::clone(reload),
            issued: acme.map(Acme::issued).unwrap_or_default(),
            acme: acme.map(Acme::shown),
            was_read: acme.map(Acme::was_read),
            shown: watch::Sender::new(Arc::clone(&certificates.table)),
            table: Watched::together(paths, certificates.table, read).with_told(certificates.told),
            ticketer: certificates.ticketer,
            challenges: certificates.challenges,
        }
    }

    /// The certificates for the admin port.
    pub(super) fn shown(&self) -> watch::Receiver<Arc<CertificateTable>> {
        self.shown.subscribe()
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        let mut looks = time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut warnings = time::interval(WARN_INTERVAL);
        loop {
            tokio::select! {
                () = self.reload.notified() => self.reload().await,
                () = self.issued.notified() => self.look(true).await,
                _ = looks.tick() => self.look(false).await,
                _ = warnings.tick() => {
                    let do_orders_fail = self.do_orders_fail();
                    for line in self.table.known().endings(now_seconds(), NOTICE, do_orders_fail) {
                        warn!("{line}");
                    }
                }
            }
        }
    }

    /// Whether the last order of a certificate failed.
    fn do_orders_fail(&self) -> bool {
        self.acme.as_ref().is_some_and(|acme| {
            let report = acme.lock().unwrap_or_else(PoisonError::into_inner);
            report.last_failure.is_some()
        })
    }

    /// Reads the files as the operator wants, and tells of all problems once more.
    pub(super) async fn reload(&mut self) {
        self.table.tell_again();
        self.look(true).await;
    }

    /// Reads the files if one has changed, or in any case if `now` is set.
    pub(super) async fn look(&mut self, now: bool) {
        let changed = self.table.look(now);
        if let Some(was_read) = &self.was_read
            && self.table.has_read()
        {
            // A damaged file changes no table, and another certificate is to be ordered.
            was_read.notify_one();
        }
        let Some(table) = changed else {
            return;
        };
        info!(certificates = %table, "the certificates have changed");
        self.shown.send_replace(Arc::clone(&table));
        let ticketer = Arc::clone(&self.ticketer);
        let configs = ServerConfigs::new(table, ticketer, self.challenges.as_ref());
        self.inspect.apply_tls(configs).await;
    }
}
