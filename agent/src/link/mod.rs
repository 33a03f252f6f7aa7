//! One connection to the relay: the mux behind a lock, and the sessions that live on it.
//!
//! The lock is held for state changes and system calls that cannot block, never across an await.

mod buffer;
mod dispatch;
mod driver;
pub(crate) mod stranger;
#[cfg(test)]
mod tests;
mod tunnels;

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BufMut;
use tieline_wire::{
    Event, GoAway, Granted, Lost, Moment, Mux, Reason, Refusal, Register, SessionId, SessionMap,
    Settings,
};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::buffer::ReadBuffer;
pub(crate) use self::driver::{Start, run};
use self::tunnels::Tunnels;
use crate::bell::Bell;
use crate::session::Session;

/// Most bytes that one read of a target takes.
const PULL_BYTES_MAX: usize = 64 * 1024;

/// With less than this left in the buffer, a new one is taken.
const PULL_BYTES_MIN: usize = 16 * 1024;

/// News of a link for the one who runs it; its end is the result of [`run`].
#[derive(Debug)]
pub(crate) enum News {
    /// A target's tunnel is up.
    Registered { target: usize, granted: Granted },
    /// A target gets no tunnel, or its permission no renewal.
    Refused { target: usize, refusal: Refusal },
    /// A target has its tunnel no more.
    Withdrawn { target: usize, refusal: Refusal },
    /// The relay wants this link to end.
    GoingAway(GoAway),
}

/// News that a link with so many targets can have at a time: one farewell, and for each target an
/// answer and one to a question that was asked again. Each may grant a tunnel that is taken back.
pub(crate) const fn news_max(targets: usize) -> usize {
    4 * targets + 1
}

/// One link, as its tasks and sessions see it.
#[derive(Debug)]
pub(crate) struct Link {
    core: Mutex<Core>,
    /// The mux has something to send.
    transmit: Bell,
    /// Everything that the mux had to send is with the kernel.
    flushed: Notify,
    /// A deadline moved nearer.
    deadline: Bell,
    /// The last session left.
    empty: Notify,
    /// Set once the link is to end: sessions that still run then are aborted.
    closing: watch::Sender<Option<Instant>>,
    started_at: Instant,
}

#[derive(Debug)]
struct Core {
    mux: Mux,
    sessions: SessionMap<Arc<Session>>,
    buffer: ReadBuffer,
    /// When the clock will look at the mux next.
    wakes_at: Option<Moment>,
    tunnels: Tunnels,
    /// The writer holds bytes that the kernel has not taken yet.
    sending: bool,
    /// No new sessions.
    draining: bool,
    /// What the relay names the link by.
    nonce: Option<[u8; 32]>,
    /// The link was given up: nothing that arrives is taken any more.
    is_lost: bool,
}

/// What came of an attempt to read a target.
pub(crate) enum Pull {
    /// Bytes are on their way.
    Sent,
    /// The session must wait for credit.
    NoCredit,
    /// The target finished.
    End,
    /// The target's connection broke.
    Failed,
}

/// How a lane ended, where the link has said so.
pub(crate) enum LaneEnd {
    /// In order, with every byte.
    Finished,
    /// With other bytes than were sent.
    Broken,
}

impl Link {
    /// A link that is about to be driven by [`run`].
    pub(crate) fn new() -> Self {
        let started_at = Instant::now();
        let mux = Mux::agent(Settings::default(), Moment::from_micros(0));
        Self {
            core: Mutex::new(Core {
                mux,
                sessions: SessionMap::default(),
                buffer: ReadBuffer::default(),
                wakes_at: None,
                tunnels: Tunnels::default(),
                sending: false,
                draining: false,
                nonce: None,
                is_lost: false,
            }),
            transmit: Bell::default(),
            flushed: Notify::new(),
            deadline: Bell::default(),
            empty: Notify::new(),
            closing: watch::Sender::new(None),
            started_at,
        }
    }

    /// The link's last measured round trip.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.core().mux.rtt()
    }

    /// Sessions that still have something to do.
    pub(crate) fn session_count(&self) -> usize {
        self.core().sessions.len()
    }

    /// Lets running sessions finish until `deadline`, then ends the link.
    ///
    /// With `reason`, the relay is told first: no new sessions, and no more tunnels.
    pub(crate) fn close(&self, deadline: Instant, reason: Option<Reason>) {
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

    /// Asks for a target's tunnel, for the first time or anew.
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

    /// Asks the relay now whether the path to it still works; if it stays silent, the link ends.
    pub(crate) fn probe(&self) {
        let now = self.now();
        let mut core = self.core();
        core.mux.probe(now);
        core.after_turn(&self.deadline);
        drop(core);
        self.transmit.ring();
    }

    /// Reads a target and queues what came, as far as the session has credit.
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
        // This way a read that comes back short tells tokio that the socket is empty, which spares
        // the second system call that would find that out.
        let mut limited = (&mut *buffer).limit(credit.min(PULL_BYTES_MAX));
        let pull = match pin!(stream.read_buf(&mut limited)).poll(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) => Pull::End,
            Poll::Ready(Ok(_)) => {
                let payload = buffer.split().freeze();
                #[cfg(test)]
                crate::witness::read(stream.as_ref(), &payload);
                match core.mux.send(id, payload, false) {
                    Ok(()) => Pull::Sent,
                    // The relay gave the session up just now; its abort is on the way.
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

    /// Moves the direction from a session's target to the lane, behind what was read; false if
    /// that direction is over.
    pub(crate) fn move_to_lane(&self, id: SessionId) -> bool {
        let moved = self.core().mux.move_to_lane(id);
        if moved {
            self.transmit.ring();
        }
        moved
    }

    /// A session's lane took bytes.
    pub(crate) fn lane_sent(&self, id: SessionId, count: usize) {
        self.core().mux.lane_sent(id, count as u64);
    }

    /// A lane brought bytes, and the target took them.
    pub(crate) fn lane_received(&self, count: usize) {
        let now = self.now();
        self.core().mux.lane_received(now, count as u64);
    }

    /// A session's lane brought its end behind `bytes`; `None` until the link has said what that
    /// means.
    pub(crate) fn lane_ended(&self, id: SessionId, bytes: u64) -> Option<LaneEnd> {
        let event = self.core().mux.lane_ended(id, bytes)?;
        self.transmit.ring();
        match event {
            Event::Finished { .. } => Some(LaneEnd::Finished),
            _ => Some(LaneEnd::Broken),
        }
    }

    /// The target took bytes of a session: the relay may send more.
    pub(crate) fn consumed(&self, id: SessionId, count: usize) {
        self.change(|mux| mux.consumed(id, count));
    }

    /// A session's target connection stands.
    pub(crate) fn opened(&self, id: SessionId) {
        self.change(|mux| mux.opened(id));
    }

    /// A session's target finished.
    pub(crate) fn finish(&self, id: SessionId) {
        self.change(|mux| mux.finish(id));
    }

    /// A session cannot go on.
    pub(crate) fn reset(&self, id: SessionId, reason: Reason) {
        self.change(|mux| mux.reset(id, reason));
    }

    /// A session's task ends.
    pub(crate) fn leave(&self, id: SessionId) {
        let mut core = self.core();
        core.sessions.remove(&id);
        let empty = core.sessions.is_empty();
        drop(core);
        if empty {
            self.empty.notify_waiters();
        }
    }

    /// Gives the link up, and says what had arrived over it, if the relay can make anything of that.
    /// Nothing is taken from the link afterwards, also if its tasks still run.
    pub(crate) fn lost(&self) -> Option<Lost> {
        let mut core = self.core();
        core.is_lost = true;
        core.nonce.map(|nonce| core.mux.lost(nonce))
    }

    /// Gives every session up: the link is over.
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
            // Listens before it looks, so that the last one cannot leave in between.
            empty.as_mut().enable();
            if self.core().sessions.is_empty() {
                return;
            }
            empty.as_mut().await;
            empty.set(self.empty.notified());
        }
    }

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

    fn now(&self) -> Moment {
        let micros = self.started_at.elapsed().as_micros();
        Moment::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

impl Core {
    /// Wakes the sessions that may send again, and the clock if it sleeps too long.
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
