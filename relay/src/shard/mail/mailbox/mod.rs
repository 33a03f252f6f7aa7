//! Messages between shards: a bounded queue into each shard, and an outbox for what does not fit.
//!
//! A sender never waits for room while other shards need it: it keeps what does not fit in an [`Outbox`], where a
//! newer route update replaces an older one, and goes on serving its own mailbox. So two shards with full mailboxes
//! cannot block each other.

mod park_flag;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};

use tieline_wire::TunnelId;

use self::park_flag::ParkFlag;
use super::message::Message;
use crate::io::{Parker, Waker, turn};

/// Capacity of a mailbox.
pub(crate) const MAILBOX_MESSAGES_MAX: usize = 1024;

/// Messages that a shard handles before I/O gets a turn.
const BATCH_MESSAGES: usize = 64;

/// The sending half of a mailbox, usable on any thread.
#[derive(Clone)]
pub(crate) struct MailboxSender {
    queue: SyncSender<Message>,
    parked: Arc<ParkFlag>,
    waker: Waker,
}

impl MailboxSender {
    /// Delivers a message, or returns it if the mailbox is full. A shard that has stopped accepts and drops every
    /// message.
    pub(crate) fn try_send(&self, message: Message) -> Result<(), Message> {
        let push = || self.queue.try_send(message);
        match self.parked.send(push, || self.waker.wake()) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
            Err(TrySendError::Full(message)) => Err(message),
        }
    }
}

/// The receiving half of a mailbox, before it belongs to its shard's thread.
pub(crate) struct Mailbox {
    queue: Receiver<Message>,
    parked: Arc<ParkFlag>,
    waker: Waker,
}

/// Makes a mailbox and its sending half.
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

/// The receiving half of a mailbox on its shard's thread.
pub(crate) struct OpenMailbox {
    mailbox: Mailbox,
    parker: Parker,
    /// Messages handled since I/O had its last turn.
    handled: usize,
}

impl OpenMailbox {
    /// Waits for the next message. After [`BATCH_MESSAGES`] the ring gets a turn, even if more messages wait.
    ///
    /// # Errors
    /// The wake-up descriptor fails, or every sender was dropped.
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
            Err(TryRecvError::Disconnected) => Err(io::Error::other("every sender was dropped")),
        }
    }
}

/// Messages of one shard to another that could not be delivered yet.
#[derive(Default)]
pub(crate) struct Outbox {
    order: VecDeque<Entry>,
    /// The latest route update of each name; it keeps the older one's place in the order.
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
        match &message {
            Message::Route(update) => {
                let name = update.tunnel.clone();
                if self.updates.insert(name.clone(), message).is_none() {
                    self.order.push_back(Entry::Update(name));
                }
            }
            _ => self.order.push_back(Entry::Message(message)),
        }
    }

    /// Delivers as much as fits; true if the outbox is empty then.
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
mod tests;
