//! Sending to other shards: messages that must arrive, and connections that may be dropped.

use std::rc::Rc;
use std::time::Duration;

use super::Shard;
use super::message::Message;
use crate::io::sleep;

/// Pause before a message that did not fit into another shard's mailbox is tried again.
const OUTBOX_PAUSE: Duration = Duration::from_millis(1);

/// How long a connection may wait for room in another shard's mailbox.
const HANDOFF_TIMEOUT: Duration = Duration::from_secs(2);

impl Shard {
    /// Sends a message that must arrive; while the mailbox is full, the message waits in this shard's outbox.
    pub(super) fn post(self: &Rc<Self>, to: usize, message: Message) {
        let mut outboxes = self.outboxes.borrow_mut();
        outboxes[to].push(message);
        let flushed = outboxes[to].flush(&self.peers.mailboxes[to]);
        drop(outboxes);
        if !flushed {
            self.metrics.mailbox_full.inc();
            if !self.flushing.replace(true) {
                let shard = Rc::clone(self);
                self.gate.spawn(async move { shard.flush_outboxes().await });
            }
        }
    }

    async fn flush_outboxes(&self) {
        loop {
            sleep(OUTBOX_PAUSE).await;
            let mut outboxes = self.outboxes.borrow_mut();
            let mut left = false;
            for (outbox, mailbox) in outboxes.iter_mut().zip(&self.peers.mailboxes) {
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
        let mut message = message;
        let deadline = self.clock.now() + HANDOFF_TIMEOUT;
        loop {
            match self.peers.mailboxes[to].try_send(message) {
                Ok(()) => return true,
                Err(back) => message = back,
            }
            self.metrics.mailbox_full.inc();
            if self.clock.now() >= deadline {
                return false;
            }
            sleep(OUTBOX_PAUSE).await;
        }
    }
}
