//! The thread that writes the journal, so that a disk that hangs delays no shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use tracing::error;

use super::binding::Note;
use super::decision::Decision;
use super::journal::Journal;
use crate::error::StartError;

/// Bytes that are written together; beyond that, orders wait in the queue.
const BATCH_BYTES: usize = 1024 * 1024;

/// Interval at which a failed write is retried.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Interval at which the log repeats that the disk cannot be written.
const SAY_INTERVAL: Duration = Duration::from_secs(60);

/// Number of waiting notes once the writer has ended: further notes are dropped.
pub(super) const OVER: usize = usize::MAX;

/// An order to the writer.
#[derive(Debug)]
pub(super) enum Order {
    Note(Box<Note>),
    Decision(Box<Decision>),
    /// Write all notes, confirm, and end; with a receiver, write nothing until it gets the order to go on.
    Stop(SyncSender<()>, Option<Receiver<()>>),
}

/// The sender that confirms the write, and the receiver of the order to go on.
type Ended = (SyncSender<()>, Option<Receiver<()>>);

/// State of the writer thread.
pub(super) struct Writer {
    journal: Journal,
    orders: Receiver<Order>,
    /// Notes in the queue.
    notes_waiting: Arc<AtomicUsize>,
    /// Whole lines that are not on the disk yet.
    waiting: Vec<u8>,
    logged_at: Option<Instant>,
}

impl Writer {
    /// Starts the thread. It ends on [`Order::Stop`], or when all senders are dropped. With `begin` it writes nothing
    /// before that receives a value, and ends if its sender is dropped.
    pub(super) fn start(
        journal: Journal,
        orders: Receiver<Order>,
        notes_waiting: Arc<AtomicUsize>,
        begin: Option<Receiver<()>>,
    ) -> Result<(), StartError> {
        let mut writer = Self {
            journal,
            orders,
            notes_waiting,
            waiting: Vec::new(),
            logged_at: None,
        };
        thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || {
                if begin.is_none_or(|begin| begin.recv().is_ok()) {
                    writer.run();
                }
                let notes_waiting = Arc::clone(&writer.notes_waiting);
                drop(writer);
                notes_waiting.store(OVER, Relaxed);
            })
            .map(drop)
            .map_err(|source| StartError::Thread {
                what: "the state folder's writer thread".to_owned(),
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
                // The thread that waits for the confirmation may have given up.
                Some((done, None)) => {
                    if self.waiting.is_empty() {
                        let _ = done.try_send(());
                    }
                    return;
                }
                Some((done, Some(go_on))) => {
                    // The folder is not lent if the disk did not take all notes, or took too long.
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
                self.notes_waiting.fetch_sub(1, Relaxed);
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
                self.logged_at = None;
            }
            Err(error) if self.logged_at.is_none_or(|at| at.elapsed() >= SAY_INTERVAL) => {
                self.logged_at = Some(Instant::now());
                error!(%error, "the state folder cannot be written; a restart would lose bindings of names");
            }
            Err(_) => {}
        }
    }
}
