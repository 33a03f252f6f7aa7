//! The audit log: who did what, as lines of JSON in a file. It never holds a token, a query string or a header field.
//!
//! Shards put entries into a bounded queue and never wait; one thread writes them. Entries lost at the full queue or
//! at the disk are counted, and the file states how many.

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

/// Entries that may wait for the writer. One pass per 50 ms then writes up to 160,000 a second. A full
/// queue takes about 4 MiB.
const QUEUE_MAX: usize = 8192;

/// Handle that notes audit entries; `None` without an audit file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Audit(Option<Arc<Queue>>);

#[derive(Debug)]
struct Queue {
    entries: SyncSender<Box<Entry>>,
    tally: Arc<Tally>,
    writer: Thread,
}

/// State that the noting threads and the writer share.
#[derive(Debug, Default)]
struct Tally {
    /// Entries lost, at the full queue or at the disk, since the start.
    dropped: AtomicU64,
    refusals: Refusals,
    /// The writer is parked or about to park. Changed only by swapping, so an entry and a writer about to
    /// park cannot miss each other, as at a shard's mailbox.
    is_asleep: AtomicBool,
}

impl Tally {
    fn is_asleep(&self, now: bool) -> bool {
        self.is_asleep.swap(now, Ordering::AcqRel)
    }
}

impl Audit {
    /// Opens the audit file and starts the writer; does nothing if `config` is `None`.
    ///
    /// # Errors
    /// The file cannot be opened or written, or the thread cannot be started.
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

    /// Whether an audit file is configured.
    pub(crate) const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Queues the entry that `entry` builds, without waiting.
    pub(crate) fn note(&self, entry: impl FnOnce() -> Entry) {
        if let Some(queue) = &self.0 {
            queue.put(entry());
        }
    }

    /// Queues the entry of a refusal. Strangers can cause refusals without limit, so above a rate most
    /// refusals are only counted.
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

    /// Entries that did not reach the file, and refusals that were counted without an entry.
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

    /// Unparks the writer if it is parked: unparking is a system call, and a busy writer polls the queue.
    fn wake(&self) {
        if self.tally.is_asleep(false) {
            self.writer.unpark();
        }
    }
}

#[cfg(test)]
mod tests;
