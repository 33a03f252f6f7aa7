//! The audit log: who did what, as lines of JSON in a file. Never a token, a query or a header.
//!
//! Whoever has something to tell puts it into a queue and goes on; one thread writes. What the queue
//! or the disk does not take is counted, and said in the file itself.

mod entry;
mod file;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

pub(crate) use self::entry::{Call, Entry, Kind};
pub(crate) use self::writer::Writer;
use crate::config::AuditConfig;
use crate::error::StartError;

/// Entries that may wait for the writer: with one look every 50 ms, 160,000 in a second. Some 4 MiB
/// when it is full.
const QUEUE_MAX: usize = 8192;

/// The way into the audit log, if there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Audit(Option<Queue>);

#[derive(Clone, Debug)]
struct Queue {
    entries: SyncSender<Box<Entry>>,
    dropped: Arc<AtomicU64>,
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
        let dropped = Arc::<AtomicU64>::default();
        let writer = Writer::start(config, entries, Arc::clone(&dropped))?;
        let queue = Queue {
            entries: sender,
            dropped,
        };
        Ok((Self(Some(queue)), Some(writer)))
    }

    /// Whether anybody wants to know.
    pub(crate) const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Notes what `entry` makes, without waiting for anything. The writer looks by itself: a shard
    /// that woke it would pay for that with a system call.
    pub(crate) fn note(&self, entry: impl FnOnce() -> Entry) {
        if let Some(queue) = &self.0
            && queue.entries.try_send(Box::new(entry())).is_err()
        {
            queue.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Entries that did not reach the file.
    pub(crate) fn dropped(&self) -> u64 {
        self.0
            .as_ref()
            .map_or(0, |queue| queue.dropped.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests;
