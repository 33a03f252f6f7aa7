//! The thread that writes the audit log: a disk that hangs holds up nobody else.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::entry::{Entry, Kind};
use super::file::RotatedFile;
use crate::config::AuditConfig;
use crate::error::{ConfigError, StartError};

/// How often the writer looks for entries, and so how late a line may be.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How often the log says that entries are lost.
const SAY_INTERVAL: Duration = Duration::from_secs(10);

/// How long a stop waits for the disk.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Orders that may wait.
const ORDERS_MAX: usize = 4;

enum Order {
    Reopen,
    /// Write what there is, and tell.
    Stop(SyncSender<()>),
}

/// The thread that writes, while it runs.
#[derive(Debug)]
pub(crate) struct Writer(SyncSender<Order>);

impl Writer {
    pub(super) fn start(
        config: &AuditConfig,
        entries: Receiver<Box<Entry>>,
        dropped: Arc<AtomicU64>,
    ) -> Result<Self, StartError> {
        let file = RotatedFile::open(config).map_err(|source| ConfigError::Content {
            path: config.file.clone(),
            problem: format!("audit_file cannot be written: {source}"),
        })?;
        let (sender, orders) = sync_channel(ORDERS_MAX);
        let mut pen = Pen {
            file,
            entries,
            dropped,
            told: 0,
            said: 0,
            said_at: None,
        };
        thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || pen.run(&orders))
            .map_err(|source| StartError::Thread {
                what: "the audit log's thread".to_owned(),
                source,
            })?;
        Ok(Self(sender))
    }

    /// Has the file opened again by its name: somebody may have moved it.
    pub(crate) fn reopen(&self) {
        // One that waits already is as good.
        let _ = self.0.try_send(Order::Reopen);
    }

    /// Waits until all that was noted is written, if the disk takes it in time.
    pub(crate) fn stop(self) {
        let (done, is_done) = sync_channel(1);
        let told = self.0.try_send(Order::Stop(done));
        if told.is_err() || is_done.recv_timeout(STOP_TIMEOUT).is_err() {
            error!("the audit log's file takes nothing; the last entries are lost");
        }
    }
}

/// What writes.
struct Pen {
    file: RotatedFile,
    entries: Receiver<Box<Entry>>,
    /// Entries that were lost, in the queue or here.
    dropped: Arc<AtomicU64>,
    /// Of these, how many the file knows of.
    told: u64,
    /// Of these, how many the log knows of, and when it was told.
    said: u64,
    said_at: Option<Instant>,
}

impl Pen {
    fn run(&mut self, orders: &Receiver<Order>) {
        loop {
            match orders.recv_timeout(LOOK_INTERVAL) {
                Err(RecvTimeoutError::Timeout) => self.write(),
                Ok(Order::Reopen) => {
                    // What happened before belongs into the file that it was.
                    self.write();
                    self.file.reopen();
                }
                Ok(Order::Stop(done)) => {
                    self.write();
                    self.file.sync();
                    // Whoever waited may have given up.
                    let _ = done.try_send(());
                    return;
                }
                Err(RecvTimeoutError::Disconnected) => return self.write(),
            }
        }
    }

    /// Writes all that waits.
    fn write(&mut self) {
        let mut line = Vec::new();
        // Not what comes meanwhile: an order must not wait behind a flood.
        for _ in 0..super::QUEUE_MAX {
            let Ok(entry) = self.entries.try_recv() else {
                break;
            };
            self.add(&mut line, &entry);
        }
        let outcome = self.file.flush();
        self.lost(outcome);
        // Behind what is there: what is missing, is missing about here.
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > self.told {
            let entry = Entry::new(Kind::Lost).count(dropped - self.told);
            render(&mut line, &entry);
            // Not counted itself: the next attempt says it again.
            let outcome = self.file.add(&line).and_then(|()| self.file.flush());
            match outcome {
                Ok(()) => self.told = dropped,
                Err((_, error)) => self.say(Some(&error)),
            }
            self.say(None);
        }
    }

    fn add(&mut self, line: &mut Vec<u8>, entry: &Entry) {
        render(line, entry);
        let outcome = self.file.add(line);
        self.lost(outcome);
    }

    fn lost(&mut self, outcome: Result<(), (u64, io::Error)>) {
        if let Err((lines, error)) = outcome {
            self.dropped.fetch_add(lines, Ordering::Relaxed);
            self.say(Some(&error));
        }
    }

    /// Says in the log that entries are lost, now and then.
    fn say(&mut self, error: Option<&io::Error>) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        let is_new = self.said_at.is_none_or(|at| at.elapsed() >= SAY_INTERVAL);
        if dropped == self.said || !is_new {
            return;
        }
        let lost = dropped - self.said;
        (self.said, self.said_at) = (dropped, Some(Instant::now()));
        match error {
            Some(error) => warn!(lost, %error, "the audit log cannot be written"),
            None => warn!(lost, "the audit log cannot keep up"),
        }
    }
}

fn render(line: &mut Vec<u8>, entry: &Entry) {
    line.clear();
    // Texts and numbers cannot fail.
    let _ = serde_json::to_writer(&mut *line, entry);
    line.push(b'\n');
}
