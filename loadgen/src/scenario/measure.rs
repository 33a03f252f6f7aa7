//! Measures one path for one round: starts the threads, reads the clocks, adds up.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use crate::cpu::{MachineTime, process_time};
use crate::histogram::{Recorder, Schedule, Window};
use crate::interrupt::{Interrupt, Interrupted};
use crate::path::{Path, PathKind, Role};
use crate::pattern::Pattern;
use crate::scenario::round_trips::{Pace, Worker, WorkerError};
use crate::scenario::{Load, Measurement, Method, Scenario};

/// From the moment at which all connections are ready to the first arrival of an open loop: time
/// for every thread to get the word.
const LEAD: Duration = Duration::from_millis(5);

/// How often the coordinating thread looks for a signal.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A round that could not be finished.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoundError {
    /// The load failed on this path.
    #[error("path {path} at {address}{hint}")]
    Path {
        /// Which path.
        path: PathKind,
        /// Where the client connected to.
        address: std::net::SocketAddr,
        /// What to look at.
        hint: &'static str,
        /// What happened.
        source: WorkerError,
    },
    /// A CPU time could not be read: the process has ended.
    #[error("cannot read the CPU time of the {role:?} process {pid} on path {path}: has it ended?")]
    Cpu {
        /// Which path.
        path: PathKind,
        /// Which process.
        role: Role,
        /// Its id.
        pid: u32,
        /// Why.
        source: io::Error,
    },
    /// The machine's counters could not be read.
    #[error("cannot read /proc/stat")]
    Machine(#[source] io::Error),
    /// A signal came.
    #[error("the round was stopped")]
    Interrupted(#[from] Interrupted),
}

/// News from a thread.
enum Progress {
    Ready,
    Done(Box<Recorder>),
    Failed(WorkerError),
}

/// What a thread is told once all are ready.
#[derive(Clone, Copy)]
struct Go {
    start_ns: u64,
    window: Window,
}

/// Measures one path once. `position` is its place in the round's order.
pub(crate) fn measure(
    scenario: Scenario,
    method: &Method,
    path: &Path,
    position: usize,
    interrupt: &Interrupt,
) -> Result<Measurement, RoundError> {
    let pattern = Pattern::new(scenario.message_bytes);
    let stop = AtomicBool::new(false);
    let origin = Instant::now();
    let threads = method.threads.min(scenario.connections).max(1);
    std::thread::scope(|scope| {
        // Each thread sends twice: that it is ready, and what came of it.
        let (news_sender, news) = sync_channel(2 * threads);
        let mut round = Round {
            path,
            interrupt,
            news,
            go: Vec::new(),
        };
        for thread in 0..threads {
            let (go_sender, go) = sync_channel(1);
            round.go.push(go_sender);
            let share = Share {
                scenario,
                path,
                thread,
                threads,
                pattern: &pattern,
                origin,
            };
            let (news, stop) = (news_sender.clone(), &stop);
            scope.spawn(move || {
                let last = match share.run(stop, &go, &news) {
                    Ok(recorder) => Progress::Done(Box::new(recorder)),
                    Err(error) => Progress::Failed(error),
                };
                // The coordinator has left only if the round has failed.
                let _ = news.send(last);
            });
        }
        drop(news_sender);
        let result = round.run(method, position, origin);
        // Whatever happened, no thread may outlive the round.
        if result.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        result
    })
}

/// What one thread is to do.
#[derive(Clone, Copy)]
struct Share<'a> {
    scenario: Scenario,
    path: &'a Path,
    thread: usize,
    threads: usize,
    pattern: &'a Pattern,
    origin: Instant,
}

impl Share<'_> {
    fn run(
        self,
        stop: &AtomicBool,
        go: &Receiver<Go>,
        news: &SyncSender<Progress>,
    ) -> Result<Recorder, WorkerError> {
        let ids = (self.thread..self.scenario.connections).step_by(self.threads);
        let own = ids.len() as u64;
        let mut worker = Worker::connect(
            self.path,
            ids.map(|id| id as u64),
            self.pattern,
            self.origin,
            stop,
        )?;
        worker.first_round_trips()?;
        let _ = news.send(Progress::Ready);
        let Go { start_ns, window } = go.recv().map_err(|_| WorkerError::Stopped)?;
        let pace = match self.scenario.load {
            Load::Closed => Pace::Closed,
            Load::Open { requests_per_s } => Pace::Open(Schedule {
                rate: requests_per_s,
                start_ns,
                connections: self.scenario.connections as u64,
                first: self.thread as u64,
                step: self.threads as u64,
                own,
            }),
        };
        worker.run(pace, window)
    }
}

/// The coordinating thread's side.
struct Round<'a> {
    path: &'a Path,
    interrupt: &'a Interrupt,
    news: Receiver<Progress>,
    go: Vec<SyncSender<Go>>,
}

/// Clocks read at one moment.
struct Snapshot {
    taken: Instant,
    processes: Vec<(Role, Duration)>,
    machine: MachineTime,
}

impl Round<'_> {
    fn run(
        self,
        method: &Method,
        position: usize,
        origin: Instant,
    ) -> Result<Measurement, RoundError> {
        for _ in &self.go {
            self.wait(None)?;
        }
        let start = Instant::now() + LEAD;
        let from = start + Duration::from_secs_f64(method.warm_up_s);
        let until = from + Duration::from_secs_f64(method.measured_s);
        let ns = |time: Instant| u64::try_from((time - origin).as_nanos()).unwrap_or(u64::MAX);
        let window = Window {
            from_ns: ns(from),
            until_ns: ns(until),
        };
        for go in &self.go {
            // A thread that has failed meanwhile says so below.
            let _ = go.send(Go {
                start_ns: ns(start),
                window,
            });
        }
        // Threads are done after `until`, so what is awaited until then is only a failure.
        self.wait(Some(from))?;
        let (started, before) = (SystemTime::now(), self.snapshot()?);
        let mut done: Vec<Recorder> = Vec::new();
        done.extend(self.wait(Some(until))?);
        let after = self.snapshot()?;
        while done.len() < self.go.len() {
            done.extend(self.wait(None)?);
        }
        let mut merged = Recorder::new(window);
        done.iter().for_each(|recorder| merged.merge(recorder));

        let length = after.taken - before.taken;
        let cpu: Vec<(Role, Duration)> = std::iter::zip(&before.processes, &after.processes)
            .map(|((role, before), (_, after))| (*role, after.saturating_sub(*before)))
            .collect();
        let used: Duration = cpu.iter().map(|(_, time)| *time).sum();
        let (others_share, stolen_share) =
            after.machine.shares_since(&before.machine, length, used);
        Ok(Measurement {
            path: self.path.kind,
            position,
            started,
            length,
            latency: merged.latency,
            send_delay: merged.send_delay,
            answered: merged.answered_in_window,
            unanswered: merged.unanswered,
            cpu,
            others_share,
            stolen_share,
        })
    }

    /// Waits for a thread to be ready or done, but not past `until`.
    fn wait(&self, until: Option<Instant>) -> Result<Option<Recorder>, RoundError> {
        loop {
            self.interrupt.check()?;
            let rest = until.map(|until| until.saturating_duration_since(Instant::now()));
            match self
                .news
                .recv_timeout(rest.unwrap_or(LOOK_INTERVAL).min(LOOK_INTERVAL))
            {
                Ok(Progress::Ready) => return Ok(None),
                Ok(Progress::Done(recorder)) => return Ok(Some(*recorder)),
                Ok(Progress::Failed(source)) => return Err(self.failed(source)),
                Err(RecvTimeoutError::Timeout) if rest.is_none_or(|rest| rest > LOOK_INTERVAL) => {}
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.failed(WorkerError::Stopped));
                }
            }
        }
    }

    fn failed(&self, source: WorkerError) -> RoundError {
        let hint = match self.path.kind {
            PathKind::Relay => " (a relay that closes at once may not know the tunnel)",
            PathKind::Direct | PathKind::ForwarderTokio | PathKind::ForwarderTokioUring => "",
        };
        RoundError::Path {
            path: self.path.kind,
            address: self.path.address,
            hint,
            source,
        }
    }

    fn snapshot(&self) -> Result<Snapshot, RoundError> {
        let client = (Role::Client, std::process::id());
        let read = |(role, pid): (Role, u32)| match process_time(pid) {
            Ok(time) => Ok((role, time)),
            Err(source) => Err(RoundError::Cpu {
                path: self.path.kind,
                role,
                pid,
                source,
            }),
        };
        let processes = std::iter::once(client)
            .chain(self.path.processes.iter().copied())
            .map(read)
            .collect::<Result<_, _>>()?;
        let machine = MachineTime::read().map_err(RoundError::Machine)?;
        Ok(Snapshot {
            taken: Instant::now(),
            processes,
            machine,
        })
    }
}
