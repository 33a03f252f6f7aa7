//! The control thread: one tokio thread beside the shards, for the relay's operators.
//!
//! It reaches the shards through [`Inspect`] and their counters only, so its work cannot delay a shard.

mod acme;
mod admin;
mod auth;
mod certificates;
mod changes;
mod client;
mod connections;
mod listing;
mod reserve;
mod revoke;
mod routes;
mod serve;
mod tunnel;
mod watched;

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use tieline_wire::TunnelId;
use tokio::sync::{Notify, watch};
use tracing::info_span;

use self::acme::Acme;
use self::admin::{Admin, Pauses};
use self::auth::{Order, Orders, SnapshotUpdater};
use self::certificates::CertificateUpdater;
pub(crate) use self::changes::Changes;
use self::serve::Updaters;
use crate::audit::Audit;
use crate::auth::{Question, RequestQueue, Ruling, Snapshot};
use crate::certificates::{Certificates, ServerConfigs};
use crate::config::{Config, Denied};
use crate::directory::Forgotten;
use crate::error::StartError;
use crate::metrics::{Cut, ShardMetrics, ShardStatus, TunnelBatch, TunnelDetail};
use crate::shard::Paused;
use crate::state::{NoteQueue, now_seconds};

/// Resolves once the shards have answered, or took too long.
pub(crate) type Reply<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Requests of the control thread to the shards.
pub(crate) trait Inspect: Send + Sync {
    /// A batch of tunnels from each shard in `wanted`, starting after the name given with it. Waits for all.
    fn tunnels(&self, wanted: Vec<(usize, String)>) -> Reply<Vec<(usize, TunnelBatch)>>;

    /// The state of one tunnel on all shards, with its callers; `None` if a shard took too long.
    fn detail(&self, tunnel: TunnelId) -> Reply<Option<TunnelDetail>>;

    /// Ends a tunnel's sessions and links.
    fn kick(&self, tunnel: TunnelId) -> Reply<Cut>;

    /// Unbinds a name that no agent serves; `None` if its home shard took too long.
    fn forget(&self, tunnel: TunnelId) -> Reply<Option<Forgotten>>;

    /// Tells every shard which tunnels are paused, and ends the sessions of those tunnels.
    fn pause(&self, tunnels: Arc<Paused>) -> Reply<Cut>;

    /// Gives every shard a new admission snapshot; resolves to the number of links this ended.
    fn apply_auth(&self, snapshot: Arc<Snapshot>) -> Reply<usize>;

    /// Gives every shard new configurations of TLS. Waits until the shards' mailboxes have them.
    fn apply_tls(&self, configs: Arc<ServerConfigs>) -> Reply<()>;

    /// Gives the provider's ruling to the shard that asked `question`. Waits until the shard's mailbox has it.
    fn rule(&self, question: Question, ruling: Ruling) -> Reply<()>;

    /// The state of each shard.
    fn shards(&self) -> Vec<ShardStatus>;
}

/// Operators' decisions from before this relay started, and where new decisions are stored.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    pub(crate) paused: Arc<Paused>,
    /// Revocations, each with the second since 1970 at which it ends; ordered by that second.
    pub(crate) revoked: Vec<(Denied, u64)>,
    pub(crate) book: NoteQueue,
    pub(crate) changes: Changes,
}

/// What the control thread's pages report on.
pub(crate) struct Shown {
    pub(crate) inspect: Arc<dyn Inspect>,
    pub(crate) metrics: Vec<Arc<ShardMetrics>>,
    pub(crate) audit: Audit,
    /// Held while a listener still accepts.
    pub(crate) accepting: Arc<()>,
}

/// Phase of the control thread's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Listeners accept nothing yet.
    Starts,
    Serves,
    /// Listeners are closed, open connections go on.
    Drains,
    Stops,
}

/// The control thread lacks a resource.
fn failed(source: io::Error) -> StartError {
    StartError::Thread {
        what: "the control thread".to_owned(),
        source,
    }
}

/// Handle to the running control thread.
pub(crate) struct Control {
    thread: Option<JoinHandle<()>>,
    stop: watch::Sender<Phase>,
    addresses: Vec<SocketAddr>,
    orders: Orders,
    /// Makes the updater of certificates read their files.
    reload: Arc<Notify>,
}

impl Control {
    /// Starts the thread that keeps admission and certificates up to date, beginning with `snapshot` and
    /// `certificates`. The pages about `shown` are served on `listeners`, which must be non-blocking, from
    /// [`Control::serve`] on.
    ///
    /// # Errors
    /// [`StartError::Thread`] names the missing resource.
    pub(crate) fn start(
        config: &Config,
        snapshot: &Snapshot,
        certificates: Option<Certificates>,
        asked: RequestQueue,
        shown: Shown,
        decided: Decided,
        listeners: Vec<(SocketAddr, TcpListener)>,
    ) -> Result<Self, StartError> {
        let addresses = listeners.iter().map(|(address, _)| *address).collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let (stop, phase) = watch::channel(Phase::Starts);
        let Shown {
            inspect,
            metrics,
            audit,
            accepting,
        } = shown;
        let listeners = listeners.into_iter();
        let listeners = listeners.map(|it| (it, Arc::clone(&accepting))).collect();
        let (mut updater, orders) =
            SnapshotUpdater::new(config, snapshot.clone(), asked, Arc::clone(&inspect))?;
        updater.restore(&decided.revoked, decided.book.clone());
        let reload = Arc::<Notify>::default();
        let acme = Acme::new(config, certificates.as_ref())?;
        let certificates =
            certificates.map(|it| CertificateUpdater::new(it, &reload, &inspect, acme.as_ref()));
        let admin = Arc::new(Admin {
            inspect,
            orders: orders.clone(),
            token: config.admin_token.clone(),
            metrics,
            audit,
            pauses: Pauses::new(tokio::sync::Mutex::new(decided.paused)),
            book: decided.book,
            changes: decided.changes,
            phase: phase.clone(),
            started: Instant::now(),
            memory_limit_bytes: config.memory_limit_bytes,
            shard_budget_bytes: config.shard_budget_bytes,
            start_epoch_seconds: now_seconds(),
            certificates: certificates.as_ref().map(CertificateUpdater::shown),
            acme: acme.as_ref().map(Acme::shown),
        });
        let updaters = Updaters {
            admission: updater,
            certificates,
            acme,
        };
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                let _span = info_span!("control").entered();
                runtime.block_on(serve::run(listeners, &admin, updaters, phase));
                // Does not wait for a DNS lookup, which may still block a thread.
                runtime.shutdown_background();
            })
            .map_err(failed)?;
        Ok(Self {
            thread: Some(thread),
            stop,
            addresses,
            orders,
            reload,
        })
    }

    /// Bound addresses of the admin listeners.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Makes the listeners accept connections.
    pub(crate) fn serve(&self) {
        self.stop.send_replace(Phase::Serves);
    }

    /// Closes the listeners; `/healthz` answers `draining` on connections that are open.
    pub(crate) fn drain(&self) {
        self.stop.send_replace(Phase::Drains);
    }

    /// Reads all files that decide about admission again, and the certificates.
    pub(crate) fn reload(&self) {
        // A full queue is fine: it holds orders that the updater has yet to look at.
        let _ = self.orders.try_send(Order::Reload);
        self.reload.notify_one();
    }

    /// Ends the thread and waits for it.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.send_replace(Phase::Stops);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control thread panicked");
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests;
