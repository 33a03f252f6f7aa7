//! What the owners of a shard's state have in common: the shard's number, settings, clock, counters, tasks and mail.
//!
//! None of them belongs to links or to callers alone. The owners know the kit, and neither each other nor the shard.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::mail::Mail;
use super::peers::Peers;
use super::task_set::TaskSet;
use crate::auth::{OwnTokens, Snapshot};
use crate::clock::{Clock, now_seconds};
use crate::io::sleep;
use crate::limits::Limited;
use crate::listen::http::{DRAIN_GRACE, holds_token};
use crate::metrics::ShardMetrics;

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
            draining: Cell::new(false),
            peers,
        })
    }

    /// The current auth snapshot.
    pub(super) fn auth(&self) -> Arc<Snapshot> {
        Arc::clone(&self.auth.borrow())
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
    /// [`DRAIN_GRACE`] at most, as an idle caller does.
    pub(super) async fn in_time<T>(
        &self,
        limit: Duration,
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
                let grace = grace.get_or_insert_with(|| Box::pin(sleep(DRAIN_GRACE)));
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
