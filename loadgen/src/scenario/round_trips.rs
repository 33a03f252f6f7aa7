//! One thread of the generator: its connections in one epoll set, no allocation during a round.

use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::histogram::{Recorder, Schedule, Window};
use crate::pattern::Pattern;
use crate::scenario::failure::{ConnectionError, WorkerError, failed, wait_error};
use crate::scenario::seat::Dialogue;

/// How long the first round trips of all connections may take, including the set-up of the path.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait for missing answers at the end of a round.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest single sleep, so that a stop request is noticed soon.
const SLEEP_MAX: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Connections that are opened before their first answers are awaited. If the accept queue of the peer
/// overflows, each lost SYN costs a second until its retransmission (tcp(7)), and some programs have a
/// backlog of only 128.
const OPENED_AT_ONCE: usize = 100;

/// Most due requests sent in one go, so that answers are read in between.
const SENDS_MAX: usize = 64;

/// Timeout of a poll that returns at once.
const NO_SLEEP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// Size of the read buffer.
const READ_BYTES: usize = 64 * 1024;

/// Most events returned by one wait.
const EVENTS_MAX: usize = 256;

/// Epoll data value of the timer; connections use their index from 0.
const TIMER: u64 = u64::MAX;

/// Rule for when requests are sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// Set-up: one request on each connection, starting with this index.
    Once(usize),
    /// Closed loop: the next request follows each answer.
    Closed,
    /// Open loop: each request is sent when it is due.
    Open(Schedule),
    /// Burst: one request on each connection, all due at this time.
    Burst(u64),
}

/// State of one call to [`Worker::drive`].
#[derive(Debug)]
struct Run {
    pace: Pace,
    window: Window,
    recorder: Recorder,
    /// Number of the next arrival of an open loop.
    next: u64,
    /// Requests that are due and not answered, over all connections.
    waiting: u64,
    /// Time that the timer is set to; 0 if it was never set.
    timer_ns: u64,
}

/// A thread's share of a path's connections.
#[derive(Debug)]
pub(super) struct Worker<'a, D> {
    pattern: &'a Pattern,
    origin: Instant,
    stop: &'a AtomicBool,
    connections: Vec<D>,
    epoll: OwnedFd,
    timer: OwnedFd,
    buffer: Box<[u8]>,
}

impl<'a, D: Dialogue> Worker<'a, D> {
    /// Opens this thread's connections and makes one round trip on each, so that one-time set-up happens
    /// before the measurement.
    pub(super) fn connect(
        open: impl Fn(u64) -> Result<D, ConnectionError>,
        ids: impl Iterator<Item = u64>,
        pattern: &'a Pattern,
        origin: Instant,
        stop: &'a AtomicBool,
    ) -> Result<Self, WorkerError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(wait_error)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(wait_error)?;
        // Edge-triggered: setting the timer again clears its readiness, so the timer is never read.
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), edge).map_err(wait_error)?;
        let mut worker = Self {
            pattern,
            origin,
            stop,
            connections: Vec::new(),
            epoll,
            timer,
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
        };
        let mut answered = 0;
        for id in ids {
            if stop.load(Ordering::Relaxed) {
                return Err(WorkerError::Stopped);
            }
            let connection = open(id).map_err(|error| failed(id, error))?;
            let data = epoll::EventData::new_u64(worker.connections.len() as u64);
            epoll::add(
                &worker.epoll,
                &connection.seat().stream,
                data,
                epoll::EventFlags::IN,
            )
            .map_err(wait_error)?;
            worker.connections.push(connection);
            if worker.connections.len() - answered == OPENED_AT_ONCE {
                worker.round_trips_from(answered)?;
                answered = worker.connections.len();
            }
        }
        worker.round_trips_from(answered)?;
        Ok(worker)
    }

    /// Makes one more round trip on each connection, which proves that the session is still open.
    pub(super) fn one_round_trip_each(&mut self) -> Result<(), WorkerError> {
        self.round_trips_from(0)
    }

    fn round_trips_from(&mut self, first: usize) -> Result<(), WorkerError> {
        let now = self.now_ns();
        let nothing = Window {
            from_ns: now,
            until_ns: now,
        };
        let recorder = Recorder::new(nothing);
        self.drive(Pace::Once(first), nothing, FIRST_ANSWER_TIMEOUT, recorder)
            .map(drop)
    }

    /// Runs the load until the window ends and all answers have arrived.
    pub(super) fn run(&mut self, pace: Pace, window: Window) -> Result<Recorder, WorkerError> {
        // By default the kernel may wake this thread 50 us late (prctl(2), PR_SET_TIMERSLACK). If the call
        // fails, that delay shows in the report as the generator's own.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        self.drive(pace, window, DRAIN_TIMEOUT, Recorder::new(window))
    }

    /// Repeats bursts until the window ends: a request on all connections at once, then a wait for the last answer.
    pub(super) fn run_bursts(&mut self, window: Window) -> Result<Recorder, WorkerError> {
        let mut recorder = Recorder::new(window);
        loop {
            let begun_ns = self.now_ns();
            if begun_ns >= window.until_ns {
                return Ok(recorder);
            }
            let now = Window {
                from_ns: begun_ns,
                until_ns: begun_ns,
            };
            recorder = self.drive(Pace::Burst(begun_ns), now, FIRST_ANSWER_TIMEOUT, recorder)?;
            recorder.burst(begun_ns, self.now_ns());
        }
    }

    fn drive(
        &mut self,
        pace: Pace,
        window: Window,
        patience: Duration,
        recorder: Recorder,
    ) -> Result<Recorder, WorkerError> {
        let mut run = Run {
            pace,
            window,
            recorder,
            next: 0,
            waiting: 0,
            timer_ns: 0,
        };
        let patience_ns = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        let deadline_ns = window.until_ns.saturating_add(patience_ns);
        self.send_first(&mut run)?;
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; EVENTS_MAX];
        loop {
            let more_is_due = self.send_due(&mut run)?;
            let now = self.now_ns();
            if !more_is_due && run.waiting == 0 && now >= window.until_ns {
                return Ok(run.recorder);
            }
            if now >= deadline_ns {
                self.give_up(now, patience, &mut run)?;
                return Ok(run.recorder);
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(WorkerError::Stopped);
            }
            let sleep = if more_is_due { NO_SLEEP } else { SLEEP_MAX };
            let count = match epoll::wait(&self.epoll, &mut events[..], Some(&sleep)) {
                Ok(count) => count,
                Err(rustix::io::Errno::INTR) => 0,
                Err(error) => return Err(wait_error(error)),
            };
            for event in &events[..count] {
                let (flags, data) = (event.flags, event.data.u64());
                let Ok(index) = usize::try_from(data) else {
                    continue;
                };
                if data == TIMER {
                    continue;
                }
                if flags.contains(epoll::EventFlags::OUT) {
                    self.flush(index)?;
                }
                // A read reports ends and errors.
                if flags.difference(epoll::EventFlags::OUT) != epoll::EventFlags::empty() {
                    self.receive(index, &mut run)?;
                }
                // Requests that fell due must not wait until a long list of events is processed.
                self.send_due(&mut run)?;
            }
        }
    }

    /// Sends the first request of each connection, unless the load is an open loop, whose schedule decides.
    fn send_first(&mut self, run: &mut Run) -> Result<(), WorkerError> {
        let first = match run.pace {
            Pace::Open(_) => return Ok(()),
            Pace::Once(first) => first,
            Pace::Closed | Pace::Burst(_) => 0,
        };
        for index in first..self.connections.len() {
            let due_ns = match run.pace {
                Pace::Burst(begun_ns) => begun_ns,
                _ => self.now_ns(),
            };
            self.request(index, due_ns, run)?;
        }
        Ok(())
    }

    /// Open loop: sends the due requests and sets the timer for the next request. Returns whether more
    /// requests are due.
    fn send_due(&mut self, run: &mut Run) -> Result<bool, WorkerError> {
        let Pace::Open(schedule) = run.pace else {
            return Ok(false);
        };
        for _ in 0..SENDS_MAX {
            let now_ns = self.now_ns();
            let due_ns = schedule.due_ns(run.next);
            if due_ns >= run.window.until_ns {
                return Ok(false);
            }
            if due_ns > now_ns {
                return self.set_timer(due_ns, now_ns, run).map(|()| false);
            }
            let index = usize::try_from(run.next % schedule.own).unwrap_or(0);
            run.next += 1;
            self.request(index, due_ns, run)?;
        }
        Ok(true)
    }

    fn set_timer(&self, due_ns: u64, now_ns: u64, run: &mut Run) -> Result<(), WorkerError> {
        if run.timer_ns == due_ns {
            return Ok(());
        }
        run.timer_ns = due_ns;
        let wait = Duration::from_nanos(due_ns - now_ns);
        let value = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let setting = Itimerspec {
            it_interval: NO_SLEEP,
            it_value: value,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting).map_err(wait_error)?;
        Ok(())
    }

    /// Sends the next request of a connection, which was due at `due_ns`.
    fn request(&mut self, index: usize, due_ns: u64, run: &mut Run) -> Result<(), WorkerError> {
        let now_ns = self.now_ns();
        run.recorder.sent(due_ns, now_ns);
        run.waiting += 1;
        let seat = self.connections[index].seat_mut();
        seat.due_ns = due_ns;
        seat.due += 1;
        self.flush(index)
    }

    /// Sends as much as the socket takes; if bytes are left, requests an event when it is writable again.
    fn flush(&mut self, index: usize) -> Result<(), WorkerError> {
        let connection = &mut self.connections[index];
        let flushed = connection.flush(self.pattern);
        let seat = connection.seat_mut();
        let everything = flushed.map_err(|error| failed(seat.id, error))?;
        if seat.is_full == everything {
            seat.is_full = !everything;
            let mut interest = epoll::EventFlags::IN;
            if !everything {
                interest |= epoll::EventFlags::OUT;
            }
            let data = epoll::EventData::new_u64(index as u64);
            epoll::modify(&self.epoll, &seat.stream, data, interest).map_err(wait_error)?;
        }
        Ok(())
    }

    fn receive(&mut self, index: usize, run: &mut Run) -> Result<(), WorkerError> {
        let connection = &mut self.connections[index];
        let (id, due_ns, first) = {
            let seat = connection.seat();
            (seat.id, seat.due_ns, seat.answered)
        };
        let complete = connection
            .receive(self.pattern, &mut self.buffer)
            .map_err(|error| failed(id, error))?;
        if connection.has_turn() {
            self.flush(index)?;
        }
        if complete == 0 {
            return Ok(());
        }
        let now_ns = self.now_ns();
        run.waiting -= complete;
        for answer in first..first + complete {
            run.recorder
                .answered(intended_ns(run.pace, index, answer, due_ns), now_ns);
        }
        if matches!(run.pace, Pace::Closed) && now_ns < run.window.until_ns {
            self.request(index, now_ns, run)?;
        }
        Ok(())
    }

    /// Handles the deadline: an error in a closed loop, unanswered requests in an open loop.
    fn give_up(
        &mut self,
        now_ns: u64,
        patience: Duration,
        run: &mut Run,
    ) -> Result<(), WorkerError> {
        if !matches!(run.pace, Pace::Open(_)) {
            let waiting = |connection: &&D| connection.seat().waiting() > 0;
            return Err(WorkerError::Silent {
                silent: self.connections.iter().filter(waiting).count(),
                connections: self.connections.len(),
                seconds: patience.as_secs(),
            });
        }
        // An open loop with more arrivals than the path can carry is a result, not a failure.
        for (index, connection) in self.connections.iter().enumerate() {
            let seat = connection.seat();
            for answer in seat.answered..seat.due {
                run.recorder
                    .gave_up(intended_ns(run.pace, index, answer, 0), now_ns);
            }
        }
        Ok(())
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Intended send time of the request that this answer belongs to.
fn intended_ns(pace: Pace, index: usize, answer: u64, due_ns: u64) -> u64 {
    match pace {
        // Answer 0 belongs to the set-up round trip, before the schedule started.
        Pace::Open(schedule) => schedule.due_ns((answer - 1) * schedule.own + index as u64),
        Pace::Once(_) | Pace::Closed | Pace::Burst(_) => due_ns,
    }
}
