//! The thread that writes the audit log, so that a hanging disk blocks no other thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::Tally;
use super::entry::{Entry, Kind};
use super::file::AuditFile;
use crate::config::AuditConfig;
use crate::error::{ConfigError, StartError};

/// Time between two passes over a busy queue, and so the longest delay of a line.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Time between two attempts to write to a failing file.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest time between two warnings in the log about lost entries.
const SAY_INTERVAL: Duration = Duration::from_secs(10);

/// How long a stop waits for the disk to take the last entries.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Order to write all queued entries, sync, confirm through this channel, and end.
type Stop = SyncSender<()>;

/// Handle to the writer thread. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct Writer {
    stop: Option<SyncSender<Stop>>,
    thread: Thread,
}

impl Writer {
    pub(super) fn start(
        config: &AuditConfig,
        entries: Receiver<Box<Entry>>,
        tally: Arc<Tally>,
    ) -> Result<Self, StartError> {
        let file = AuditFile::open(config).map_err(|source| {
            let problem = format!("audit_file cannot be written: {source}");
            ConfigError::content(&config.file, problem)
        })?;
        let (sender, stops) = sync_channel(1);
        let mut state = WriterState {
            file,
            entries,
            tally,
            told: 0,
            logged: 0,
            logged_at: None,
        };
        let thread = thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || state.run(&stops))
            .map_err(|source| StartError::Thread {
                what: "the audit log's thread".to_owned(),
                source,
            })?;
        Ok(Self {
            stop: Some(sender),
            thread: thread.thread().clone(),
        })
    }

    /// The thread to unpark when an entry is queued.
    pub(super) const fn thread(&self) -> &Thread {
        &self.thread
    }

    /// Waits until all queued entries are written, at most [`STOP_TIMEOUT`].
    pub(crate) fn stop(self) {
        let (done, is_done) = sync_channel(1);
        let sent = self.stop.as_ref().map(|stop| stop.try_send(done));
        self.thread.unpark();
        if !matches!(sent, Some(Ok(()))) || is_done.recv_timeout(STOP_TIMEOUT).is_err() {
            error!("the audit log's file takes nothing; the last entries are lost");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The thread sees the closed channel when it next runs.
        self.stop = None;
        self.thread.unpark();
    }
}

/// State of the writer thread.
struct WriterState {
    file: AuditFile,
    entries: Receiver<Box<Entry>>,
    tally: Arc<Tally>,
    /// Lost entries that the file has counted.
    told: u64,
    /// Lost entries that the relay's log has reported, and the time of that report.
    logged: u64,
    logged_at: Option<Instant>,
}

impl WriterState {
    fn run(&mut self, stops: &Receiver<Stop>) {
        loop {
            let is_busy = self.write(false);
            match stops.try_recv() {
                Err(TryRecvError::Empty) => self.rest(is_busy),
                stop => {
                    self.write(true);
                    self.file.sync();
                    // The stopping thread may have given up waiting, or there is none.
                    let _ = stop.map(|done| done.try_send(()));
                    return;
                }
            }
        }
    }

    /// Waits for work. A busy writer polls every [`LOOK_INTERVAL`]: shards then need no unpark call and do not
    /// compete with the writer for the queue. A stop ends any wait.
    fn rest(&mut self, is_busy: bool) {
        if !is_busy {
            self.tally.is_asleep(true);
            // An entry may have been queued before the flag was set.
            if !self.write(false) {
                self.sleep();
            }
            let is_called = !self.tally.is_asleep(false);
            if !is_called {
                return;
            }
        }
        thread::park_timeout(LOOK_INTERVAL);
    }

    /// Parks until an entry or a stop unparks the thread, or a retry or a count of refusals is due.
    fn sleep(&self) {
        let refusals = &self.tally.refusals;
        let is_behind = self.tally.dropped.load(Ordering::Relaxed) > self.told;
        let retry = is_behind.then_some(RETRY_INTERVAL);
        let count = refusals.due_in(refusals.now());
        match retry.into_iter().chain(count).min() {
            Some(wait) => thread::park_timeout(wait),
            None => thread::park(),
        }
    }

    /// Writes all queued entries; returns whether there were any. Also writes the count of refusals left
    /// out, if it is due or `is_last` is set.
    fn write(&mut self, is_last: bool) -> bool {
        let mut line = Vec::new();
        let mut is_busy = false;
        // Bounded, so a stop does not wait behind a flood of new entries.
        for _ in 0..super::QUEUE_MAX {
            let Ok(entry) = self.entries.try_recv() else {
                break;
            };
            self.add(&mut line, &entry);
            is_busy = true;
        }
        let tally = Arc::clone(&self.tally);
        let now = tally.refusals.now();
        let due = tally.refusals.due_in(now);
        if due.is_some_and(|wait| is_last || wait.is_zero()) {
            let (count, ago) = tally.refusals.tell(now);
            let entry = Entry::new(Kind::RefusalsLeftOut).count(count).since(ago);
            // 0 if the previous count already included the refusal that set the time.
            if count > 0 {
                self.add(&mut line, &entry);
            }
        }
        let outcome = self.file.flush();
        self.lost(outcome);
        // The count of lost entries stands behind the entries written, near the place of the gap.
        let dropped = tally.dropped.load(Ordering::Relaxed);
        if dropped > self.told {
            let entry = Entry::new(Kind::Lost).count(dropped - self.told);
            render(&mut line, &entry);
            // A lost count is not itself counted as lost: the next attempt includes it.
            let outcome = self.file.add(&line).and_then(|()| self.file.flush());
            match outcome {
                Ok(()) => self.told = dropped,
                Err((_, error)) => self.say(Some(&error)),
            }
            self.say(None);
        }
        is_busy
    }

    fn add(&mut self, line: &mut Vec<u8>, entry: &Entry) {
        render(line, entry);
        let outcome = self.file.add(line);
        self.lost(outcome);
    }

    fn lost(&mut self, outcome: Result<(), (u64, io::Error)>) {
        if let Err((lines, error)) = outcome {
            self.tally.dropped.fetch_add(lines, Ordering::Relaxed);
            self.say(Some(&error));
        }
    }

    /// Reports lost entries in the relay's log, at most once per [`SAY_INTERVAL`].
    fn say(&mut self, error: Option<&io::Error>) {
        let dropped = self.tally.dropped.load(Ordering::Relaxed);
        let is_new = self.logged_at.is_none_or(|at| at.elapsed() >= SAY_INTERVAL);
        if dropped == self.logged || !is_new {
            return;
        }
        let lost = dropped - self.logged;
        (self.logged, self.logged_at) = (dropped, Some(Instant::now()));
        match error {
            Some(error) => warn!(lost, %error, "the audit log cannot be written"),
            None => warn!(lost, "the audit log cannot keep up"),
        }
    }
}

fn render(line: &mut Vec<u8>, entry: &Entry) {
    line.clear();
    // Serializing strings and numbers into a Vec cannot fail.
    let _ = serde_json::to_writer(&mut *line, entry);
    line.push(b'\n');
}
