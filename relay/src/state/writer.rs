//! The thread that writes the journal: a disk that hangs holds up no shard.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use tracing::error;

use super::binding::Note;
use super::decision::Decision;
use super::journal::Journal;
use crate::error::StartError;

/// Bytes that are written together; beyond that, what comes waits in the queue.
const BATCH_BYTES: usize = 1024 * 1024;

/// How often a disk that took nothing is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How often the log says that nothing can be written.
const SAY_INTERVAL: Duration = Duration::from_secs(60);

/// What the writer is told.
#[derive(Debug)]
pub(super) enum Order {
    Note(Box<Note>),
    Decision(Box<Decision>),
    /// Write what there is, tell, and end; or write nothing until there is word to go on.
    Stop(SyncSender<()>, Option<Receiver<()>>),
}

/// Where to tell that all is written, and where the word to go on comes from.
type Ended = (SyncSender<()>, Option<Receiver<()>>);

/// What writes.
pub(super) struct Writer {
    journal: Journal,
    orders: Receiver<Order>,
    /// Whole lines that are not on the disk.
    waiting: Vec<u8>,
    said_at: Option<Instant>,
}

impl Writer {
    /// Starts the thread; it ends when it is told to, or when all who note are gone. With `begin` it
    /// writes nothing before there is word to, and ends if the other end is dropped instead.
    pub(super) fn start(
        journal: Journal,
        orders: Receiver<Order>,
        begin: Option<Receiver<()>>,
    ) -> Result<(), StartError> {
        let mut writer = Self {
            journal,
            orders,
            waiting: Vec::new(),
            said_at: None,
        };
        thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || {
                if begin.is_none_or(|begin| begin.recv().is_ok()) {
                    writer.run();
                }
            })
            .map(drop)
            .map_err(|source| StartError::Thread {
                what: "the state folder's thread".to_owned(),
                source,
            })
    }

    fn run(&mut self) {
        loop {
            let order = match self.waiting.is_empty() {
                true => self
                    .orders
                    .recv()
                    .map_err(|_| RecvTimeoutError::Disconnected),
                false => self.orders.recv_timeout(RETRY_INTERVAL),
            };
            let mut stop = match order {
                Ok(order) => self.take(order),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return self.write(),
            };
            while stop.is_none() && self.waiting.len() < BATCH_BYTES {
                let Ok(order) = self.orders.try_recv() else {
                    break;
                };
                stop = self.take(order);
            }
            self.write();
            match stop {
                // The one who waited may have given up.
                Some((done, None)) => {
                    if self.waiting.is_empty() {
                        let _ = done.try_send(());
                    }
                    return;
                }
                Some((done, Some(go_on))) => {
                    // A disk that takes nothing lends nothing, and neither does one that was too slow.
                    let is_lent = self.waiting.is_empty() && done.try_send(()).is_ok();
                    if is_lent && go_on.recv().is_err() {
                        return;
                    }
                }
                None if self.waiting.len() >= BATCH_BYTES => thread::park_timeout(RETRY_INTERVAL),
                None => {}
            }
        }
    }

    fn take(&mut self, order: Order) -> Option<Ended> {
        match order {
            Order::Note(note) => {
                note.write(&mut self.waiting);
                None
            }
            Order::Decision(decision) => {
                decision.write(&mut self.waiting);
                None
            }
            Order::Stop(done, go_on) => Some((done, go_on)),
        }
    }

    fn write(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        match self.journal.add(&self.waiting) {
            Ok(()) => {
                self.waiting = Vec::new();
                self.said_at = None;
            }
            Err(error) if self.said_at.is_none_or(|at| at.elapsed() >= SAY_INTERVAL) => {
                self.said_at = Some(Instant::now());
                error!(%error, "the state folder cannot be written; a restart would forget names");
            }
            Err(_) => {}
        }
    }
}
