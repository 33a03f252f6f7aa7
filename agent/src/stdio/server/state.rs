//! The bridge behind a lock, and what carries out its outputs: each entry hands one thing to the bridge, and carries
//! out all that follows, in order and without waiting.
//!
//! Tasks do the rest: `keeper` starts children and wakes the bridge in time, `children` moves the lines of one child,
//! and `connection` serves the requests of one connection.

use std::collections::HashMap;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use bytes::Bytes;
use tieline_bridge::{
    Bridge, ChildEnd, ChildId, ExchangeId, FAILURE_TIME, Output, Random, Request, Settings,
};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::event::{StdioEvent, Told};
use super::inbox::Inbox;
use super::logs::{self, EndedLogs};
use super::queue::{End, Queue};
use super::room::{Place, Room};
use super::status::StdioStatus;
use super::strays::Strays;
use crate::stdio::{Command, Guard, Log};

/// Processes per child that may run: one that is told to end may need seconds, and another one takes over meanwhile.
const PROCESSES_PER_CHILD: usize = 2;

/// Longest wait for the ends of all children. Each is killed after 7 s, and reaped within 5 s more.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// What all clones of a server share.
pub(super) struct Shared {
    /// The program.
    pub(super) command: Command,
    /// Ends the children if the agent is killed.
    pub(super) guard: Option<Arc<Guard>>,
    /// Memory for the messages of callers.
    pub(super) room: Room,
    /// Processes that may still be started.
    pub(super) processes: Arc<Semaphore>,
    told: Told,
    /// Wakes the keeper.
    wake: Arc<Notify>,
    /// Wakes those that wait for the ends of children.
    gone: Notify,
    state: Mutex<State>,
}

struct State {
    bridge: Bridge,
    /// Requests whose answers are not complete.
    exchanges: HashMap<ExchangeId, Exchange>,
    /// Children whose tasks have not ended.
    children: HashMap<ChildId, Child>,
    /// Children whose tasks have not begun.
    to_start: Vec<Start>,
    keeper: Option<JoinHandle<()>>,
    /// Moment at which the keeper wakes up by itself.
    armed: Option<Instant>,
    strays: Strays,
    ended_logs: EndedLogs,
}

/// A request whose answer is not complete.
struct Exchange {
    queue: Arc<Queue>,
    /// Room for a request that the bridge keeps until its child has started; given back with the end of the answer.
    _place: Option<Arc<Place>>,
}

/// A child whose task has not ended.
struct Child {
    inbox: Arc<Inbox>,
    /// Its standard error, once its process runs.
    log: Option<Log>,
}

/// A child whose task is to begin.
pub(super) struct Start {
    /// The child.
    pub(super) child: ChildId,
    /// The lines for it.
    pub(super) inbox: Arc<Inbox>,
}

/// What the keeper is to do.
pub(super) struct Turn {
    /// Children whose tasks are to begin.
    pub(super) starts: Vec<Start>,
    /// When the next turn is due; `None` if it waits to be woken.
    pub(super) until: Option<Instant>,
}

/// What has followed from an entry.
#[derive(Default)]
struct Effects {
    /// Answers that got bytes.
    fed: Vec<Arc<Queue>>,
    events: Vec<StdioEvent>,
    has_started: bool,
    has_written: bool,
}

impl Shared {
    /// A server without children.
    pub(super) fn new(
        command: Command,
        settings: Settings,
        guard: Option<Arc<Guard>>,
        told: Told,
    ) -> Self {
        let processes = settings.children_max.saturating_mul(PROCESSES_PER_CHILD);
        let processes = processes.clamp(1, Semaphore::MAX_PERMITS);
        let state = State {
            bridge: Bridge::new(settings, random()),
            exchanges: HashMap::new(),
            children: HashMap::new(),
            to_start: Vec::new(),
            keeper: None,
            armed: None,
            strays: Strays::default(),
            ended_logs: EndedLogs::default(),
        };
        Self {
            command,
            guard,
            room: Room::new(),
            processes: Arc::new(Semaphore::new(processes)),
            told,
            wake: Arc::default(),
            gone: Notify::new(),
            state: Mutex::new(state),
        }
    }

    /// Takes a request, and returns the number and the queue of its answer.
    pub(super) fn request(&self, request: Request, place: Place) -> (ExchangeId, Arc<Queue>) {
        let place = Arc::new(place);
        let queue = Arc::<Queue>::default();
        let exchange = Exchange {
            queue: Arc::clone(&queue),
            _place: None,
        };
        let (id, effects) = self.enter(Some(&place), |state, now| {
            let id = state.bridge.request(now, request);
            state.exchanges.insert(id, exchange);
            id
        });
        // Such a request may wait for the start of its child, which is written to before.
        if (effects.has_started || !effects.has_written)
            && let Some(exchange) = self.state().exchanges.get_mut(&id)
        {
            exchange._place = Some(place);
        }
        (id, queue)
    }

    /// Takes that the connection of a request has gone before its answer was complete.
    pub(super) fn caller_left(&self, id: ExchangeId) {
        self.enter(None, |state, now| {
            if state.exchanges.remove(&id).is_some() {
                state.bridge.caller_left(now, id);
            }
        });
    }

    /// Takes a line of a child's standard output, and returns the answers that got bytes from it.
    pub(super) fn line(&self, child: ChildId, line: Bytes) -> Vec<Arc<Queue>> {
        let ((), effects) = self.enter(None, |state, now| state.bridge.line(now, child, line));
        effects.fed
    }

    /// Takes a line of a child that is no whole message, and which the bridge does not see.
    pub(super) fn stray(&self, child: ChildId, line: &[u8]) {
        let event = self.state().strays.note_besides(now(), child, line);
        if let Some(event) = event {
            (self.told)(event);
        }
    }

    /// Takes that a child's process runs.
    pub(super) fn child_started(&self, child: ChildId, pid: Option<u32>, log: &Log) {
        if let Some(child) = self.state().children.get_mut(&child) {
            child.log = Some(log.clone());
        }
        let child = child.0;
        (self.told)(StdioEvent::Started { child, pid });
    }

    /// Takes that a child was told to end before its process was started.
    pub(super) fn child_not_started(&self, child: ChildId) {
        let end = ChildEnd::default();
        self.enter(None, |state, now| {
            state.bridge.child_ended(now, child, &end)
        });
    }

    /// Takes that a child is of no use any more.
    pub(super) fn child_ended(&self, child: ChildId, end: &ChildEnd, is_asked: bool) {
        let (has_failed, _) = self.enter(None, |state, now| {
            let before = state.bridge.state(now).failed_since;
            state.bridge.child_ended(now, child, end);
            let after = state.bridge.state(now).failed_since;
            after.is_some() && after != before
        });
        (self.told)(StdioEvent::Ended {
            child: child.0,
            how: end.status.clone(),
            last_line: end.last_words.clone(),
            is_asked,
        });
        if has_failed {
            (self.told)(StdioEvent::Failed {
                reason: end.to_string(),
                pause: FAILURE_TIME,
            });
        }
    }

    /// Takes that nothing of a child is left but its log.
    pub(super) fn child_gone(&self, child: ChildId, log: Option<&Log>) {
        let lines = log.map(Log::lines).unwrap_or_default();
        {
            let mut state = self.state();
            state.children.remove(&child);
            state.ended_logs.push(child, lines);
        }
        self.gone.notify_waiters();
    }

    /// Starts the keeper by `spawn`, unless it runs.
    pub(super) fn keep(&self, spawn: impl FnOnce(Arc<Notify>) -> JoinHandle<()>) {
        let mut state = self.state();
        if state.keeper.as_ref().is_none_or(JoinHandle::is_finished) {
            state.keeper = Some(spawn(Arc::clone(&self.wake)));
        }
    }

    /// Does what is due, and returns what the keeper is to do.
    pub(super) fn turn(&self) -> Turn {
        self.enter(None, |state, now| state.bridge.handle_timeout(now));
        let mut state = self.state();
        let until = state.bridge.poll_timeout();
        state.armed = until;
        Turn {
            starts: std::mem::take(&mut state.to_start),
            until,
        }
    }

    /// Ends all children, and waits until they have gone. Requests are refused from now on.
    pub(super) async fn stop(&self) {
        self.enter(None, |state, now| state.bridge.stop(now));
        let all_gone = async {
            loop {
                let mut notified = pin!(self.gone.notified());
                notified.as_mut().enable();
                if self.state().children.is_empty() {
                    return;
                }
                notified.await;
            }
        };
        if timeout(STOP_TIMEOUT, all_gone).await.is_err() {
            tracing::warn!(command = %self.command, "some of its processes do not end");
        }
    }

    /// What the server can tell of itself.
    pub(super) fn status(&self) -> StdioStatus {
        let (state, now) = (self.state(), now());
        StdioStatus::of(state.bridge.state(now), now, state.strays.besides())
    }

    /// The last lines that children have written to their standard errors.
    pub(super) fn logs(&self) -> Vec<String> {
        let (ended, mut running) = {
            let state = self.state();
            let children = state.children.iter();
            let running = children.filter_map(|(id, child)| Some((*id, child.log.clone()?)));
            let running: Vec<(ChildId, Log)> = running.collect();
            (state.ended_logs.lines(), running)
        };
        running.sort_by_key(|(child, _)| *child);
        let running = running.into_iter();
        let running = running.map(|(child, log)| logs::named(child, log.lines()));
        let parts = std::iter::once(ended).chain(running);
        logs::joined(parts.filter(|part| !part.is_empty()).collect())
    }

    /// Hands something to the bridge, and carries out what follows. Lines to children are paid for by `place`.
    fn enter<T>(
        &self,
        place: Option<&Arc<Place>>,
        act: impl FnOnce(&mut State, Instant) -> T,
    ) -> (T, Effects) {
        let (outcome, mut effects) = {
            let mut state = self.state();
            let now = now();
            let outcome = act(&mut state, now);
            let effects = state.carry_out(now, place);
            if state.needs_keeper() {
                self.wake.notify_one();
            }
            (outcome, effects)
        };
        for event in effects.events.drain(..) {
            (self.told)(event);
        }
        (outcome, effects)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The keeper finds that it has nothing to keep.
        self.wake.notify_one();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

impl State {
    /// Carries out all outputs of the bridge, in order.
    fn carry_out(&mut self, now: Instant, place: Option<&Arc<Place>>) -> Effects {
        let mut effects = Effects::default();
        while let Some(output) = self.bridge.poll_output() {
            match output {
                Output::Start(child) => {
                    effects.has_started = true;
                    self.start(child);
                }
                Output::Write(child, line) => {
                    effects.has_written = true;
                    if let Some(child) = self.children.get(&child) {
                        child.inbox.push(line, place.cloned());
                    }
                }
                Output::End(child) => {
                    if let Some(child) = self.children.get(&child) {
                        child.inbox.close();
                    }
                }
                Output::Stray(child, line) => {
                    tracing::debug!(%child, "a child has written a line that is not a message");
                    effects.events.extend(self.strays.note(now, child, &line));
                }
                Output::Head(exchange, head) => {
                    if let Some(exchange) = self.exchanges.get(&exchange) {
                        exchange.queue.set_head(head);
                    }
                }
                Output::Body(exchange, pieces) => {
                    if let Some(exchange) = self.exchanges.get(&exchange) {
                        exchange.queue.push(pieces);
                        effects.fed.push(Arc::clone(&exchange.queue));
                    }
                }
                Output::Done(exchange) => self.end(exchange, End::Done),
                Output::Broken(exchange) => self.end(exchange, End::Broken),
            }
        }
        effects
    }

    /// Prepares the start of a child; lines for it wait meanwhile.
    fn start(&mut self, child: ChildId) {
        let inbox = Arc::<Inbox>::default();
        let known = Child {
            inbox: Arc::clone(&inbox),
            log: None,
        };
        self.children.insert(child, known);
        self.to_start.push(Start { child, inbox });
    }

    /// Ends an answer.
    fn end(&mut self, exchange: ExchangeId, end: End) {
        if let Some(exchange) = self.exchanges.remove(&exchange) {
            exchange.queue.end(end);
        }
    }

    /// True if the keeper has something to do before it wakes up by itself.
    fn needs_keeper(&self) -> bool {
        let is_late = match (self.bridge.poll_timeout(), self.armed) {
            (Some(due), Some(armed)) => due < armed,
            (due, _) => due.is_some(),
        };
        is_late || !self.to_start.is_empty()
    }
}

/// The time by the clock of tokio, which tests may stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The system's random bytes.
fn random() -> Random {
    let source = SystemRandom::new();
    Box::new(move |bytes: &mut [u8]| {
        let filled = source.fill(bytes);
        filled.expect("the system has random bytes, from which the agent's identity was made");
    })
}
