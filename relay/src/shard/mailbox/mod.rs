//! Messages between shards: a bounded queue into each, and what waits outside a full one.
//!
//! Nobody ever waits for room while holding something that others need: a sender keeps what does
//! not fit in its own [`Outbox`], where newer route updates replace older ones, and goes on serving
//! its own mailbox. So two shards with full mailboxes cannot block one another.

mod park_flag;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};

use tieline_wire::TunnelId;

use self::park_flag::ParkFlag;
use super::message::Message;
use crate::io::{Parker, Waker, turn};

/// Messages that a mailbox holds.
pub(crate) const MAILBOX_MESSAGES_MAX: usize = 1024;

/// Messages that are handled before I/O gets its turn.
const BATCH_MESSAGES: usize = 64;

/// The way into a shard, from any thread.
#[derive(Clone)]
pub(crate) struct MailboxSender {
    queue: SyncSender<Message>,
    parked: Arc<ParkFlag>,
    waker: Waker,
}

impl MailboxSender {
    /// Delivers a message, or gives it back if the mailbox is full. A shard that has stopped takes
    /// every message and drops it.
    pub(crate) fn try_send(&self, message: Message) -> Result<(), Message> {
        let push = || self.queue.try_send(message);
        match self.parked.send(push, || self.waker.wake()) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
            Err(TrySendError::Full(message)) => Err(message),
        }
    }
}

/// The receiving half, before it belongs to its shard's thread.
pub(crate) struct Mailbox {
    queue: Receiver<Message>,
    parked: Arc<ParkFlag>,
    waker: Waker,
}

/// A mailbox and the way into it.
pub(crate) fn mailbox() -> io::Result<(MailboxSender, Mailbox)> {
    let (sender, queue) = sync_channel(MAILBOX_MESSAGES_MAX);
    let parked = Arc::<ParkFlag>::default();
    let waker = Waker::new()?;
    let sender = MailboxSender {
        queue: sender,
        parked: Arc::clone(&parked),
        waker: waker.clone(),
    };
    Ok((
        sender,
        Mailbox {
            queue,
            parked,
            waker,
        },
    ))
}

impl Mailbox {
    /// Binds the mailbox to this thread's ring.
    pub(crate) fn open(self) -> io::Result<OpenMailbox> {
        let parker = self.waker.parker()?;
        Ok(OpenMailbox {
            mailbox: self,
            parker,
            handled: 0,
        })
    }
}

/// A mailbox on its shard.
pub(crate) struct OpenMailbox {
    mailbox: Mailbox,
    parker: Parker,
    /// Since I/O had its last turn.
    handled: usize,
}

impl OpenMailbox {
    /// Waits for the next message. After a batch the ring gets a turn, however many more wait.
    ///
    /// # Errors
    /// If the wake-up descriptor fails, or every sender is gone.
    pub(crate) async fn next(&mut self) -> io::Result<Message> {
        loop {
            if self.handled < BATCH_MESSAGES {
                let parked = &self.mailbox.parked;
                let step = parked.receive(|| self.try_next(), self.parker.park());
                if let Some(message) = step.await? {
                    self.handled += 1;
                    return Ok(message);
                }
            } else {
                turn().await;
            }
            self.handled = 0;
        }
    }

    fn try_next(&self) -> io::Result<Option<Message>> {
        match self.mailbox.queue.try_recv() {
            Ok(message) => Ok(Some(message)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(io::Error::other("every sender is gone")),
        }
    }
}

/// What one shard has to say to one other and could not deliver yet.
#[derive(Default)]
pub(crate) struct Outbox {
    order: VecDeque<Entry>,
    /// The latest route update of each name; its place in the order stays.
    updates: HashMap<TunnelId, Message>,
}

enum Entry {
    Message(Message),
    Update(TunnelId),
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Queues a message; a route update replaces an older one of the same name.
    pub(crate) fn push(&mut self, message: Message) {
        match message.route_update() {
            Some(name) => {
                if self.updates.insert(name.clone(), message).is_none() {
                    self.order.push_back(Entry::Update(name));
                }
            }
            None => self.order.push_back(Entry::Message(message)),
        }
    }

    /// Delivers as much as fits; true if nothing is left.
    pub(crate) fn flush(&mut self, to: &MailboxSender) -> bool {
        while let Some(entry) = self.order.pop_front() {
            let (name, message) = match entry {
                Entry::Message(message) => (None, message),
                Entry::Update(name) => match self.updates.remove(&name) {
                    Some(message) => (Some(name), message),
                    None => continue,
                },
            };
            if let Err(message) = to.try_send(message) {
                self.order.push_front(match name {
                    Some(name) => {
                        self.updates.insert(name.clone(), message);
                        Entry::Update(name)
                    }
                    None => Entry::Message(message),
                });
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
