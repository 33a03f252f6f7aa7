//! State of one link: the meaning of received bytes, and which bytes to send next.
//!
//! Call order for a driver, per turn: [`Mux::handle_input`] until it returns `None`, act on each
//! event, [`Mux::poll_writable`] until `None`, then [`Mux::poll_transmit`] and send. At
//! [`Mux::poll_timeout`] call [`Mux::handle_timeout`]. An error from a `handle_*` call ends the link.
//!
//! A link whose sessions have streams of their own (QUIC) is driven with the calls in `streams.rs` besides.
//!
//! Long because all calls of a driver that concern the whole link are in this file.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::frame::{self, Kind};
use crate::generated as structs;
use crate::ids::{Moment, SessionId, TunnelId};
use crate::limits::{
    IDLE_CREDIT_TIMEOUT, LINK_BUDGET_BYTES, LOST_LINKS_MAX, PREFACE, SESSIONS_MAX, STALE_TIMEOUT,
};
use crate::message::{
    AgentHello, Encoder, GoAway, Granted, Message, Refusal, Register, RegisterAck, RelayHello,
    Unregister, Withdrawal,
};

mod batching;
mod budget;
mod credit;
mod event;
mod handshake;
mod input;
mod lane;
mod lost;
mod output;
mod progress;
mod receive;
mod schedule;
mod send;
mod sessions;
mod streams;
mod timers;
mod transmit;
mod trust;

pub use batching::SendBatching;
use budget::Budget;
pub use budget::{Charge, SharedBudget};
pub use event::{Counters, Event, OpenError, SendError};
use handshake::Handshake;
use input::Decoder;
use lane::SendLane;
pub use output::Output;
pub use progress::SendProgress;
use schedule::Schedule;
use sessions::{Session, Sessions};
pub use streams::Intake;
use timers::Timers;
pub use transmit::Transmit;

#[cfg(test)]
mod tests;

/// Shortest time between two searches for idle credit, however many sessions hold some.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Shortest heartbeat that a relay can make an agent use.
const HEARTBEAT_MIN: Duration = Duration::from_millis(20);

/// Entries that a list may hold, beside two per live session, before ended sessions are removed.
const LIST_SLACK: usize = 64;

/// Settings that a driver may choose.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Interval between pings.
    pub heartbeat: Duration,
    /// Time without a byte from the peer after which it counts as dead.
    pub stale: Duration,
    /// Window bytes above the floor that the sessions of this link share, per direction.
    pub budget_bytes: u64,
    /// Most sessions at a time.
    pub sessions_max: u32,
    /// Payload bytes in consecutive large pieces that make a session bulky; 0 disables this.
    pub bulk_run_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat: STALE_TIMEOUT / 3,
            stale: STALE_TIMEOUT,
            budget_bytes: LINK_BUDGET_BYTES,
            sessions_max: SESSIONS_MAX,
            bulk_run_bytes: 0,
        }
    }
}

/// State of one link; it ends with the link.
#[derive(Debug)]
pub struct Mux {
    handshake: Handshake,
    settings: Settings,
    decoder: Decoder,
    sessions: Sessions,
    schedule: Schedule,
    /// Encoded control frames, sent before the frames of any session.
    control: Vec<u8>,
    encoder: Encoder,
    /// Stamp of the pong to send: only the latest ping is answered.
    pong: Option<u64>,
    /// `control` holds a frame that a ping must follow: the pong then shows that the frame arrived.
    asks: bool,
    /// Sessions that are due a grant.
    due: VecDeque<SessionId>,
    /// Sessions that can be written again, for [`Mux::poll_writable`].
    writable: VecDeque<SessionId>,
    /// Sessions that became bulky, for [`Mux::poll_bulky`].
    bulky: VecDeque<SessionId>,
    /// Sessions whose send credit is above the floor.
    grown: Vec<SessionId>,
    /// When to look for idle sessions in `grown`.
    idle_check_at: Moment,
    budget: Budget,
    timers: Timers,
    now: Moment,
    going_away: bool,
    /// The peer may have as many control bytes waiting as a link with many tunnels needs.
    is_trusted: bool,
    counters: Counters,
    /// Lost links that the agent may still report; 0 once it has registered a tunnel.
    lost_left: usize,
    /// Each session has a stream of its own; the bytes of `handle_input` are control frames alone.
    is_over_streams: bool,
}

impl Mux {
    /// The relay's end of a new link.
    #[must_use]
    pub fn relay(hello: RelayHello, settings: Settings, now: Moment) -> Self {
        Self::new(Handshake::RelayAwaitsPreface(hello), settings, now)
    }

    /// The agent's end of a new link; its preface is ready to send.
    #[must_use]
    pub fn agent(settings: Settings, now: Moment) -> Self {
        let mut mux = Self::new(Handshake::AgentAwaitsHello, settings, now);
        mux.control.extend_from_slice(&PREFACE);
        mux
    }

    fn new(handshake: Handshake, settings: Settings, now: Moment) -> Self {
        let is_relay = handshake.is_relay();
        Self {
            handshake,
            settings,
            decoder: Decoder::new(),
            sessions: Sessions::default(),
            schedule: Schedule::default(),
            control: Vec::new(),
            encoder: Encoder::new(),
            pong: None,
            asks: false,
            due: VecDeque::new(),
            writable: VecDeque::new(),
            bulky: VecDeque::new(),
            grown: Vec::new(),
            idle_check_at: now,
            budget: Budget::new(settings.budget_bytes),
            timers: Timers::new(settings.heartbeat, settings.stale, now),
            now,
            going_away: false,
            is_trusted: !is_relay,
            counters: Counters::default(),
            lost_left: LOST_LINKS_MAX,
            is_over_streams: false,
        }
    }

    /// Draws windows and queues from a budget that other links share.
    pub fn share_budget(&mut self, shared: Arc<SharedBudget>) {
        self.budget.share_with(shared);
    }

    /// Queues a ping when one is due, and returns idle credit.
    ///
    /// # Errors
    /// [`Stale`](crate::LinkEnd::Stale) or [`HandshakeTimeout`](crate::LinkEnd::HandshakeTimeout): the
    /// link must be closed.
    pub fn handle_timeout(&mut self, now: Moment) -> Result<(), Error> {
        self.now = now;
        if self.timers.check(now)? {
            self.ping();
        }
        if now >= self.idle_check_at {
            self.return_idle_credits();
        }
        Ok(())
    }

    fn ping(&mut self) {
        let stamp = self.timers.ping(self.now);
        let header = frame::encode(Kind::Ping, LINK, 8, false);
        self.control.extend_from_slice(&header);
        self.control.extend_from_slice(&structs::Ping::new(stamp).0);
    }

    fn return_idle_credits(&mut self) {
        let mut next = self.now + IDLE_CREDIT_TIMEOUT;
        let mut grown = std::mem::take(&mut self.grown);
        grown.retain(|id| match self.return_idle_credit(*id) {
            Some(deadline) => {
                next = next.min(deadline);
                true
            }
            None => false,
        });
        self.grown = grown;
        self.idle_check_at = next.max(self.now + IDLE_CHECK_INTERVAL);
    }

    /// When to look at a session again; `None` if it no longer belongs in the list of sessions above
    /// the floor.
    fn return_idle_credit(&mut self, id: SessionId) -> Option<Moment> {
        let send = &mut self.sessions.live_mut(id)?.send;
        // The end of a direction returns its credit anyway.
        if send.end.is_none() && send.lane == SendLane::Link && send.credit.is_above_floor() {
            if !send.queue.is_empty() {
                return Some(self.now + IDLE_CREDIT_TIMEOUT);
            }
            let deadline = send.credit.idle_deadline(IDLE_CREDIT_TIMEOUT);
            if self.now < deadline {
                return Some(deadline);
            }
            let bytes = send.credit.give_back();
            let header = frame::encode(Kind::CreditReturn, id, 4, false);
            self.control.extend_from_slice(&header);
            self.control
                .extend_from_slice(&structs::CreditReturn::new(bytes).0);
        }
        send.listed_grown = false;
        None
    }

    /// When to call [`Mux::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Moment {
        let next = self.timers.next();
        if self.grown.is_empty() {
            next
        } else {
            next.min(self.idle_check_at)
        }
    }

    fn push_control(&mut self, kind: Kind, session: SessionId, message: &impl Message) {
        let payload = self.encoder.encode(message);
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.control
            .extend_from_slice(&frame::encode(kind, session, len, false));
        self.control.extend_from_slice(payload);
        self.asks = true;
    }

    /// Like [`Mux::push_control`], for a frame that an older peer may skip.
    fn push_optional(&mut self, kind: Kind, session: SessionId, message: &impl Message) {
        let at = self.control.len();
        self.push_control(kind, session, message);
        self.control[at + frame::FLAGS_OFFSET] |= frame::OPTIONAL;
    }

    /// Agent: sends its hello, once [`Event::RelayHello`] came.
    pub fn hello(&mut self, hello: &AgentHello) {
        if self.handshake.answered() {
            self.push_control(Kind::Hello, LINK, hello);
            self.timers.shaken(self.now);
        }
    }

    /// Agent: publishes a target.
    pub fn register(&mut self, register: &Register) {
        self.push_control(Kind::Register, LINK, register);
    }

    /// Agent: gives up a tunnel.
    pub fn unregister(&mut self, tunnel: &TunnelId) {
        self.push_control(Kind::Unregister, LINK, &Unregister(tunnel));
    }

    /// Relay: answers a registration.
    pub fn register_ack(&mut self, ack: &RegisterAck) {
        self.push_control(Kind::RegisterAck, LINK, ack);
    }

    /// Relay: refuses the agent's registration `request`.
    pub fn refuse_registration(&mut self, request: u32, refusal: Refusal) {
        let outcome = Err(refusal);
        self.register_ack(&RegisterAck { request, outcome });
    }

    /// Relay: takes back a granted tunnel; the driver must reset the tunnel's sessions.
    pub fn withdraw(&mut self, withdrawal: &Withdrawal) {
        self.push_control(Kind::RegisterAck, LINK, withdrawal);
    }

    /// Announces that this side will close the link; no more sessions can be opened on it.
    pub fn go_away(&mut self, away: &GoAway) {
        self.going_away = true;
        self.push_control(Kind::GoAway, LINK, away);
    }

    /// Last measured round-trip time of the link.
    #[must_use]
    pub const fn rtt(&self) -> Option<Duration> {
        self.timers.rtt()
    }

    /// When the last bytes of the peer arrived.
    #[must_use]
    pub const fn last_received(&self) -> Moment {
        self.timers.last_received()
    }

    /// When something last arrived that shows that the peer hears this side: anything but its own pings.
    #[must_use]
    pub const fn last_heard(&self) -> Moment {
        self.timers.last_heard()
    }

    /// True while bytes that were sent are not known to have arrived, or while more of the peer's data may be due:
    /// [`Mux::poll_timeout`] is near then.
    #[must_use]
    pub const fn is_asking(&self) -> bool {
        self.timers.is_asking()
    }

    /// Pings the peer now, for example after a change of this side's addresses. The caller judges a missing answer, by
    /// [`Mux::last_heard`]: the mux itself waits for this ping as long as for a heartbeat's.
    pub fn probe(&mut self, now: Moment) {
        if self.timers.is_shaken() {
            self.now = now;
            self.ping();
        }
    }

    /// Pings the peer now, and ends the link if nothing answers within [`PROBE_TIMEOUT`](crate::limits::PROBE_TIMEOUT):
    /// for a link that may be dead because another link to the same peer is silent. Does nothing while a ping with such
    /// a deadline is under way.
    pub fn confirm(&mut self, now: Moment) {
        if self.timers.confirm(now) {
            self.now = now;
            self.ping();
        }
    }

    /// True if the driver should call [`Mux::progressed`] before the next [`Mux::handle_timeout`]: a ping with a deadline
    /// has no answer yet, and may wait behind other bytes.
    #[must_use]
    pub fn wants_progress(&self, now: Moment) -> bool {
        self.timers.wants_progress(now)
    }

    /// Tells how far the link's bytes have come. While bytes in front of an unanswered ping are being acknowledged, the
    /// path works, and the ping's deadline moves on; the stale timeout still holds.
    pub fn progressed(&mut self, now: Moment, progress: SendProgress) {
        self.timers.progressed(now, progress);
    }

    /// True once for each ping with a deadline that nothing answers soon: other links to the same peer may be dead too,
    /// see [`Mux::confirm`]. A ping of [`Mux::confirm`] itself does not count.
    pub fn take_doubt(&mut self, now: Moment) -> bool {
        self.timers.take_doubt(now)
    }

    /// When [`Mux::take_doubt`] becomes true if nothing arrives before; [`Mux::poll_timeout`] may be later. `None` while no
    /// ping waits that may raise a doubt.
    #[must_use]
    pub fn doubt_at(&self) -> Option<Moment> {
        self.timers.doubt_at()
    }

    /// Number of sessions that are not over.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// True while the session is not over.
    #[must_use]
    pub fn is_live(&self, id: SessionId) -> bool {
        self.sessions.live(id).is_some()
    }

    /// True once the hello exchange is over.
    #[must_use]
    pub const fn is_established(&self) -> bool {
        self.timers.is_shaken()
    }

    /// The highest session id seen on this link.
    #[must_use]
    pub const fn last_session(&self) -> u32 {
        self.sessions.highest()
    }

    /// Counters of this link.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Lengths of the lists that hold session ids.
    #[cfg(test)]
    fn list_lengths(&self) -> [usize; 5] {
        [
            self.schedule.len(),
            self.due.len(),
            self.writable.len(),
            self.bulky.len(),
            self.grown.len(),
        ]
    }

    fn granted(&mut self, granted: &Granted) {
        if granted.heartbeat_ms == 0 {
            return;
        }
        let heartbeat = Duration::from_millis(u64::from(granted.heartbeat_ms));
        // Bounded, so that an odd value makes the agent neither flood the relay nor fall silent.
        let heartbeat = heartbeat.min(self.settings.stale / 3).max(HEARTBEAT_MIN);
        self.timers.pace(heartbeat, self.now);
    }

    /// Frees the slot of a session.
    fn forget(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.remove(id) {
            session.recv.credit.close(&mut self.budget);
            self.budget.dequeue(session.send.queued_bytes);
            self.tidy_lists();
        }
    }

    /// Frees the session's slot if both directions are over.
    fn forget_if_over(&mut self, id: SessionId) {
        if self.sessions.live(id).is_some_and(Session::is_over) {
            self.forget(id);
        }
    }

    /// Removes ended sessions from a list once they may be most of it: a peer that ends sessions
    /// and reads nothing must not make the list grow.
    fn tidy_lists(&mut self) {
        let Self {
            sessions,
            schedule,
            due,
            writable,
            bulky,
            grown,
            ..
        } = self;
        let most = 2 * sessions.len() + LIST_SLACK;
        let live = |id: &SessionId| sessions.live(*id).is_some();
        if schedule.len() > most {
            schedule.retain(live);
        }
        for list in [due, writable, bulky] {
            if list.len() > most {
                list.retain(live);
            }
        }
        if grown.len() > most {
            grown.retain(live);
        }
    }
}

/// The session number of the link itself.
const LINK: SessionId = SessionId(0);
