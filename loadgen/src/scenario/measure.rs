//! Measures one path for one round: runs the threads, reads CPU times and memory, merges the results.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use crate::cpu::{MachineTime, ProcessTime};
use crate::histogram::{Recorder, Window};
use crate::interrupt::{Interrupt, Interrupted};
use crate::memory::resident_kib;
use crate::path::{Path, PathKind, Role};
use crate::pattern::Pattern;
use crate::scenario::failure::WorkerError;
use crate::scenario::share::{Go, Share, Thread};
use crate::scenario::{Measurement, Messages, Method, Pacing, SMALL_MESSAGE_BYTES, Scenario};

/// Delay between the readiness of all connections and the first arrival of an open loop, so that
/// every thread receives the start message in time.
const LEAD: Duration = Duration::from_millis(5);

/// How often the coordinating thread checks for a signal.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Sessions that are opened and closed before the memory of idle sessions is measured.
const WARMING_SESSIONS: usize = 16;

/// Pause after the warming sessions, before memory is read: processes free the memory of those sessions.
pub(super) const SETTLE: Duration = Duration::from_millis(100);

/// Error that ended a round.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoundError {
    /// The scenario failed on this path.
    #[error("path {path} at {address}{hint}")]
    Path {
        path: PathKind,
        /// Address that the client connected to.
        address: std::net::SocketAddr,
        /// Likely cause, to be appended to the message.
        hint: &'static str,
        /// Error of a worker thread.
        source: WorkerError,
    },
    /// The CPU time of a process could not be read, most likely because the process has ended.
    #[error("cannot read the CPU time of the {role:?} process {pid} on path {path}: has it ended?")]
    Cpu {
        path: PathKind,
        /// Role of the process.
        role: Role,
        /// Process id.
        pid: u32,
        /// Error of the read.
        source: io::Error,
    },
    /// The machine's CPU time could not be read.
    #[error("cannot read /proc/stat")]
    Machine(#[source] io::Error),
    /// A signal arrived.
    #[error("the round was stopped")]
    Interrupted(#[from] Interrupted),
}

/// Message from a worker thread to the coordinator.
enum Progress {
    Ready,
    Done(Box<Recorder>),
    Failed(WorkerError),
}

/// Measures one path once. `position` is its position in the random order of the round.
pub(crate) fn measure(
    scenario: Scenario,
    method: &Method,
    path: &Path,
    position: usize,
    interrupt: &Interrupt,
) -> Result<Measurement, RoundError> {
    let mut memory_before = Vec::new();
    if scenario.grows_memory() {
        memory_before = warm_memory(method, path, scenario.is_http(), interrupt)?;
    }
    let pattern = if scenario.is_http() {
        Pattern::printable(scenario.message_bytes())
    } else {
        Pattern::new(scenario.message_bytes())
    };
    let stop = AtomicBool::new(false);
    let origin = Instant::now();
    let shares = Share::all(scenario, method.threads);
    std::thread::scope(|scope| {
        // Capacity for the two messages of each thread: `Ready`, and `Done` or `Failed`.
        let (news_sender, news) = sync_channel(2 * shares.len());
        let mut round = Round {
            path,
            interrupt,
            news,
            go: Vec::new(),
        };
        for share in shares {
            let (go_sender, go) = sync_channel(1);
            round.go.push(go_sender);
            let thread = Thread {
                path,
                pattern: &pattern,
                origin,
                stop: &stop,
                go,
            };
            let news = news_sender.clone();
            scope.spawn(move || {
                let ready = || drop(news.send(Progress::Ready));
                let last = match thread.run(share, ready) {
                    Ok(recorder) => Progress::Done(Box::new(recorder)),
                    Err(error) => Progress::Failed(error),
                };
                // If the receiver is gone, the round has already failed.
                let _ = news.send(last);
            });
        }
        drop(news_sender);
        let result = round.run(method, position, origin, memory_before);
        // The scope joins all threads, so tell them to stop.
        if result.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        result
    })
}

/// Resident memory of each process of a path after the first sessions have been closed.
pub(super) fn warm_memory(
    method: &Method,
    path: &Path,
    is_http: bool,
    interrupt: &Interrupt,
) -> Result<Vec<(Role, u64)>, RoundError> {
    warm(method, path, is_http, interrupt)?;
    interrupt.pause(SETTLE)?;
    Ok(memory(path))
}

/// Opens and closes some sessions, so that one-time allocations of a process are not counted as the
/// cost of a session.
fn warm(
    method: &Method,
    path: &Path,
    is_http: bool,
    interrupt: &Interrupt,
) -> Result<(), RoundError> {
    let connections = WARMING_SESSIONS;
    let warming = if is_http {
        Scenario::Calls { connections }
    } else {
        Scenario::RoundTrips {
            messages: Messages {
                connections,
                bytes: SMALL_MESSAGE_BYTES,
            },
            pacing: Pacing::Closed,
        }
    };
    let short = Method {
        warm_up_s: 0.0,
        measured_s: 0.05,
        ..*method
    };
    measure(warming, &short, path, 0, interrupt).map(drop)
}

/// Resident memory of each process of a path, in KiB; unreadable processes are left out.
pub(super) fn memory(path: &Path) -> Vec<(Role, u64)> {
    let of = |(role, pid): &(Role, u32)| Some((*role, resident_kib(*pid).ok()?));
    path.processes.iter().filter_map(of).collect()
}

/// State of the coordinating thread.
struct Round<'a> {
    path: &'a Path,
    interrupt: &'a Interrupt,
    news: Receiver<Progress>,
    go: Vec<SyncSender<Go>>,
}

/// CPU times of all processes and of the machine at one moment.
struct Snapshot {
    taken: Instant,
    processes: Vec<(Role, ProcessTime)>,
    machine: MachineTime,
}

impl Round<'_> {
    fn run(
        self,
        method: &Method,
        position: usize,
        origin: Instant,
        memory_before_kib: Vec<(Role, u64)>,
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
            // If the thread has failed meanwhile, `wait` below receives its error.
            let _ = go.send(Go {
                start_ns: ns(start),
                window,
            });
        }
        // Threads finish after `until`, so a message received before then can only be a failure.
        self.wait(Some(from))?;
        let (started, before) = (SystemTime::now(), self.snapshot()?);
        let mut done: Vec<Recorder> = Vec::new();
        let mut memory_kib = Vec::new();
        if !memory_before_kib.is_empty() {
            // Read in the middle of the window: at its end the sessions make another round trip.
            self.wait(Some(from + (until - from) / 2))?;
            memory_kib = memory(self.path);
        }
        done.extend(self.wait(Some(until))?);
        let after = self.snapshot()?;
        if memory_before_kib.is_empty() {
            memory_kib = memory(self.path);
        }
        while done.len() < self.go.len() {
            done.extend(self.wait(None)?);
        }
        let mut merged = Recorder::new(window);
        done.iter().for_each(|recorder| merged.merge(recorder));

        let length = after.taken - before.taken;
        let cpu: Vec<(Role, Duration)> = std::iter::zip(&before.processes, &after.processes)
            .map(|((role, before), (_, after))| (*role, after.since(*before)))
            .collect();
        let used: Duration = cpu.iter().map(|(_, time)| *time).sum();
        let (others_share, stolen_share) =
            after.machine.shares_since(&before.machine, length, used);
        Ok(Measurement {
            path: self.path.kind,
            position,
            started,
            length,
            tally: merged,
            hops_known: self.path.hops_known,
            cpu,
            memory_kib,
            memory_before_kib,
            others_share,
            stolen_share,
        })
    }

    /// Waits for the next message of a thread, until `until` at the latest.
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
            PathKind::Relay | PathKind::RelayOver(_) | PathKind::RelayEpoll => {
                " (a relay closes at once if it does not know the tunnel)"
            }
            PathKind::Peer(_) | PathKind::PeerOver(..) => {
                " (a peer closes at once if it cannot reach the target)"
            }
            PathKind::Direct
            | PathKind::DirectOver(_)
            | PathKind::ForwarderTokio
            | PathKind::ForwarderTokioUring
            | PathKind::ForwarderMonoio => "",
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
        let read = |(role, pid): (Role, u32)| match ProcessTime::read(pid) {
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
