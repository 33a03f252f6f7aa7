//! The control thread: one tokio thread beside the shards, for the relay's operators.
//!
//! It reaches the shards through [`Inspect`] and their counters only, so its work cannot delay a shard.

mod admin;
mod auth;
mod changes;
mod listing;
mod places;
mod reserve;
mod revoke;
mod routes;
mod serve;
mod tunnel;

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tieline_wire::TunnelId;
use tokio::sync::watch;
use tracing::info_span;

use self::admin::{Admin, Pauses};
use self::auth::{Order, Orders, SnapshotUpdater};
pub(crate) use self::changes::Changes;
use crate::audit::Audit;
use crate::auth::{Asked, Question, Ruling, Snapshot};
use crate::config::{Config, Denied};
use crate::directory::Forgotten;
use crate::error::StartError;
use crate::metrics::{Cut, ShardMetrics, ShardStatus, TunnelBatch, TunnelDetail};
use crate::shard::Paused;
use crate::state::Book;

/// Resolves to a batch of tunnels from each shard that was asked, once all have answered.
pub(crate) type Tunnels = Pin<Box<dyn Future<Output = Vec<(usize, TunnelBatch)>> + Send>>;

/// Resolves to the number of links ended, once all shards have answered or took too long.
pub(crate) type Ended = Pin<Box<dyn Future<Output = usize> + Send>>;

/// Resolves to one tunnel and its callers; `None` if a shard took too long.
pub(crate) type Detail = Pin<Box<dyn Future<Output = Option<TunnelDetail>> + Send>>;

/// Resolves to the numbers of links and sessions ended, once all shards have answered or took too long.
pub(crate) type Cuts = Pin<Box<dyn Future<Output = Cut> + Send>>;

/// Resolves to the outcome of unbinding a name; `None` if its home shard took too long.
pub(crate) type Forgetting = Pin<Box<dyn Future<Output = Option<Forgotten>> + Send>>;

/// Resolves once a shard's mailbox has the message.
pub(crate) type Told = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Requests of the control thread to the shards.
pub(crate) trait Inspect: Send + Sync {
    /// A batch of tunnels from each shard in `wanted`, starting after the name given with it.
    fn tunnels(&self, wanted: Vec<(usize, String)>) -> Tunnels;

    /// The state of one tunnel on all shards.
    fn detail(&self, tunnel: TunnelId) -> Detail;

    /// Ends a tunnel's sessions and links.
    fn kick(&self, tunnel: TunnelId) -> Cuts;

    /// Unbinds a name that no agent serves.
    fn forget(&self, tunnel: TunnelId) -> Forgetting;

    /// Tells every shard which tunnels are paused, and ends the sessions of those tunnels.
    fn pause(&self, tunnels: Arc<Paused>) -> Cuts;

    /// Gives every shard a new admission snapshot; resolves to the number of links this ended.
    fn apply_auth(&self, snapshot: Arc<Snapshot>) -> Ended;

    /// Gives the provider's ruling to the shard that asked `question`.
    fn rule(&self, question: Question, ruling: Ruling) -> Told;

    /// The state of each shard.
    fn shards(&self) -> Vec<ShardStatus>;
}

/// Operators' decisions from before this relay started, and where new decisions are stored.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    pub(crate) paused: Arc<Paused>,
    /// Revocations, each with the second since 1970 at which it ends; ordered by that second.
    pub(crate) revoked: Vec<(Denied, u64)>,
    pub(crate) book: Book,
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

/// Handle to the running control thread.
pub(crate) struct Control {
    thread: Option<JoinHandle<()>>,
    stop: watch::Sender<Phase>,
    draining: Arc<AtomicBool>,
    addresses: Vec<SocketAddr>,
    orders: Orders,
}

impl Control {
    /// Starts the thread that keeps admission up to date, beginning with `snapshot`. The pages about `shown` are
    /// served on `listeners`, which must be non-blocking, from [`Control::serve`] on.
    ///
    /// # Errors
    /// [`StartError::Thread`] names the missing resource.
    pub(crate) fn start(
        config: &Config,
        snapshot: &Snapshot,
        asked: Asked,
        shown: Shown,
        decided: Decided,
        listeners: Vec<(SocketAddr, TcpListener)>,
    ) -> Result<Self, StartError> {
        let addresses = listeners.iter().map(|(address, _)| *address).collect();
        let failed = |source| StartError::Thread {
            what: "the control thread".to_owned(),
            source,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;

        let draining = Arc::new(AtomicBool::new(false));
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
        let admin = Arc::new(Admin {
            inspect,
            orders: orders.clone(),
            token: config.admin_token.clone(),
            metrics,
            audit,
            pauses: Pauses::new(tokio::sync::Mutex::new(decided.paused)),
            book: decided.book,
            changes: decided.changes,
            draining: Arc::clone(&draining),
            started: Instant::now(),
            memory_limit_bytes: config.memory_limit_bytes,
            shard_budget_bytes: config.shard_budget_bytes,
            start_epoch_seconds: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        });
        let (stop, phase) = watch::channel(Phase::Starts);
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                let _span = info_span!("control").entered();
                runtime.block_on(serve::run(listeners, &admin, updater, phase));
                // Does not wait for a DNS lookup, which may still block a thread.
                runtime.shutdown_background();
            })
            .map_err(failed)?;
        Ok(Self {
            thread: Some(thread),
            stop,
            draining,
            addresses,
            orders,
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
        self.draining.store(true, Ordering::Relaxed);
        self.stop.send_replace(Phase::Drains);
    }

    /// Reads all files that decide about admission again.
    pub(crate) fn reload(&self) {
        // A full queue is fine: it holds orders that the updater has yet to look at.
        let _ = self.orders.try_send(Order::Reload);
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
