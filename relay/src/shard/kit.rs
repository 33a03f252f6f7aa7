//! What the owners of a shard's state have in common: the shard's number, settings, clock, counters, tasks and mail.
//!
//! None of them belongs to links or to callers alone. The owners know the kit, and neither each other nor the shard.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::mail::Mail;
use super::peers::Peers;
use super::task_set::TaskSet;
use crate::auth::{OwnTokens, Snapshot};
use crate::certificates::ServerConfigs;
use crate::clock::{Clock, now_seconds};
use crate::io::sleep;
use crate::limits::Limited;
use crate::listen::http::{DRAIN_GRACE, holds_token};
use crate::metrics::ShardMetrics;

/// Time that a peer over TLS has for its next bytes once the shard drains: a handshake takes up to two round trips, and
/// a request comes behind it.
const DRAIN_GRACE_TLS: Duration = Duration::from_secs(1);

/// What the owners of a shard's state have in common.
pub(super) struct Kit {
    /// Number of the shard.
    pub(super) index: usize,
    pub(super) peers: Arc<Peers>,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<ShardMetrics>,
    /// Way to the other shards.
    pub(super) mail: Rc<Mail>,
    /// All tasks except the accept loops.
    pub(super) tasks: Rc<TaskSet>,
    /// Current auth snapshot; replaced as a whole.
    pub(super) auth: RefCell<Arc<Snapshot>>,
    /// Current configurations of TLS, with the certificates; `None` if no address has TLS.
    pub(super) tls: RefCell<Option<Arc<ServerConfigs>>>,
    /// Whether the shard accepts nothing new.
    pub(super) draining: Cell<bool>,
}

impl Kit {
    pub(super) fn new(index: usize, metrics: Arc<ShardMetrics>, peers: Arc<Peers>) -> Rc<Self> {
        let (clock, tasks) = (Clock::start(), Rc::<TaskSet>::default());
        Rc::new(Self {
            index,
            clock,
            mail: Mail::new(&peers.mailboxes, clock, &metrics, &tasks),
            metrics,
            tasks,
            auth: RefCell::new(Arc::clone(&peers.auth)),
            tls: RefCell::new(peers.tls.clone()),
            draining: Cell::new(false),
            peers,
        })
    }

    /// The current auth snapshot.
    pub(super) fn auth(&self) -> Arc<Snapshot> {
        Arc::clone(&self.auth.borrow())
    }

    /// Whether connections from `address` come from a proxy that tells of their callers' addresses.
    pub(super) fn is_trusted_proxy(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let mut proxies = self.peers.config.callers.trusted_proxies.iter();
        proxies.any(|net| net.contains(&address))
    }

    /// The current configurations of TLS.
    pub(super) fn tls(&self) -> Option<Arc<ServerConfigs>> {
        self.tls.borrow().clone()
    }

    /// Counts an outcome that a limit refuses.
    pub(super) fn counted<T>(&self, outcome: Result<T, Limited>) -> Result<T, Limited> {
        if let Err(limited) = &outcome {
            self.metrics.limited(limited.kind);
        }
        outcome
    }

    /// True if a name that a peer sent holds a token of the relay: peers put tokens in the place of names, and logs
    /// must not contain them.
    pub(super) fn is_token(&self, name: &str) -> bool {
        let own = OwnTokens::of(&self.auth.borrow(), now_seconds());
        own.is_some_and(|own| holds_token(own, name.as_bytes()))
    }

    /// The output of `first_bytes`, or `None` after `limit`. Once the shard drains, a peer that has sent nothing gets
    /// [`DRAIN_GRACE`] at most, as an idle caller does, or [`DRAIN_GRACE_TLS`] if it comes over TLS.
    pub(super) async fn in_time<T>(
        &self,
        limit: Duration,
        is_tls: bool,
        first_bytes: impl Future<Output = T>,
    ) -> Option<T> {
        let (mut first_bytes, mut limit) = (pin!(first_bytes), pin!(sleep(limit)));
        let mut grace = None;
        poll_fn(|cx| {
            if let Poll::Ready(brought) = first_bytes.as_mut().poll(cx) {
                return Poll::Ready(Some(brought));
            }
            let mut is_over = limit.as_mut().poll(cx).is_ready();
            if self.draining.get() {
                let time = if is_tls { DRAIN_GRACE_TLS } else { DRAIN_GRACE };
                let grace = grace.get_or_insert_with(|| Box::pin(sleep(time)));
                is_over |= Pin::new(grace).poll(cx).is_ready();
            }
            if is_over {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    }
}
