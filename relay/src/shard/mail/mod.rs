//! A shard's way to the other shards: their mailboxes, and an outbox for each of them.
//!
//! A message that must arrive is [posted](Mail::post): if it does not fit into the receiver's mailbox, it waits in this
//! shard's outbox, and the shard goes on. A connection is [handed off](Mail::hand_off): its task waits for room, and
//! the connection is dropped if there is none in time. What the messages mean is not known here: the shard that takes
//! one from its mailbox drives the owner that it is for.

mod mailbox;
pub(super) mod message;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub(super) use self::mailbox::OpenMailbox;
use self::mailbox::Outbox;
pub(crate) use self::mailbox::{Mailbox, MailboxSender, mailbox};
use self::message::Message;
use super::task_set::TaskSet;
use crate::clock::Clock;
use crate::io::sleep;
use crate::metrics::ShardMetrics;

/// Pause before a message that did not fit into another shard's mailbox is tried again.
const OUTBOX_PAUSE: Duration = Duration::from_millis(1);

/// How long a connection may wait for room in another shard's mailbox.
const HANDOFF_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends the messages of one shard.
pub(super) struct Mail {
    /// Sending half of each shard's mailbox, this shard's included.
    mailboxes: Arc<[MailboxSender]>,
    /// One outbox per shard, this one included, so that posting a message never waits for its receiver.
    outboxes: RefCell<Vec<Outbox>>,
    /// Whether a task empties the outboxes.
    flushing: Cell<bool>,
    clock: Clock,
    metrics: Arc<ShardMetrics>,
    /// Holds the task that empties the outboxes.
    tasks: Rc<TaskSet>,
}

impl Mail {
    pub(super) fn new(
        mailboxes: &Arc<[MailboxSender]>,
        clock: Clock,
        metrics: &Arc<ShardMetrics>,
        tasks: &Rc<TaskSet>,
    ) -> Rc<Self> {
        let outboxes = mailboxes.iter().map(|_| Outbox::default()).collect();
        Rc::new(Self {
            mailboxes: Arc::clone(mailboxes),
            outboxes: RefCell::new(outboxes),
            flushing: Cell::new(false),
            clock,
            metrics: Arc::clone(metrics),
            tasks: Rc::clone(tasks),
        })
    }

    /// Number of shards.
    pub(super) fn shards(&self) -> usize {
        self.mailboxes.len()
    }

    /// Sends a message that must arrive; while the mailbox is full, the message waits in this shard's outbox.
    pub(super) fn post(self: &Rc<Self>, to: usize, message: Message) {
        let mut outboxes = self.outboxes.borrow_mut();
        outboxes[to].push(message);
        let flushed = outboxes[to].flush(&self.mailboxes[to]);
        drop(outboxes);
        if !flushed {
            self.metrics.mailbox_full.inc();
            if !self.flushing.replace(true) {
                let mail = Rc::clone(self);
                self.tasks.spawn(async move { mail.flush_outboxes().await });
            }
        }
    }

    async fn flush_outboxes(&self) {
        loop {
            sleep(OUTBOX_PAUSE).await;
            let mut outboxes = self.outboxes.borrow_mut();
            let mut left = false;
            for (outbox, mailbox) in outboxes.iter_mut().zip(&*self.mailboxes) {
                left |= !outbox.is_empty() && !outbox.flush(mailbox);
            }
            if !left {
                self.flushing.set(false);
                return;
            }
        }
    }

    /// Sends a connection to another shard; drops it and returns false if that mailbox stays full for
    /// [`HANDOFF_TIMEOUT`].
    pub(super) async fn hand_off(&self, to: usize, message: Message) -> bool {
        self.try_hand_off(to, message).await.is_ok()
    }

    /// Sends a connection to another shard.
    ///
    /// # Errors
    /// The message, if that mailbox stays full for [`HANDOFF_TIMEOUT`].
    pub(super) async fn try_hand_off(&self, to: usize, message: Message) -> Result<(), Message> {
        let mut message = message;
        let deadline = self.clock.now() + HANDOFF_TIMEOUT;
        loop {
            match self.mailboxes[to].try_send(message) {
                Ok(()) => return Ok(()),
                Err(back) => message = back,
            }
            self.metrics.mailbox_full.inc();
            if self.clock.now() >= deadline {
                return Err(message);
            }
            sleep(OUTBOX_PAUSE).await;
        }
    }
}
