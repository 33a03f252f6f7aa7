//! A link: one connection to the relay. Holds the mux behind a lock, and the sessions on the link.
//!
//! The lock is held for state changes and system calls that cannot block, never across an await.

mod buffer;
mod dispatch;
mod driver;
mod session;
#[cfg(test)]
pub(crate) mod tests;
mod tunnels;

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BufMut;
use tieline_wire::{
    Event, GoAway, Granted, LinkEnd, Lost, Moment, Mux, Refusal, Register, SendProgress,
    SessionEnd, SessionId, SessionMap, TunnelId,
};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use self::buffer::ReadBuffer;
pub(crate) use self::driver::run;
use self::tunnels::Tunnels;
use crate::bell::Bell;
use crate::identity::Identity;
use crate::link::session::Session;
use crate::targets::WatchedTarget;
use crate::transport::{Connection, Gauge, QuicPath};

/// Largest number of bytes that one read of a target takes.
const PULL_BYTES_MAX: usize = 64 * 1024;

/// Smallest room in the buffer for a read of a target; with less room, the read gets a new piece of memory.
const PULL_BYTES_MIN: usize = 16 * 1024;

/// What [`run`] needs to introduce the agent and to serve its targets.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) identity: Arc<Identity>,
    pub(crate) relay_name: String,
    pub(crate) link_index: u16,
    pub(crate) links: u16,
    /// Registration for each target, in the order of the targets, with the tunnel that it asks for.
    pub(crate) registers: Vec<(Register, TunnelId)>,
    pub(crate) targets: Arc<[WatchedTarget]>,
    /// Earlier links that were lost, to report to the relay.
    pub(crate) lost: Vec<Lost>,
    pub(crate) news: mpsc::Sender<News>,
}

/// News of a link for the slot that runs it; the end of the link is the result of [`run`].
#[derive(Debug)]
pub(crate) enum News {
    /// A target's tunnel is up.
    Registered { target: usize, granted: Granted },
    /// The relay refuses a target's tunnel, or the renewal of its permission.
    Refused { target: usize, refusal: Refusal },
    /// The relay takes a target's tunnel back.
    Withdrawn { target: usize, refusal: Refusal },
    /// The relay asks the agent to leave this link.
    GoingAway(GoAway),
}

/// Largest number of news that a link with `targets` targets can have queued: one `GoAway`, and for each target
/// the answers to two registrations, each of which may grant a tunnel that is then taken back.
pub(crate) const fn news_max(targets: usize) -> usize {
    4 * targets + 1
}

/// A link, shared by its tasks and sessions.
#[derive(Debug)]
pub(crate) struct Link {
    core: Mutex<Core>,
    /// Rung when the mux has something to send.
    transmit: Bell,
    /// Notified when the kernel has all that the mux had to send.
    flushed: Notify,
    /// Rung when the mux's next deadline moved nearer.
    deadline: Bell,
    /// Rung when this machine's network changed; a link over QUIC then goes on from another address.
    moved: Bell,
    /// Rung when this machine may have lost the link's address; a link over QUIC then looks whether it has.
    lost_address: Bell,
    /// Rung when the relay does not answer a ping soon, over QUIC.
    doubted: Bell,
    is_over_quic: bool,
    /// What a link over QUIC has measured last.
    path: Mutex<Option<QuicPath>>,
    /// Notified when the last session left.
    empty: Notify,
    /// When the link ends; set once it is closing. Sessions that still run then are aborted.
    closing: watch::Sender<Option<Instant>>,
    started_at: Instant,
    /// Tells how far the connection's bytes have come; set once the link has its connection.
    gauge: OnceLock<Gauge>,
}

#[derive(Debug)]
struct Core {
    mux: Mux,
    sessions: SessionMap<Arc<Session>>,
    buffer: ReadBuffer,
    /// When the timer task looks at the mux next.
    wakes_at: Option<Moment>,
    tunnels: Tunnels,
    /// Bytes that the kernel has taken from the writer, and those that the writer held when it last looked or waited.
    written: SendProgress,
    /// How far the link's bytes had come at the last ping of [`Link::probe`].
    asked: Option<SendProgress>,
    /// True once the link accepts no new sessions.
    draining: bool,
    /// Reason that the relay was given for the link's end.
    reason: Option<LinkEnd>,
    /// Nonce from the relay's hello, by which the relay knows this link.
    nonce: Option<[u8; 32]>,
    /// True if the link's TLS connection ends at the relay itself, and the agent's proof is bound to it.
    is_bound: bool,
    /// True once the link was given up: it takes no more input.
    is_lost: bool,
    /// True once the relay was found to answer nothing on the link: its connection is then reset.
    is_silent: bool,
}

/// Result of an attempt to read a target.
pub(crate) enum Pull {
    /// Bytes of the target are queued for the relay.
    Sent,
    /// The session must wait for credit.
    NoCredit,
    /// The target ended its direction.
    End,
    /// The target's connection broke.
    Failed,
}

impl Link {
    /// Creates a link over `connection`, to be driven by [`run`].
    pub(crate) fn over(connection: &Connection) -> Self {
        Self {
            is_over_quic: connection.is_over_quic(),
            ..Self::of(connection.mux())
        }
    }

    /// Creates a link over a stream of bytes.
    #[cfg(test)]
    pub(crate) fn new() -> Self {
        Self::of(Mux::agent(
            tieline_wire::Settings::default(),
            Moment::from_micros(0),
        ))
    }

    fn of(mux: Mux) -> Self {
        let started_at = Instant::now();
        Self {
            core: Mutex::new(Core {
                mux,
                sessions: SessionMap::default(),
                buffer: ReadBuffer::default(),
                wakes_at: None,
                tunnels: Tunnels::default(),
                written: SendProgress::default(),
                asked: None,
                draining: false,
                reason: None,
                nonce: None,
                is_bound: false,
                is_lost: false,
                is_silent: false,
            }),
            transmit: Bell::default(),
            flushed: Notify::new(),
            deadline: Bell::default(),
            moved: Bell::default(),
            lost_address: Bell::default(),
            doubted: Bell::default(),
            is_over_quic: false,
            path: Mutex::default(),
            empty: Notify::new(),
            closing: watch::Sender::new(None),
            started_at,
            gauge: OnceLock::new(),
        }
    }

    /// True if the link is over QUIC.
    pub(crate) const fn is_over_quic(&self) -> bool {
        self.is_over_quic
    }

    /// Last measured round trip of the link.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        match self.path() {
            Some(path) => Some(path.rtt),
            None => self.core().mux.rtt(),
        }
    }

    /// What a link over QUIC has measured last; `None` over other transports.
    pub(crate) fn path(&self) -> Option<QuicPath> {
        *self.path.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn measured(&self, path: QuicPath) {
        *self.path.lock().unwrap_or_else(PoisonError::into_inner) = Some(path);
    }

    /// Tells the link that this machine's network has changed: over QUIC it goes on from a new local address, with all
    /// its sessions.
    pub(crate) fn network_changed(&self) {
        self.moved.ring();
    }

    /// Tells the link that an address or route of this machine has changed: over QUIC it goes on from a new local address
    /// if the present one is gone.
    pub(crate) fn may_have_lost_its_address(&self) {
        self.lost_address.ring();
    }

    /// Ready when the relay does not answer a ping soon, once for each ping; never for a link that is not over QUIC.
    pub(crate) async fn doubted(&self) {
        self.doubted.heard().await;
    }

    /// True if the link's TLS connection ends at the relay itself, and the agent's proof is bound to it.
    pub(crate) fn is_bound(&self) -> bool {
        self.core().is_bound
    }

    /// Number of sessions on the link.
    pub(crate) fn session_count(&self) -> usize {
        self.core().sessions.len()
    }

    /// Lets running sessions finish until `deadline`, then ends the link.
    ///
    /// With `reason`, first tells the relay: no new sessions, and the tunnels are given back.
    pub(crate) fn close(&self, deadline: Instant, reason: Option<LinkEnd>) {
        let mut core = self.core();
        if let Some(reason) = reason
            && !core.draining
        {
            let left = deadline
                .saturating_duration_since(Instant::now())
                .as_millis();
            let away = GoAway {
                last_session: core.mux.last_session(),
                reason,
                deadline_ms: u32::try_from(left).unwrap_or(u32::MAX),
                message: String::new(),
            };
            core.mux.go_away(&away);
            core.reason = Some(reason);
            for tunnel in core.tunnels.take_granted() {
                core.mux.unregister(&tunnel);
            }
        }
        core.draining = true;
        drop(core);
        self.transmit.ring();
        self.closing.send_if_modified(|closing| {
            let earlier = closing.is_none_or(|before| deadline < before);
            if earlier {
                *closing = Some(deadline);
            }
            earlier
        });
    }

    /// When the link ends, once it is closing.
    fn deadline_at(&self) -> Option<Instant> {
        *self.closing.borrow()
    }

    /// Asks for a target's tunnel, for the first time or again.
    pub(crate) fn register(&self, target: usize, mut register: Register) {
        let mut core = self.core();
        if core.draining {
            return;
        }
        register.request = core.tunnels.ask(target);
        core.mux.register(&register);
        drop(core);
        self.transmit.ring();
    }

    /// True once the relay's hello has come.
    pub(crate) fn is_established(&self) -> bool {
        self.core().mux.is_established()
    }

    /// Sends a ping now to check the path to the relay; returns the time of the ping for [`Link::is_silent_since`].
    /// `None` before the relay's hello, which has a time limit of its own.
    pub(crate) fn probe(&self) -> Option<Moment> {
        let now = self.now();
        let mut core = self.core();
        if !core.mux.is_established() {
            return None;
        }
        core.asked = Some(self.progress(&core));
        core.mux.probe(now);
        core.after_turn(&self.deadline);
        drop(core);
        self.transmit.ring();
        Some(now)
    }

    /// True if nothing shows that the path works since `moment`, the time of the last [`Link::probe`]: nothing but the
    /// relay's own pings has arrived, and no bytes in front of that probe's ping are on the move.
    pub(crate) fn is_silent_since(&self, moment: Moment) -> bool {
        let core = self.core();
        let is_moving = || {
            core.asked
                .is_some_and(|before| self.progress(&core).moves_since(before))
        };
        core.mux.last_heard() <= moment && !is_moving()
    }

    /// How far the link's bytes have come. Where the system does not tell, bytes that it took count as acknowledged: a
    /// full socket takes more only once the relay's system has acknowledged some.
    fn progress(&self, core: &Core) -> SendProgress {
        let Some(acked) = self.gauge.get().and_then(Gauge::read) else {
            return core.written;
        };
        SendProgress {
            waiting: acked.waiting + core.written.waiting,
            ..acked
        }
    }

    /// Reads a target and queues the bytes, up to the session's credit.
    pub(crate) fn poll_pull(
        &self,
        context: &mut Context<'_>,
        id: SessionId,
        stream: &mut OwnedReadHalf,
    ) -> Poll<Pull> {
        let mut guard = self.core();
        let core = &mut *guard;
        let credit = core.mux.send_capacity(id);
        if credit == 0 {
            return Poll::Ready(Pull::NoCredit);
        }
        let buffer = core.buffer.with_room(PULL_BYTES_MIN);
        // A read shorter than this limit tells tokio that the socket is empty, which spares a second system
        // call.
        let mut limited = (&mut *buffer).limit(credit.min(PULL_BYTES_MAX));
        let pull = match pin!(stream.read_buf(&mut limited)).poll(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) => Pull::End,
            Poll::Ready(Ok(_)) => {
                let payload = buffer.split().freeze();
                #[cfg(test)]
                tests::witness::read(stream.as_ref(), &payload);
                match core.mux.send(id, payload, false) {
                    Ok(()) => Pull::Sent,
                    // The relay has just reset the session; the abort is on its way.
                    Err(_) => Pull::NoCredit,
                }
            }
            Poll::Ready(Err(_)) => Pull::Failed,
        };
        drop(guard);
        if matches!(pull, Pull::Sent) {
            self.transmit.ring();
        }
        Poll::Ready(pull)
    }

    /// Moves the direction from a session's target to the lane, after the bytes already read; false if that
    /// direction has ended.
    pub(crate) fn move_to_lane(&self, id: SessionId) -> bool {
        let moved = self.core().mux.move_to_lane(id);
        if moved {
            self.transmit.ring();
        }
        moved
    }

    /// Counts bytes that a session's lane took.
    pub(crate) fn lane_sent(&self, id: SessionId, count: usize) {
        let now = self.now();
        let mut core = self.core();
        core.mux.lane_sent(now, id, count as u64);
        core.after_turn(&self.deadline);
    }

    /// Counts bytes that a lane brought and its target took.
    pub(crate) fn lane_received(&self, count: usize) {
        let now = self.now();
        let mut core = self.core();
        core.mux.lane_received(now, count as u64);
        core.after_turn(&self.deadline);
    }

    /// Reports the end of a session's lane after `bytes`; `None` until the link brings the byte count to compare
    /// with. [`Event::Finished`] means that the lane brought every byte.
    pub(crate) fn lane_ended(&self, id: SessionId, bytes: u64) -> Option<Event> {
        let event = self.core().mux.lane_ended(id, bytes)?;
        self.transmit.ring();
        Some(event)
    }

    /// Aborts a session and tells the relay the reason.
    pub(crate) fn reset(&self, id: SessionId, reason: SessionEnd) {
        self.change(|mux| mux.reset(id, reason));
    }

    /// Removes a session whose task ends.
    pub(crate) fn leave(&self, id: SessionId) {
        let mut core = self.core();
        core.sessions.remove(&id);
        let empty = core.sessions.is_empty();
        drop(core);
        if empty {
            self.empty.notify_waiters();
        }
    }

    /// Gives the link up, and returns what had arrived over it; `None` before the relay's hello. Afterwards the link
    /// takes no more input, even if its tasks still run.
    pub(crate) fn lost(&self) -> Option<Lost> {
        let mut core = self.core();
        core.is_lost = true;
        core.nonce.map(|nonce| core.mux.lost(nonce))
    }

    /// Notes that the relay answers nothing on the link, so that the connection is reset when the link ends. An end in
    /// order would wait behind unacknowledged bytes for the kernel's next retransmission, many seconds after the path
    /// works again.
    pub(crate) fn fell_silent(&self) {
        self.core().is_silent = true;
    }

    /// Aborts all sessions because the link is over.
    fn abort_sessions(&self) {
        let mut core = self.core();
        core.draining = true;
        let sessions: Vec<_> = core.sessions.values().cloned().collect();
        drop(core);
        for session in sessions {
            session.abort();
        }
    }

    /// Waits until no session is left.
    async fn emptied(&self) {
        let mut empty = pin!(self.empty.notified());
        loop {
            // Listens before the check, so that the last session cannot leave in between.
            empty.as_mut().enable();
            if self.core().sessions.is_empty() {
                return;
            }
            empty.as_mut().await;
            empty.set(self.empty.notified());
        }
    }

    /// Changes the mux's state, and has its frames sent.
    fn change(&self, act: impl FnOnce(&mut Mux)) {
        let mut core = self.core();
        act(&mut core.mux);
        let transmit = core.mux.wants_transmit();
        drop(core);
        if transmit {
            self.transmit.ring();
        }
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The moment of the link's own clock as one of the runtime's.
    fn at(&self, moment: Moment) -> Instant {
        self.started_at + Duration::from_micros(moment.as_micros())
    }

    fn now(&self) -> Moment {
        let micros = self.started_at.elapsed().as_micros();
        Moment::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

impl Core {
    /// Wakes the sessions that may send again, and the timer task if it would wake too late.
    fn after_turn(&mut self, deadline: &Bell) {
        while let Some(id) = self.mux.poll_writable() {
            if let Some(session) = self.sessions.get(&id) {
                session.writable.ring();
            }
        }
        if self
            .wakes_at
            .is_some_and(|wakes_at| self.mux.poll_timeout() < wakes_at)
        {
            self.wakes_at = None;
            deadline.ring();
        }
    }
}
