//! The relay's end of a link's sessions: the mux that they share, and a handle for each.
//!
//! The link's driver feeds the mux and hands payload out; whoever holds a [`Session`] reads and
//! writes it. All on one shard, so nothing here is locked.
//!
//! Long because a link's driver and its sessions share one state, and each way into it stands here.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tieline_wire::limits::PREFACE;
use tieline_wire::{
    Counters, Error, Event, GoAway, Joining, Mode, Moment, Mux, Open, OpenError, Reason, SessionId,
    SessionMap, Side, Transmit, TunnelId,
};

use tracing::debug;

use crate::clock::Clock;
use crate::io::Signal;
use crate::metrics::{Direction, DropKind, FrontendKind, ShardMetrics};

mod account;
mod asking;
mod ends;
mod handle;
mod held;
mod inbox;
mod lanes;
#[cfg(test)]
pub(crate) mod rig;
mod stream;
#[cfg(test)]
mod tests;
mod trust;
mod visit;

pub(crate) use account::Account;
pub(crate) use asking::Asking;
use ends::Ends;
pub(crate) use handle::{Incoming, Session};
pub(crate) use held::{Held, Load};
use inbox::InboxEnd;
use lanes::Seat;
pub(crate) use lanes::{Lane, Lanes, shard_of};
pub(crate) use stream::{SessionEnded, SessionStream};
pub(crate) use visit::{Noted, Visit, Visitor};

/// A link that has been silent for longer than this may be dead: a request over it is held back until the
/// agent has answered to its session's opening, so that it can be sent again if the link turns out to be
/// gone. It costs a round trip, and only where nothing has been said for a while.
const SURE_FOR: Duration = Duration::from_secs(1);

/// Longest deadline of an agent's `GoAway`: the agent's own longest drain timeout.
const LEAVING_MAX: Duration = Duration::from_secs(3600);

/// Time beyond that deadline for the agent to close the link itself.
const LEAVING_GRACE: Duration = Duration::from_secs(5);

/// One link's mux, shared by the link's driver and the sessions on it.
pub(crate) struct SharedMux {
    state: RefCell<State>,
    /// Something waits to be sent.
    writer: Signal,
    /// The link's socket takes nothing at the moment.
    blocked: Cell<bool>,
    /// Why the link ends, once that is decided.
    closing: Cell<Option<Reason>>,
    clock: Clock,
    metrics: Arc<ShardMetrics>,
    lanes: Rc<Lanes>,
    asking: Rc<Asking>,
    /// It is among those that ask something.
    is_asking: Cell<bool>,
    /// One of its ends takes its leave, and its agent will tell nothing of it.
    is_leaving: Cell<bool>,
    /// Deadline of the agent's `GoAway`, once it has sent one.
    left_at: Cell<Option<Moment>>,
    account: Rc<Account>,
    this: Weak<Self>,
}

struct State {
    mux: Mux,
    sessions: SessionMap<Rc<Ends>>,
    /// Sessions that their holder left in order, and when the target must be done with them.
    abandoned: VecDeque<(SessionId, Moment)>,
    /// What the metrics know of already.
    counted: Counters,
    /// Sessions that the metrics count as open.
    counted_sessions: usize,
}

impl SharedMux {
    pub(crate) fn new(
        mux: Mux,
        clock: Clock,
        metrics: Arc<ShardMetrics>,
        lanes: Rc<Lanes>,
        asking: Rc<Asking>,
    ) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            state: RefCell::new(State {
                mux,
                sessions: SessionMap::default(),
                abandoned: VecDeque::new(),
                counted: Counters::default(),
                counted_sessions: 0,
            }),
            writer: Signal::default(),
            blocked: Cell::new(false),
            closing: Cell::new(None),
            clock,
            metrics,
            lanes,
            asking,
            is_asking: Cell::new(false),
            is_leaving: Cell::new(false),
            left_at: Cell::new(None),
            account: Rc::default(),
            this: Weak::clone(this),
        })
    }

    /// Begins a link that was begun on another shard with the same hello. The agent has the relay's
    /// greeting, and gets no second one; what it `said` since its preface is to be received.
    pub(crate) fn greeted(&self, mut said: Bytes) -> Bytes {
        let mut preface = said.split_to(PREFACE.len().min(said.len()));
        // It was in order before. Were it not, the rest would show it.
        let _ = self.receive(&mut preface, |_, _| {});
        self.transmit(&mut Transmit::new());
        said
    }

    /// Opens a session for `visitor`, counted in `held`; its payload may follow at once.
    pub(crate) fn open(
        self: &Rc<Self>,
        tunnel: &TunnelId,
        held: &Held,
        visitor: Visitor,
    ) -> Result<Session, OpenError> {
        if self.closing.get().is_some() {
            return Err(OpenError::Closing);
        }
        let mut state = self.state.borrow_mut();
        let id = state.mux.open(&Open {
            tunnel: tunnel.clone(),
            mode: Mode::Bytes,
        })?;
        let now = self.clock.now();
        let is_sure = state.mux.last_heard() + SURE_FOR >= now;
        let is_held_back = !is_sure && matches!(visitor.kind, FrontendKind::Http);
        let hold = held.hold(Visit::new(id, now, visitor));
        let ends = Rc::new(Ends::new(hold, is_held_back));
        state.sessions.insert(id, Rc::clone(&ends));
        self.count_sessions(&mut state);
        drop(state);
        self.metrics.sessions_total.inc();
        self.writer.raise();
        Ok(Session::new(Rc::clone(self), id, ends))
    }

    /// Feeds what the link's socket brought. Payload goes to its session; what concerns the link
    /// is handed to `act`. The link's writer is not woken: whoever calls this sees to it.
    ///
    /// # Errors
    /// The peer broke the protocol: the link must end.
    pub(crate) fn receive(
        &self,
        input: &mut Bytes,
        mut act: impl FnMut(&mut Mux, Event),
    ) -> Result<(), Error> {
        let now = self.clock.now();
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        while let Some(event) = state.mux.handle_input(now, input)? {
            match event {
                Event::Data {
                    session, payload, ..
                } => {
                    self.metrics
                        .bytes_moved(Direction::ToFrontend, payload.len());
                    let taken = match state.sessions.get(&session) {
                        Some(ends) => {
                            let visit = ends.hold.visit();
                            visit.moved(Direction::ToFrontend, payload.len());
                            ends.deliver(&payload)
                        }
                        // Left by its holder: nobody wants the rest.
                        None => payload.len(),
                    };
                    // Nothing taken of something is not the end of an empty message.
                    if taken > 0 || payload.is_empty() {
                        state.mux.consumed(session, taken);
                    }
                }
                Event::Opened { session } => state.of(session).for_each(Ends::opened),
                Event::Finished { session } => {
                    state.end(session, InboxEnd::Finished, &self.metrics)
                }
                Event::Reset { session, reason } => {
                    self.metrics.session_reset(reason);
                    state.of(session).for_each(Ends::turned_down);
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
        state.wake_writable();
        self.offer_lanes(state);
        self.count_drops(state);
        self.count_sessions(state);
        if state.mux.wants_transmit() {
            self.writer.set();
        }
        Ok(())
    }

    /// The agent will close the link. Sessions that it did not take up are over, and their requests may go to
    /// another agent.
    fn agent_leaves(&self, state: &mut State, away: &GoAway, now: Moment) {
        // One that takes the link for dead says so at its end, if it can.
        let stops = away.deadline_ms > 0 || away.reason == Reason::ShuttingDown;
        self.is_leaving.set(stops);
        let left = Duration::from_millis(away.deadline_ms.into()).min(LEAVING_MAX);
        let at = now + left;
        let before = self.left_at.get();
        self.left_at
            .set(Some(before.map_or(at, |before| before.min(at))));
        let ids = state.sessions.keys().copied();
        let refused: Vec<_> = ids.filter(|id| id.0 > away.last_session).collect();
        for id in refused {
            let reason = Reason::ShuttingDown;
            if state.mux.is_live(id) {
                state.mux.reset(id, reason);
                self.metrics.session_reset(reason);
                state.of(id).for_each(Ends::turned_down);
                state.end(id, InboxEnd::Reset(reason), &self.metrics);
            }
        }
    }

    /// Whether the agent said that it goes: it may have no further tunnel on this link.
    pub(crate) fn is_left(&self) -> bool {
        self.left_at.get().is_some()
    }

    fn count_drops(&self, state: &mut State) {
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

    /// Offers a lane for every session that turned out bulky and can use one.
    fn offer_lanes(&self, state: &mut State) {
        while let Some(id) = state.mux.poll_bulky() {
            if let Some(ends) = state.sessions.get(&id)
                && matches!(*ends.lane.borrow(), Seat::Wanted)
                && let Some(nonce) = self.lanes.offer(ends, self.clock.now())
            {
                state.mux.offer_bulk(id, &nonce);
            }
        }
    }

    /// A session is open until both its directions are over, also when its holder left before.
    fn count_sessions(&self, state: &mut State) {
        let now = state.mux.session_count();
        let before = std::mem::replace(&mut state.counted_sessions, now);
        if now != before {
            self.metrics.sessions.replace(before, now);
        }
    }

    /// Adds what leaves now to `out`; true if there is anything to send.
    pub(crate) fn transmit(&self, out: &mut Transmit) -> bool {
        let mut state = self.state.borrow_mut();
        self.offer_lanes(&mut state);
        let any = state.mux.poll_transmit(self.clock.now(), out);
        state.wake_writable();
        self.count_sessions(&mut state);
        if state.mux.is_asking() && !self.is_asking.replace(true) {
            self.asking.add(Weak::clone(&self.this));
        }
        any
    }

    /// Pings and deadlines.
    ///
    /// # Errors
    /// The link is stale, its handshake took too long, or its agent has not closed it when it meant to.
    pub(crate) fn tick(&self, now: Moment) -> Result<(), Error> {
        let left_at = self.left_at.get();
        if left_at.is_some_and(|at| at + LEAVING_GRACE <= now) {
            return Err(Error {
                side: Side::Peer,
                reason: Reason::ShuttingDown,
                detail: "the agent said that it goes, and stays".to_owned(),
            });
        }
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        while state
            .abandoned
            .front()
            .is_some_and(|(_, deadline)| *deadline <= now)
        {
            let Some((id, _)) = state.abandoned.pop_front() else {
                break;
            };
            state.mux.reset(id, Reason::Cancelled);
        }
        state.mux.handle_timeout(now)?;
        if state.mux.wants_transmit() {
            self.writer.raise();
        }
        Ok(())
    }

    /// Looks whether what was sent has arrived, and ends the link if its path is dead; whether to
    /// look again.
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

    /// Acts on the mux, and sends what that queued.
    pub(crate) fn with_mux<T>(&self, act: impl FnOnce(&mut Mux) -> T) -> T {
        let result = act(&mut self.state.borrow_mut().mux);
        self.writer.raise();
        result
    }

    /// Tells the agent to dial anew; sessions have until `deadline`.
    pub(crate) fn drain(&self, deadline: Duration) {
        self.is_leaving.set(true);
        self.go_away(Reason::ShuttingDown, deadline);
    }

    fn go_away(&self, reason: Reason, deadline: Duration) {
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

    /// Decides that the link ends: the agent is told, the writer sends what it can and closes.
    /// The first reason counts.
    pub(crate) fn close(&self, reason: Reason) {
        if self.closing.get().is_some() {
            return;
        }
        self.closing.set(Some(reason));
        self.go_away(reason, Duration::ZERO);
    }

    /// Why the link ends, if that is decided.
    pub(crate) fn closing(&self) -> Option<Reason> {
        self.closing.get()
    }

    /// Resets the sessions that `held` counts; how many.
    pub(crate) fn cut(&self, held: &Held, reason: Reason) -> usize {
        self.cut_those(held, reason, |_| true)
    }

    /// The same for those of whose callers `is_out` is true.
    pub(crate) fn cut_those(
        &self,
        held: &Held,
        reason: Reason,
        is_out: impl Fn(&Visitor) -> bool,
    ) -> usize {
        let mut state = self.state.borrow_mut();
        let mut count = 0;
        for visit in held.visits() {
            if state.mux.is_live(visit.id) && is_out(&visit.visitor) {
                state.mux.reset(visit.id, reason);
                self.metrics.session_reset(reason);
                state.end(visit.id, InboxEnd::Reset(reason), &self.metrics);
                count += 1;
            }
        }
        self.count_sessions(&mut state);
        drop(state);
        self.writer.raise();
        count
    }

    /// The link is gone: every session that is not over is reset.
    pub(crate) fn fail_sessions(&self, reason: Reason) {
        let reason = self.closing.get().unwrap_or(reason);
        self.closing.set(Some(reason));
        let is_lost = matches!(reason, Reason::LinkLost | Reason::Stale);
        let may_tell = is_lost && !self.is_leaving.get();
        let mut state = self.state.borrow_mut();
        let State { sessions, mux, .. } = &mut *state;
        for (id, ends) in sessions.drain() {
            // One whose ends both came is whole, also if its holder has not seen them yet.
            if !mux.is_live(id) {
                continue;
            }
            self.metrics.session_reset(Reason::LinkLost);
            if ends.lost(may_tell && !mux.has_arrived(id)) {
                self.account.want();
            }
            ends.end(InboxEnd::Reset(Reason::LinkLost), &self.metrics);
        }
        let open = std::mem::take(&mut state.counted_sessions);
        self.metrics.sessions.replace(open, 0);
        drop(state);
        self.writer.raise();
    }

    /// Ready when something may be sent, or the link ends.
    pub(crate) fn poll_sendable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.writer.poll_wait(cx)
    }

    /// What the agent says of the link once it is lost.
    pub(crate) const fn account(&self) -> &Rc<Account> {
        &self.account
    }

    /// Whether something may wait to be sent.
    pub(crate) fn has_words(&self) -> bool {
        self.writer.is_raised()
    }

    /// Whether others may join what is to be sent.
    pub(crate) fn goes_on(&self, joining: &mut Joining) -> bool {
        joining.goes_on(&self.state.borrow().mux)
    }

    /// Says whether the link's socket takes bytes at the moment.
    pub(crate) fn set_blocked(&self, blocked: bool) {
        self.blocked.set(blocked);
    }

    /// Sessions that are not over.
    pub(crate) fn session_count(&self) -> usize {
        self.state.borrow().mux.session_count()
    }

    /// When the agent was last heard.
    pub(crate) fn last_received(&self) -> Moment {
        self.state.borrow().mux.last_received()
    }
}

impl State {
    /// The target's direction goes on over the lane.
    /// A session, unless its holder has left.
    fn of(&self, session: SessionId) -> impl Iterator<Item = &Ends> {
        self.sessions.get(&session).into_iter().map(Rc::as_ref)
    }

    fn moved(&mut self, session: SessionId, metrics: &ShardMetrics) {
        let Some(ends) = self.sessions.get(&session) else {
            return;
        };
        if matches!(*ends.lane.borrow(), Seat::Taken(_)) {
            ends.inbox.borrow_mut().moved = true;
            ends.readable.raise();
        } else {
            // There is no lane that it could have moved to.
            metrics.session_reset(Reason::Protocol);
            self.mux.reset(session, Reason::Protocol);
            self.end(session, InboxEnd::Reset(Reason::Protocol), metrics);
        }
    }

    fn end(&self, session: SessionId, end: InboxEnd, metrics: &ShardMetrics) {
        if let Some(ends) = self.sessions.get(&session) {
            ends.end(end, metrics);
        }
    }

    fn wake_writable(&mut self) {
        while let Some(id) = self.mux.poll_writable() {
            if let Some(ends) = self.sessions.get(&id) {
                ends.writable.raise();
            }
        }
    }
}
