//! The control thread: one tokio thread beside the shards, for whoever operates the relay.
//!
//! It sees the shards through [`Inspect`] and their counters, and nothing it does can delay one.

mod admin;
mod auth;
mod changes;
mod listing;
mod places;
mod reserve;
mod revoke;
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

use self::admin::Admin;
use self::auth::{Keeper, Order, Orders};
pub(crate) use self::changes::Changes;
use self::tunnel::Pauses;
use crate::audit::Audit;
use crate::auth::{Asked, Question, Ruling, Snapshot};
use crate::config::{Config, Denied};
use crate::error::StartError;
use crate::metrics::{Cut, ShardMetrics, ShardStatus, TunnelBatch, TunnelDetail};
use crate::shard::{Forgotten, Paused};
use crate::state::Book;

/// Some tunnels of each shard that was asked, once all have answered.
pub(crate) type Tunnels = Pin<Box<dyn Future<Output = Vec<(usize, TunnelBatch)>> + Send>>;

/// How many links were ended, once all shards have said so or took too long.
pub(crate) type Ended = Pin<Box<dyn Future<Output = usize> + Send>>;

/// One tunnel and its callers, unless a shard took too long.
pub(crate) type Detail = Pin<Box<dyn Future<Output = Option<TunnelDetail>> + Send>>;

/// What was ended, once all shards have said so or took too long.
pub(crate) type Cuts = Pin<Box<dyn Future<Output = Cut> + Send>>;

/// What became of an order to unbind a name, unless its home took too long.
pub(crate) type Forgetting = Pin<Box<dyn Future<Output = Option<Forgotten>> + Send>>;

/// Done once a shard has a message.
pub(crate) type Told = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the control thread may ask the shards.
pub(crate) trait Inspect: Send + Sync {
    /// Some tunnels of each shard in `wanted`, those behind the name given with it.
    fn tunnels(&self, wanted: Vec<(usize, String)>) -> Tunnels;

    /// What all shards know of one tunnel.
    fn detail(&self, tunnel: TunnelId) -> Detail;

    /// Ends a tunnel's sessions and links.
    fn kick(&self, tunnel: TunnelId) -> Cuts;

    /// Unbinds a name that no agent serves.
    fn forget(&self, tunnel: TunnelId) -> Forgetting;

    /// Tells every shard which tunnels take no callers, and ends what those have.
    fn pause(&self, tunnels: Arc<Paused>) -> Cuts;

    /// Gives every shard what decides who is let in; how many links that ended.
    fn admit(&self, snapshot: Arc<Snapshot>) -> Ended;

    /// Tells the shard that asked what the provider says.
    fn rule(&self, question: Question, ruling: Ruling) -> Told;

    /// How each shard runs.
    fn shards(&self) -> Vec<ShardStatus>;
}

/// What operators decided before this relay started, and where what they decide is kept.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    pub(crate) paused: Arc<Paused>,
    /// Until which second since 1970; those first that end first.
    pub(crate) revoked: Vec<(Denied, u64)>,
    pub(crate) book: Book,
    pub(crate) changes: Changes,
}

/// What the control thread shows.
pub(crate) struct Shown {
    pub(crate) inspect: Arc<dyn Inspect>,
    pub(crate) metrics: Vec<Arc<ShardMetrics>>,
    pub(crate) audit: Audit,
    /// Held while a listener accepts.
    pub(crate) accepting: Arc<()>,
}

/// How far the control thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Its listeners accept nothing yet.
    Starts,
    Serves,
    /// Its listeners are closed, its connections go on.
    Drains,
    Stops,
}

/// The control thread, while it runs.
pub(crate) struct Control {
    thread: Option<JoinHandle<()>>,
    stop: watch::Sender<Phase>,
    draining: Arc<AtomicBool>,
    addresses: Vec<SocketAddr>,
    orders: Orders,
}

impl Control {
    /// Starts keeping up to date who is let in, which is `snapshot` at first. What it is `shown` is served on `listeners`,
    /// which do not block, from [`Control::serve`] on.
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
        let (mut keeper, orders) =
            Keeper::new(config, snapshot.clone(), asked, Arc::clone(&inspect))?;
        keeper.restore(&decided.revoked, decided.book.clone());
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
                runtime.block_on(serve::run(listeners, &admin, keeper, phase));
                // The system may still be looking a name up, and nobody waits for that.
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

    /// Where it listens.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Its listeners accept from now on.
    pub(crate) fn serve(&self) {
        self.stop.send_replace(Phase::Serves);
    }

    /// From now on there are no new connections, and `/healthz` says on the open ones that the relay is
    /// on its way out.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.stop.send_replace(Phase::Drains);
    }

    /// Has all files that decide who is let in read again.
    pub(crate) fn reload(&self) {
        // One that waits already is as good.
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
            tracing::error!("the control thread had panicked");
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
