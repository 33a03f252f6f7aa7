//! Splits a load among the generator's threads, and runs each thread's part.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use crate::exchange::RequestKind;
use crate::histogram::{Recorder, Schedule, Window};
use crate::path::Path;
use crate::pattern::Pattern;
use crate::scenario::bulk::BulkWorker;
use crate::scenario::connect::ConnectWorker;
use crate::scenario::connection::Connection;
use crate::scenario::failure::WorkerError;
use crate::scenario::http::HttpConnection;
use crate::scenario::poller::Poller;
use crate::scenario::round_trips::{Pace, Worker};
use crate::scenario::seat::Dialogue;
use crate::scenario::streams::StreamsWorker;
use crate::scenario::{Direction, Pacing, Scenario};
use crate::socket::Shake;

/// One thread's share of a load: connections `first`, `first + step`, ... below `connections`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    duty: Duty,
    connections: usize,
    first: usize,
    step: usize,
}

#[derive(Clone, Copy, Debug)]
enum Duty {
    RoundTrips(Pacing),
    Http(RequestKind, Pacing),
    Streams,
    /// With the rate of what comes down in kbit/s, if it has one.
    Bulk(Direction, Option<u32>),
    Connect(Option<Shake>),
    Idle,
    Bursts,
}

impl Share {
    /// Splits a scenario into one share per thread; at least one share.
    pub(super) fn all(scenario: Scenario, threads: usize) -> Vec<Self> {
        let split = |duty, connections: usize| {
            let step = match duty {
                // A burst has one start and one end, so one thread owns all of its connections.
                Duty::Idle | Duty::Streams | Duty::Bursts => 1,
                _ => threads.clamp(1, connections.max(1)),
            };
            (0..step)
                .map(|first| Self {
                    duty,
                    connections,
                    first,
                    step,
                })
                .collect()
        };
        match scenario {
            Scenario::RoundTrips { messages, pacing } => {
                split(Duty::RoundTrips(pacing), messages.connections)
            }
            Scenario::Calls { connections } => {
                split(Duty::Http(RequestKind::Call, Pacing::Closed), connections)
            }
            Scenario::FirstEvents {
                connections,
                requests_per_s,
            } => {
                let pacing = Pacing::Open { requests_per_s };
                split(Duty::Http(RequestKind::Report, pacing), connections)
            }
            Scenario::Streams { streams } => split(Duty::Streams, streams),
            Scenario::Bulk {
                direction,
                connections,
            } => split(Duty::Bulk(direction, None), connections),
            Scenario::Connect { at_once } => split(Duty::Connect(None), at_once),
            Scenario::Handshakes { shake, at_once } => split(Duty::Connect(Some(shake)), at_once),
            Scenario::Idle { sessions } => split(Duty::Idle, sessions),
            Scenario::Fanout { messages } => split(Duty::Bursts, messages.connections),
            Scenario::Mixed {
                messages,
                requests_per_s,
                bulk_kbit,
            } => {
                let pacing = Pacing::Open { requests_per_s };
                let mut shares = split(Duty::RoundTrips(pacing), messages.connections);
                // On a separate thread: the generator's work for the download must not delay the small
                // messages.
                shares.push(Self {
                    duty: Duty::Bulk(Direction::Down, bulk_kbit),
                    connections: 1,
                    first: 0,
                    step: 1,
                });
                shares
            }
        }
    }

    fn ids(self) -> impl ExactSizeIterator<Item = u64> {
        (self.first..self.connections)
            .step_by(self.step)
            .map(|id| id as u64)
    }
}

/// Start message to a thread, sent when all threads are ready.
#[derive(Clone, Copy, Debug)]
pub(super) struct Go {
    /// Due time of the first arrival of an open loop.
    pub(super) start_ns: u64,
    /// Measured part of the round.
    pub(super) window: Window,
}

/// What a thread needs to run its share.
#[derive(Debug)]
pub(super) struct Thread<'a> {
    pub(super) path: &'a Path,
    /// Message bytes.
    pub(super) pattern: &'a Pattern,
    /// Origin of all times.
    pub(super) origin: Instant,
    /// Set when the round is aborted.
    pub(super) stop: &'a AtomicBool,
    /// Receives the start message.
    pub(super) go: Receiver<Go>,
}

impl Thread<'_> {
    /// Opens the connections, calls `ready`, waits for the start message and runs the load.
    pub(super) fn run(&self, share: Share, ready: impl FnOnce()) -> Result<Recorder, WorkerError> {
        let open = |id| Connection::open(self.path, id);
        let steady = |ids| Worker::connect(open, ids, self.pattern, self.origin, self.stop);
        match share.duty {
            Duty::RoundTrips(pacing) => self.paced(steady(share.ids())?, share, pacing, ready),
            Duty::Http(ask, pacing) => {
                let open = |id| HttpConnection::open(self.path, id, ask);
                let ids = share.ids();
                let worker = Worker::connect(open, ids, self.pattern, self.origin, self.stop)?;
                self.paced(worker, share, pacing, ready)
            }
            Duty::Streams => {
                let ids = share.ids();
                let mut worker = StreamsWorker::connect(self.path, ids, self.pattern, self.stop)?;
                let window = self.await_go(ready)?.window;
                self.wait_until(window.until_ns)?;
                worker.one_event_each()?;
                Ok(Recorder::new(window))
            }
            Duty::Bursts => {
                let mut worker = steady(share.ids())?;
                let window = self.await_go(ready)?.window;
                worker.run_bursts(window)
            }
            Duty::Idle => {
                let mut worker = steady(share.ids())?;
                let window = self.await_go(ready)?.window;
                self.wait_until(window.until_ns)?;
                // Proves that the sessions stayed open: closed sessions would use no memory.
                worker.one_round_trip_each()?;
                Ok(Recorder::new(window))
            }
            Duty::Bulk(direction, pace_kbit) => {
                let load = (direction, pace_kbit);
                let worker =
                    BulkWorker::connect(self.path, load, share.ids(), self.origin, self.stop)?;
                let window = self.await_go(ready)?.window;
                worker.run(window)
            }
            Duty::Connect(shake) => {
                let numbers = (share.ids().len(), share.first as u64, share.step as u64);
                let mut worker = ConnectWorker::prepare(
                    self.path,
                    self.pattern,
                    shake,
                    numbers,
                    self.origin,
                    self.stop,
                )?;
                let window = self.await_go(ready)?.window;
                worker.run(window)
            }
        }
    }

    fn paced<D: Dialogue>(
        &self,
        mut worker: Worker<'_, D>,
        share: Share,
        pacing: Pacing,
        ready: impl FnOnce(),
    ) -> Result<Recorder, WorkerError> {
        let Go { start_ns, window } = self.await_go(ready)?;
        let pace = match pacing {
            Pacing::Closed => Pace::Closed,
            Pacing::Open { requests_per_s } => Pace::Open(Schedule {
                rate: requests_per_s,
                start_ns,
                connections: share.connections as u64,
                first: share.first as u64,
                step: share.step as u64,
                own: share.ids().len() as u64,
            }),
        };
        worker.run(pace, window)
    }

    fn await_go(&self, ready: impl FnOnce()) -> Result<Go, WorkerError> {
        ready();
        self.go.recv().map_err(|_| WorkerError::Stopped)
    }

    fn wait_until(&self, until_ns: u64) -> Result<(), WorkerError> {
        let until = self.origin + Duration::from_nanos(until_ns);
        let poller = Poller::new()?;
        let mut nothing = Vec::new();
        while let Some(rest) = until.checked_duration_since(Instant::now()) {
            if self.stop.load(Ordering::Relaxed) {
                return Err(WorkerError::Stopped);
            }
            poller.wait(rest, &mut nothing)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(name: &str, threads: usize) -> Vec<Vec<u64>> {
        let shares = Share::all(name.parse().unwrap(), threads);
        shares.iter().map(|share| share.ids().collect()).collect()
    }

    #[test]
    fn connections_are_dealt_to_the_threads() {
        assert_eq!(ids("5x1", 2), [vec![0, 2, 4], vec![1, 3]]);
        assert_eq!(ids("bulk-up-2", 8), [vec![0], vec![1]]);
        assert_eq!(ids("connect-3", 1), [vec![0, 1, 2]]);
    }

    #[test]
    fn a_burst_has_one_thread_and_a_download_beside_messages_its_own() {
        assert_eq!(ids("fanout-3x1", 4), [vec![0, 1, 2]]);
        assert_eq!(ids("mixed-3x1@9", 1), [vec![0, 1, 2], vec![0]]);
    }
}
