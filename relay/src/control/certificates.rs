//! Keeps the certificates up to date: reads their files again when one changes, and gives every shard the new ones.

use std::sync::Arc;
use std::time::Duration;

use rustls::server::ProducesTickets;
use tokio::sync::Notify;
use tokio::time::{self, MissedTickBehavior};
use tracing::{info, warn};

use super::Inspect;
use super::watched::{LOOK_INTERVAL, Watched};
use crate::certificates::{CertificateTable, Certificates, ServerConfigs};
use crate::clock::now_seconds;
use crate::config::TlsConfig;
use crate::error::ConfigError;

/// Time before the end of a certificate from which on the log tells of it, once a [`WARN_INTERVAL`].
const NOTICE: Duration = Duration::from_secs(14 * 24 * 60 * 60);
const WARN_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// Keeps the shards' certificates up to date.
pub(super) struct CertificateUpdater {
    inspect: Arc<dyn Inspect>,
    /// Notified when the files must be read even if they look unchanged.
    reload: Arc<Notify>,
    table: Watched<Arc<CertificateTable>>,
    ticketer: Arc<dyn ProducesTickets>,
}

impl CertificateUpdater {
    /// An updater that starts with the certificates that the shards have, which were read from the files in `config`.
    pub(super) fn new(
        config: &TlsConfig,
        certificates: Certificates,
        reload: Arc<Notify>,
        inspect: Arc<dyn Inspect>,
    ) -> Self {
        let config = config.clone();
        let files = config.certificates.iter();
        let paths = files.flat_map(|it| [&it.cert, &it.key]);
        let paths = paths.chain(&config.agent_ca).cloned().collect();
        let read = move |known: &Arc<CertificateTable>| -> Result<_, ConfigError> {
            let table = CertificateTable::of(&config)?;
            table.check_times(known, &config.certificates, now_seconds())?;
            Ok(Arc::new(table))
        };
        Self {
            inspect,
            reload,
            table: Watched::together(paths, certificates.table, read),
            ticketer: certificates.ticketer,
        }
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        let mut looks = time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut warnings = time::interval(WARN_INTERVAL);
        loop {
            tokio::select! {
                () = self.reload.notified() => self.look(true).await,
                _ = looks.tick() => self.look(false).await,
                _ = warnings.tick() => {
                    for line in self.table.known().endings(now_seconds(), NOTICE) {
                        warn!("{line}");
                    }
                }
            }
        }
    }

    /// Reads the files if one has changed, or in any case if `now` is set.
    pub(super) async fn look(&mut self, now: bool) {
        let Some(table) = self.table.look(now) else {
            return;
        };
        info!(certificates = %table, "the certificates have changed");
        let configs = ServerConfigs::new(table, Arc::clone(&self.ticketer));
        self.inspect.apply_tls(configs).await;
    }
}
