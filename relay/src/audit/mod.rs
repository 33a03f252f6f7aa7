//! The audit log: who did what, as lines of JSON in a file. Never a token, a query or a header.
//!
//! Whoever has something to tell puts it into a queue and goes on; one thread writes. What the queue
//! or the disk does not take is counted, and said in the file itself.

mod entry;
mod file;
mod refusals;
mod whole_lines;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::Thread;

pub(crate) use self::entry::{Call, Entry, Kind};
use self::refusals::{Refusals, Ruling};
pub(crate) use self::writer::Writer;
use crate::config::AuditConfig;
use crate::error::StartError;
use crate::metrics::AuditCounts;

/// Entries that may wait for the writer: with one look every 50 ms, 160,000 in a second. Some 4 MiB
/// when it is full.
const QUEUE_MAX: usize = 8192;

/// The way into the audit log, if there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Audit(Option<Arc<Queue>>);

#[derive(Debug)]
struct Queue {
    entries: SyncSender<Box<Entry>>,
    tally: Arc<Tally>,
    writer: Thread,
}

/// What those who note and the one who writes both know.
#[derive(Debug, Default)]
struct Tally {
    /// Entries that were lost, in the queue or at the disk.
    dropped: AtomicU64,
    refusals: Refusals,
    /// The writer sleeps until somebody wakes it, or is about to. Only ever swapped: of an entry and a
    /// writer that is about to sleep either sees the other, as at a shard's mailbox.
    is_asleep: AtomicBool,
}

impl Tally {
    fn is_asleep(&self, now: bool) -> bool {
        self.is_asleep.swap(now, Ordering::AcqRel)
    }
}

impl Audit {
    /// Opens the file and starts to write; nothing at all where no file is named.
    ///
    /// # Errors
    /// The file cannot be used, or there is no thread to be had.
    pub(crate) fn start(
        config: Option<&AuditConfig>,
    ) -> Result<(Self, Option<Writer>), StartError> {
        let Some(config) = config else {
            return Ok((Self::default(), None));
        };
        let (sender, entries) = sync_channel(QUEUE_MAX);
        let tally = Arc::<Tally>::default();
        let writer = Writer::start(config, entries, Arc::clone(&tally))?;
        let queue = Queue {
            entries: sender,
            tally,
            writer: writer.thread().clone(),
        };
        Ok((Self(Some(Arc::new(queue))), Some(writer)))
    }

    /// Whether anybody wants to know.
    pub(crate) const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Notes what `entry` makes, without waiting for anything.
    pub(crate) fn note(&self, entry: impl FnOnce() -> Entry) {
        if let Some(queue) = &self.0 {
            queue.put(entry());
        }
    }

    /// The same for something that was refused, which strangers can cause without end: in a flood of
    /// them most are only counted.
    pub(crate) fn note_refused(&self, entry: impl FnOnce() -> Entry) {
        let Some(queue) = &self.0 else {
            return;
        };
        let refusals = &queue.tally.refusals;
        match refusals.rule(refusals.now()) {
            Ruling::Noted => queue.put(entry()),
            Ruling::First => queue.wake(),
            Ruling::LeftOut => {}
        }
    }

    /// Entries that did not reach the file, and refusals that were only counted.
    pub(crate) fn counts(&self) -> AuditCounts {
        let tally = self.0.as_ref().map(|queue| &queue.tally);
        AuditCounts {
            dropped: tally.map_or(0, |it| it.dropped.load(Ordering::Relaxed)),
            refusals_left_out: tally.map_or(0, |it| it.refusals.left_out()),
        }
    }
}

impl Queue {
    fn put(&self, entry: Entry) {
        match self.entries.try_send(Box::new(entry)) {
            Ok(()) => self.wake(),
            Err(_) => drop(self.tally.dropped.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// That is a system call; while the writer has something to do it looks by itself.
    fn wake(&self) {
        if self.tally.is_asleep(false) {
            self.writer.unpark();
        }
    }
}

#[cfg(test)]
mod tests;
