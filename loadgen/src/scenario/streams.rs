//! Event streams that stay open without events, until each delivers one more event at the end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::exchange::RequestKind;
use crate::path::Path;
use crate::pattern::Pattern;
use crate::scenario::failure::{WorkerError, failed};
use crate::scenario::http::HttpConnection;
use crate::scenario::poller::{Poller, Ready};
use crate::scenario::seat::Dialogue;

/// How long the next event of all streams may take, including the set-up of the path.
const EVENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Streams that are opened before their first events are awaited, so that accept queues do not
/// overflow.
const OPENED_AT_ONCE: usize = 100;

/// Size of the read buffer; an event is smaller.
const READ_BYTES: usize = 4096;

/// All event streams of one path.
#[derive(Debug)]
pub(super) struct StreamsWorker<'a> {
    path: &'a Path,
    pattern: &'a Pattern,
    stop: &'a AtomicBool,
    poller: Poller,
    streams: Vec<HttpConnection>,
}

impl<'a> StreamsWorker<'a> {
    /// Opens all streams and waits for the first event of each.
    pub(super) fn connect(
        path: &'a Path,
        ids: impl Iterator<Item = u64>,
        pattern: &'a Pattern,
        stop: &'a AtomicBool,
    ) -> Result<Self, WorkerError> {
        let mut worker = Self {
            path,
            pattern,
            stop,
            poller: Poller::new()?,
            streams: Vec::new(),
        };
        for id in ids {
            worker.ask(id, RequestKind::Stream)?;
            if worker.streams.len().is_multiple_of(OPENED_AT_ONCE) {
                worker.await_all()?;
            }
        }
        worker.await_all()?;
        Ok(worker)
    }

    /// Triggers one more event on every stream and waits for it, which proves that all streams are open.
    pub(super) fn one_event_each(&mut self) -> Result<(), WorkerError> {
        for stream in &mut self.streams {
            stream.expect_event(self.pattern);
        }
        self.ask(self.streams.len() as u64, RequestKind::Publish)?;
        self.await_all()
    }

    fn ask(&mut self, id: u64, ask: RequestKind) -> Result<(), WorkerError> {
        let opened = HttpConnection::open(self.path, id, ask);
        let mut connection = opened.map_err(|error| failed(id, error))?;
        connection.seat_mut().due += 1;
        // Cannot be partial: the send buffer of a fresh socket is larger than a request.
        let sent = connection.flush(self.pattern);
        sent.map_err(|error| failed(id, error))?;
        let index = self.streams.len();
        self.poller.add(&connection.seat().stream, index, false)?;
        self.streams.push(connection);
        Ok(())
    }

    /// Waits until no stream has a missing event.
    fn await_all(&mut self) -> Result<(), WorkerError> {
        let deadline = Instant::now() + EVENT_TIMEOUT;
        let is_waiting = |stream: &&HttpConnection| stream.seat().waiting() > 0;
        let mut waiting = self.streams.iter().filter(is_waiting).count();
        let mut ready: Vec<Ready> = Vec::new();
        let mut buffer = [0; READ_BYTES];
        while waiting > 0 {
            if self.stop.load(Ordering::Relaxed) {
                return Err(WorkerError::Stopped);
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Err(WorkerError::Silent {
                    silent: waiting,
                    connections: self.streams.len(),
                    seconds: EVENT_TIMEOUT.as_secs(),
                });
            }
            self.poller.wait(rest, &mut ready)?;
            for event in &ready {
                let Some(stream) = self.streams.get_mut(event.index) else {
                    continue;
                };
                let id = stream.seat().id;
                let received = stream.receive(self.pattern, &mut buffer);
                let came = received.map_err(|error| failed(id, error))?;
                waiting -= usize::from(came > 0);
            }
        }
        Ok(())
    }
}
