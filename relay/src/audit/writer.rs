//! The thread that writes the audit log: a disk that hangs holds up nobody else.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::Tally;
use super::entry::{Entry, Kind};
use super::file::RotatedFile;
use crate::config::AuditConfig;
use crate::error::{ConfigError, StartError};

/// How often the writer looks for entries while there are any, and so how late a line may be.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How often the file is tried that took nothing.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

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

/// The thread that writes, while it runs. Dropped, it ends by itself.
#[derive(Debug)]
pub(crate) struct Writer {
    orders: Option<SyncSender<Order>>,
    thread: Thread,
}

impl Writer {
    pub(super) fn start(
        config: &AuditConfig,
        entries: Receiver<Box<Entry>>,
        tally: Arc<Tally>,
    ) -> Result<Self, StartError> {
        let file = RotatedFile::open(config).map_err(|source| ConfigError::Content {
            path: config.file.clone(),
            problem: format!("audit_file cannot be written: {source}"),
        })?;
        let (sender, orders) = sync_channel(ORDERS_MAX);
        let mut pen = Pen {
            file,
            entries,
            tally,
            told: 0,
            said: 0,
            said_at: None,
        };
        let thread = thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || pen.run(&orders))
            .map_err(|source| StartError::Thread {
                what: "the audit log's thread".to_owned(),
                source,
            })?;
        Ok(Self {
            orders: Some(sender),
            thread: thread.thread().clone(),
        })
    }

    /// Whom to wake when there is something to write.
    pub(super) const fn thread(&self) -> &Thread {
        &self.thread
    }

    /// Has the file opened again by its name: somebody may have moved it.
    pub(crate) fn reopen(&self) {
        // One that waits already is as good.
        self.order(Order::Reopen);
    }

    /// Waits until all that was noted is written, if the disk takes it in time.
    pub(crate) fn stop(self) {
        let (done, is_done) = sync_channel(1);
        if !self.order(Order::Stop(done)) || is_done.recv_timeout(STOP_TIMEOUT).is_err() {
            error!("the audit log's file takes nothing; the last entries are lost");
        }
    }

    fn order(&self, order: Order) -> bool {
        let sent = self.orders.as_ref().map(|orders| orders.try_send(order));
        self.thread.unpark();
        matches!(sent, Some(Ok(())))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It sees that nobody is left when it next runs.
        self.orders = None;
        self.thread.unpark();
    }
}

/// What writes.
struct Pen {
    file: RotatedFile,
    entries: Receiver<Box<Entry>>,
    tally: Arc<Tally>,
    /// Of the entries that were lost, how many the file knows of.
    told: u64,
    /// Of these, how many the log knows of, and when it was told.
    said: u64,
    said_at: Option<Instant>,
}

impl Pen {
    fn run(&mut self, orders: &Receiver<Order>) {
        loop {
            let is_busy = self.write(false);
            match orders.try_recv() {
                Err(TryRecvError::Empty) => self.rest(is_busy),
                Ok(Order::Reopen) => {
                    // What happened before belongs into the file that it was.
                    self.write(true);
                    self.file.reopen();
                }
                Ok(Order::Stop(done)) => {
                    self.write(true);
                    self.file.sync();
                    // Whoever waited may have given up.
                    let _ = done.try_send(());
                    return;
                }
                Err(TryRecvError::Disconnected) => {
                    self.write(true);
                    return;
                }
            }
        }
    }

    /// Waits until there may be something to do. Where there is, for a while longer: those who note more
    /// then need not wake anybody, and meet nobody at the queue. An order ends any wait.
    fn rest(&mut self, is_busy: bool) {
        if !is_busy {
            self.tally.is_asleep(true);
            // Somebody may have noted something who could not see that.
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

    /// Sleeps until somebody calls, or until there is something to say without that.
    fn sleep(&self) {
        let refusals = &self.tally.refusals;
        let is_behind = self.tally.dropped.load(Ordering::Relaxed) > self.told;
        let retry = is_behind.then_some(RETRY_INTERVAL);
        match retry
            .into_iter()
            .chain(refusals.due_in(refusals.now()))
            .min()
        {
            Some(wait) => thread::park_timeout(wait),
            None => thread::park(),
        }
    }

    /// Writes all that waits; whether that was anything. What is only counted is said after a while,
    /// or now if it is the last chance.
    fn write(&mut self, is_last: bool) -> bool {
        let mut line = Vec::new();
        let mut is_busy = false;
        // Not what comes meanwhile: an order must not wait behind a flood.
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
            // The last one may have been told already, as it came.
            if count > 0 {
                self.add(&mut line, &entry);
            }
        }
        let outcome = self.file.flush();
        self.lost(outcome);
        // Behind what is there: what is missing, is missing about here.
        let dropped = tally.dropped.load(Ordering::Relaxed);
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

    /// Says in the log that entries are lost, now and then.
    fn say(&mut self, error: Option<&io::Error>) {
        let dropped = self.tally.dropped.load(Ordering::Relaxed);
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
