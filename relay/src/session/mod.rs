//! The relay's end of a link's sessions: the mux that they share, and a handle for each session.
//!
//! The link's driver feeds the mux and delivers payload; the task that serves a frontend reads and writes its
//! [`Session`]. Both run on one shard, so this module has no locks.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tieline_wire::limits::PREFACE;
use tieline_wire::{
    Counters, Error, Event, GoAway, LinkEnd, Moment, Mux, Open, OpenError, SendBatching,
    SessionEnd, SessionId, SessionMap, Side, Transmit, TunnelId,
};

use tracing::debug;

use crate::clock::Clock;
use crate::io::Signal;
use crate::metrics::{Direction, DropKind, FrontendKind, ShardMetrics};

mod carrier;
mod handle;
mod inbox;
mod lanes;
mod lost_report;
mod over_streams;
mod probed;
mod record;
mod sink;
mod state;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod tunnel_sessions;

use carrier::Carrier;
pub(crate) use handle::{Incoming, Session};
use inbox::InboxEnd;
use lanes::LaneState;
pub(crate) use lanes::{Lane, Lanes, shard_of};
pub(crate) use lost_report::LostLinkReport;
pub(crate) use probed::{AgentRun, ProbedLinks};
pub(crate) use record::{SessionAudit, SessionCaller, SessionRecord};
pub(crate) use sink::Sink;
use state::SessionState;
pub(crate) use stream::{SessionEnded, SessionStream};
pub(crate) use tunnel_sessions::{Load, TunnelSessions};

/// Silence after which a link may be dead. A request over such a link is held back until the agent has acknowledged the
/// session, so that it can be sent again if the link turns out to be lost. The cost is one round trip after silence.
const RECENTLY_HEARD: Duration = Duration::from_secs(1);

/// Longest deadline of an agent's `GoAway`: the agent's own longest drain timeout.
const LEAVING_MAX: Duration = Duration::from_secs(3600);

/// Time beyond the deadline of a `GoAway` for the agent to close the link itself.
const LEAVING_GRACE: Duration = Duration::from_secs(5);

/// One link's mux, shared by the link's driver and the link's sessions.
pub(crate) struct SharedMux {
    state: RefCell<MuxState>,
    /// Raised when something waits to be sent.
    writer: Signal,
    carrier: Carrier,
    /// Reason of the link's end, once the end is decided.
    closing: Cell<Option<LinkEnd>>,
    clock: Clock,
    metrics: Arc<ShardMetrics>,
    lanes: Rc<Lanes>,
    probed: Rc<ProbedLinks>,
    /// Whether the link is in `probed`, so that it is added only once.
    is_asking: Cell<bool>,
    /// The run of the link's agent, if that has several links.
    run: Cell<Option<AgentRun>>,
    /// Whether the relay or the agent ends the link in order, so that no report on it will come.
    is_leaving: Cell<bool>,
    /// Deadline of the agent's `GoAway`, once the agent has sent one.
    left_at: Cell<Option<Moment>>,
    lost_report: Rc<LostLinkReport>,
    this: Weak<Self>,
}

struct MuxState {
    mux: Mux,
    sessions: SessionMap<Rc<SessionState>>,
    /// Sessions that their holder left in order, and the deadline for their targets to finish.
    abandoned: VecDeque<(SessionId, Moment)>,
    /// Counters of the mux as last added to the metrics.
    counted: Counters,
    /// Number of open sessions as last added to the metrics.
    counted_sessions: usize,
}

impl SharedMux {
    pub(crate) fn new(
        mux: Mux,
        clock: Clock,
        metrics: Arc<ShardMetrics>,
        lanes: Rc<Lanes>,
        probed: Rc<ProbedLinks>,
    ) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            state: RefCell::new(MuxState {
                mux,
                sessions: SessionMap::default(),
                abandoned: VecDeque::new(),
                counted: Counters::default(),
                counted_sessions: 0,
            }),
            writer: Signal::default(),
            carrier: Carrier::default(),
            closing: Cell::new(None),
            clock,
            metrics,
            lanes,
            probed,
            is_asking: Cell::new(false),
            run: Cell::new(None),
            is_leaving: Cell::new(false),
            left_at: Cell::new(None),
            lost_report: Rc::default(),
            this: Weak::clone(this),
        })
    }

    /// Takes over a link that was begun on another shard with the same hello. The agent's preface was valid there; the
    /// agent has the relay's greeting and gets no second one.
    pub(crate) fn skip_greeting(&self) {
        let _ = self.receive(&mut Bytes::from_static(&PREFACE), |_, _| {});
        self.transmit(&mut Transmit::new());
    }

    /// Opens a session for `caller`, counted in `sessions`; payload may follow at once.
    pub(crate) fn open(
        self: &Rc<Self>,
        tunnel: &TunnelId,
        sessions: &TunnelSessions,
        caller: SessionCaller,
    ) -> Result<Session, OpenError> {
        if self.closing.get().is_some() {
            return Err(OpenError::Closing);
        }
        let mut state = self.state.borrow_mut();
        let id = state.mux.open(&Open {
            tunnel: tunnel.clone(),
            mode: caller.mode,
        })?;
        let now = self.clock.now();
        let is_sure = state.mux.last_heard() + RECENTLY_HEARD >= now;
        let is_held_back = !is_sure && matches!(caller.kind, FrontendKind::Http);
        let hold = sessions.hold(SessionRecord::new(id, now, caller));
        let shared = Rc::new(SessionState::new(hold, is_held_back));
        state.sessions.insert(id, Rc::clone(&shared));
        self.count_sessions(&mut state);
        drop(state);
        self.metrics.sessions_total.inc();
        self.writer.raise();
        Ok(Session::new(Rc::clone(self), id, shared))
    }

    /// Feeds bytes from the link's socket to the mux. Payload goes to its session, events of the link go to `act`. Sets
    /// the writer's signal without waking the writer: the caller polls it.
    ///
    /// # Errors
    /// The peer broke the protocol, and the link must end.
    pub(crate) fn receive(
        &self,
        input: &mut Bytes,
        mut act: impl FnMut(&mut Mux, Event),
    ) -> Result<(), Error> {
        let now = self.clock.now();
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        while let Some(event) = state.mux.handle_input(now, input)? {
            self.take(state, event, now, &mut act);
        }
        self.received(state);
        Ok(())
    }

    /// Takes an event of the mux: payload goes to its session, events of the link go to `act`.
    #[inline]
    fn take(
        &self,
        state: &mut MuxState,
        event: Event,
        now: Moment,
        act: &mut impl FnMut(&mut Mux, Event),
    ) {
        match event {
            Event::Data {
                session, payload, ..
            } => self.deliver(state, session, &payload),
            Event::Opened { session } => state.of(session).for_each(SessionState::opened),
            Event::Finished { session } => state.end(session, InboxEnd::Finished, &self.metrics),
            Event::Reset { session, reason } => {
                self.metrics.session_reset(reason);
                state.of(session).for_each(SessionState::turned_down);
                state.end(session, InboxEnd::Reset(reason), &self.metrics);
            }
            Event::Bulk { session } => state.moved(session, &self.metrics),
            event => {
                if let Event::GoAway(away) = &event {
                    self.agent_leaves(state, away, now);
                }
                act(&mut state.mux, event);
            }
        }
    }

    /// Delivers payload to its session, and returns credit for what the frontend took at once.
    #[inline]
    fn deliver(&self, state: &mut MuxState, session: SessionId, payload: &[u8]) {
        self.metrics
            .bytes_moved(Direction::ToFrontend, payload.len());
        let taken = match state.sessions.get(&session) {
            Some(shared) => {
                let record = &shared.hold.record;
                record.moved(Direction::ToFrontend, payload.len());
                shared.deliver(payload)
            }
            // The session's holder has left, and the rest of the payload is discarded.
            None => payload.len(),
        };
        // `consumed` with 0 stands for an empty message, not for payload of which nothing was taken.
        if taken > 0 || payload.is_empty() {
            state.mux.consumed(session, taken);
        }
    }

    /// What follows from the events of one read.
    fn received(&self, state: &mut MuxState) {
        state.wake_writable();
        self.offer_lanes(state);
        self.count_drops(state);
        self.count_sessions(state);
        self.watch_if_asking(&state.mux);
        if state.mux.wants_transmit() {
            self.writer.set();
        }
    }

    /// Has the link checked often while it waits for bytes of the agent.
    fn watch_if_asking(&self, mux: &Mux) {
        if mux.is_asking() && !self.is_asking.replace(true) {
            self.probed.add(Weak::clone(&self.this));
        }
    }

    /// Notes that the link's agent has other links too.
    pub(crate) fn has_siblings(&self, run: AgentRun) {
        self.run.set(Some(run));
    }

    /// The run of the agent, once for each ping that it does not answer soon; `None` if it has no other link.
    fn doubted(&self, now: Moment) -> Option<AgentRun> {
        let is_silent = self.state.borrow_mut().mux.take_doubt(now);
        self.run.get().filter(|_| is_silent)
    }

    /// Pings the agent now, because another of its links is silent; ends the link if nothing answers within
    /// [`tieline_wire::limits::PROBE_TIMEOUT`].
    pub(crate) fn confirm(&self) {
        if self.closing.get().is_some() {
            return;
        }
        let mut state = self.state.borrow_mut();
        state.mux.confirm(self.clock.now());
        self.watch_if_asking(&state.mux);
        drop(state);
        self.writer.raise();
    }

    /// Handles an agent's `GoAway`. Sessions that the agent did not take up are reset, and their requests may go to
    /// another agent.
    fn agent_leaves(&self, state: &mut MuxState, away: &GoAway, now: Moment) {
        // An agent that gives a dead link up reports on it later; an agent that stops does not.
        let stops = away.deadline_ms > 0 || away.reason == LinkEnd::ShuttingDown;
        self.is_leaving.set(stops);
        let left = Duration::from_millis(away.deadline_ms.into()).min(LEAVING_MAX);
        let at = now + left;
        let before = self.left_at.get();
        self.left_at
            .set(Some(before.map_or(at, |before| before.min(at))));
        let ids = state.sessions.keys().copied();
        let refused: Vec<_> = ids.filter(|id| id.0 > away.last_session).collect();
        for id in refused {
            let reason = SessionEnd::ShuttingDown;
            if state.mux.is_live(id) {
                state.mux.reset(id, reason);
                self.metrics.session_reset(reason);
                state.of(id).for_each(SessionState::turned_down);
                state.end(id, InboxEnd::Reset(reason), &self.metrics);
            }
        }
    }

    /// Whether the agent has sent a `GoAway`, after which it may register no further tunnel on the link.
    pub(crate) fn is_left(&self) -> bool {
        self.left_at.get().is_some()
    }

    fn count_drops(&self, state: &mut MuxState) {
        let now = *state.mux.counters();
        let before = std::mem::replace(&mut state.counted, now);
        let ended = now.frames_dropped - before.frames_dropped;
        let optional = now.optional_frames_dropped - before.optional_frames_dropped;
        for (kind, count) in [
            (DropKind::EndedSession, ended),
            (DropKind::Optional, optional),
        ] {
            if count > 0 {
                self.metrics.frames_dropped(kind, count);
            }
        }
    }

    /// Offers a lane to every session that has turned bulky and can use one.
    fn offer_lanes(&self, state: &mut MuxState) {
        while let Some(id) = state.mux.poll_bulky() {
            if let Some(shared) = state.sessions.get(&id)
                && matches!(*shared.lane.borrow(), LaneState::Wanted)
                && let Some(nonce) = self.lanes.offer(shared, self.clock.now())
            {
                state.mux.offer_bulk(id, &nonce);
            }
        }
    }

    /// Updates the sessions gauge. A session is open until both directions end, even if its holder left before.
    fn count_sessions(&self, state: &mut MuxState) {
        let now = state.mux.session_count();
        let before = std::mem::replace(&mut state.counted_sessions, now);
        if now != before {
            self.metrics.sessions.replace(before, now);
        }
    }

    /// Adds the bytes to send now to `out`; true if there are any.
    pub(crate) fn transmit(&self, out: &mut Transmit) -> bool {
        let mut state = self.state.borrow_mut();
        self.offer_lanes(&mut state);
        let any = state.mux.poll_transmit(self.clock.now(), out);
        self.transmitted(&mut state);
        any
    }

    /// What follows when bytes were taken out of the mux.
    fn transmitted(&self, state: &mut MuxState) {
        state.wake_writable();
        self.count_sessions(state);
        self.watch_if_asking(&state.mux);
    }

    /// Sends due pings and enforces deadlines.
    ///
    /// # Errors
    /// The link is stale, its handshake took too long, or its agent has not closed it after a `GoAway`.
    pub(crate) fn tick(&self, now: Moment) -> Result<(), Error> {
        let left_at = self.left_at.get();
        if left_at.is_some_and(|at| at + LEAVING_GRACE <= now) {
            return Err(Error {
                side: Side::Peer,
                reason: LinkEnd::ShuttingDown,
                detail: "the agent did not close the link by its own deadline".to_owned(),
            });
        }
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        while let Some((id, deadline)) = state.abandoned.front().copied()
            && deadline <= now
        {
            state.abandoned.pop_front();
            state.mux.reset(id, SessionEnd::Cancelled);
        }
        if state.mux.wants_progress(now)
            && let Some(progress) = self.carrier.progress()
        {
            state.mux.progressed(now, progress);
        }
        state.mux.handle_timeout(now)?;
        if state.mux.wants_transmit() {
            self.writer.raise();
        }
        Ok(())
    }

    /// Checks whether the agent answers, and ends the link if its path is dead; returns whether another look is needed.
    fn look(&self, now: Moment) -> bool {
        let is_alive = match self.tick(now) {
            Ok(()) => self.closing.get().is_none(),
            Err(error) => {
                debug!(%error, "link overdue");
                self.close(error.reason);
                false
            }
        };
        let goes_on = is_alive && self.state.borrow().mux.is_asking();
        self.is_asking.set(goes_on);
        goes_on
    }

    /// Runs `act` on the mux, and wakes the writer for what it queued.
    pub(crate) fn with_mux<T>(&self, act: impl FnOnce(&mut Mux) -> T) -> T {
        let result = act(&mut self.state.borrow_mut().mux);
        self.writer.raise();
        result
    }

    /// Tells the agent to dial again; sessions have until `deadline`.
    pub(crate) fn drain(&self, deadline: Duration) {
        self.is_leaving.set(true);
        self.go_away(LinkEnd::ShuttingDown, deadline);
    }

    fn go_away(&self, reason: LinkEnd, deadline: Duration) {
        let deadline_ms = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX);
        self.with_mux(|mux| {
            let last_session = mux.last_session();
            let message = reason.to_string();
            mux.go_away(&GoAway {
                last_session,
                reason,
                deadline_ms,
                message,
            });
        });
    }

    /// Decides that the link ends. The agent is told; the writer sends what it can and closes. The first reason counts.
    pub(crate) fn close(&self, reason: LinkEnd) {
        if self.closing.get().is_some() {
            return;
        }
        self.closing.set(Some(reason));
        self.go_away(reason, Duration::ZERO);
    }

    /// Reason of the link's end, if the end is decided.
    pub(crate) fn closing(&self) -> Option<LinkEnd> {
        self.closing.get()
    }

    /// Resets the sessions that `sessions` counts; returns how many.
    pub(crate) fn cut(&self, sessions: &TunnelSessions, reason: SessionEnd) -> usize {
        self.cut_those(sessions, reason, |_| true)
    }

    /// Resets the sessions that `sessions` counts and whose caller `is_out` selects; returns how many.
    pub(crate) fn cut_those(
        &self,
        sessions: &TunnelSessions,
        reason: SessionEnd,
        is_out: impl Fn(&SessionCaller) -> bool,
    ) -> usize {
        let mut state = self.state.borrow_mut();
        let mut count = 0;
        for record in sessions.records() {
            if state.mux.is_live(record.id) && is_out(&record.caller) {
                state.mux.reset(record.id, reason);
                self.metrics.session_reset(reason);
                state.end(record.id, InboxEnd::Reset(reason), &self.metrics);
                count += 1;
            }
        }
        self.count_sessions(&mut state);
        drop(state);
        self.writer.raise();
        count
    }

    /// Resets every session that is not over, because the link has ended.
    pub(crate) fn fail_sessions(&self, reason: LinkEnd) {
        let reason = self.closing.get().unwrap_or(reason);
        self.closing.set(Some(reason));
        let is_lost = matches!(reason, LinkEnd::LinkLost | LinkEnd::Stale);
        let is_leaving = self.is_leaving.get();
        let may_tell = is_lost && !is_leaving;
        let end = match reason {
            // The agent closes a link at the deadline that it or the relay has announced.
            LinkEnd::LinkLost if is_leaving => SessionEnd::ShuttingDown,
            reason => reason.of_sessions(),
        };
        let mut state = self.state.borrow_mut();
        let MuxState { sessions, mux, .. } = &mut *state;
        for (id, shared) in sessions.drain() {
            // A session whose two directions have ended is complete, even if its holder has not read the ends yet.
            if !mux.is_live(id) {
                continue;
            }
            self.metrics.session_reset(end);
            if shared.lost(may_tell && !mux.has_arrived(id)) {
                self.lost_report.want();
            }
            shared.end(InboxEnd::Reset(end), &self.metrics);
        }
        let open = std::mem::take(&mut state.counted_sessions);
        self.metrics.sessions.replace(open, 0);
        drop(state);
        self.writer.raise();
    }

    /// Ready when there may be something to send, or the link ends.
    pub(crate) fn poll_sendable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.writer.poll_wait(cx)
    }

    /// Notes that the agent was permitted a tunnel.
    pub(crate) fn trust(&self) {
        self.state.borrow_mut().mux.trust();
    }

    /// Whether the agent was permitted a tunnel.
    pub(crate) fn is_trusted(&self) -> bool {
        self.state.borrow().mux.is_trusted()
    }

    /// The agent's report on the link, once the link is lost.
    pub(crate) const fn lost_report(&self) -> &Rc<LostLinkReport> {
        &self.lost_report
    }

    /// Whether there may be something to send.
    pub(crate) fn has_output(&self) -> bool {
        self.writer.is_raised()
    }

    /// Whether the writer should wait for more frames to join the next send.
    pub(crate) fn goes_on(&self, batching: &mut SendBatching) -> bool {
        batching.goes_on(&self.state.borrow().mux)
    }

    /// What carries the link's bytes.
    pub(crate) const fn carrier(&self) -> &Carrier {
        &self.carrier
    }

    /// Sessions that are not over.
    pub(crate) fn session_count(&self) -> usize {
        self.state.borrow().mux.session_count()
    }

    /// Time of the last bytes from the agent.
    pub(crate) fn last_received(&self) -> Moment {
        self.state.borrow().mux.last_received()
    }

    /// Round trip of the last ping that was answered.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.state.borrow().mux.rtt()
    }
}

impl MuxState {
    /// The ends of a session, unless its holder has left.
    fn of(&self, session: SessionId) -> impl Iterator<Item = &SessionState> {
        self.sessions.get(&session).into_iter().map(Rc::as_ref)
    }

    /// Notes that the target's direction goes on over the session's lane.
    fn moved(&mut self, session: SessionId, metrics: &ShardMetrics) {
        let Some(shared) = self.sessions.get(&session) else {
            return;
        };
        if matches!(*shared.lane.borrow(), LaneState::Taken(_)) {
            shared.inbox.borrow_mut().moved = true;
            shared.readable.raise();
        } else {
            // The session has no lane.
            metrics.session_reset(SessionEnd::Protocol);
            self.mux.reset(session, SessionEnd::Protocol);
            self.end(session, InboxEnd::Reset(SessionEnd::Protocol), metrics);
        }
    }

    fn end(&self, session: SessionId, end: InboxEnd, metrics: &ShardMetrics) {
        if let Some(shared) = self.sessions.get(&session) {
            shared.end(end, metrics);
        }
    }

    fn wake_writable(&mut self) {
        while let Some(id) = self.mux.poll_writable() {
            if let Some(shared) = self.sessions.get(&id) {
                shared.writable.raise();
            }
        }
    }
}
