//! Handle of one session, held by the task that serves its frontend.

use std::cell::{Cell, RefMut};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tieline_wire::{Event, SendError, SessionEnd, SessionId};
use tokio::sync::oneshot;

use super::inbox::InboxEnd;
use super::lanes::{Lane, LaneState};
use super::lost_report::LostLinkReport;
use super::record::SessionAudit;
use super::sink::Sink;
use super::{MuxState, SessionState, SharedMux};
use crate::io::Signal;
use crate::limits::RatePass;
use crate::metrics::Direction;

/// Largest payload that is copied while the link is blocked, in bytes. A larger one fills a good part of its block
/// anyway.
const PINNING_BYTES_MAX: usize = 32 * 1024;

/// Time for a target to finish its direction after the caller left the session in order.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(30);

/// What a session's reader gets next.
pub(crate) enum Incoming {
    /// Bytes wait in the inbox.
    Bytes,
    /// The lane carries the rest of the target's direction.
    Lane(Rc<Lane>),
    /// The target finished its direction, and everything was taken.
    Finished,
    /// The session was reset, and everything before the reset was taken.
    Reset(SessionEnd),
}

/// Outlives a [`Session`], and tells how much of it had been sent.
pub(crate) struct DeliveryStatus {
    shared: Rc<SessionState>,
    lost_report: Rc<LostLinkReport>,
    id: SessionId,
}

impl DeliveryStatus {
    /// Whether the target is known to have received no byte of the session.
    pub(crate) fn is_not_sent(&self) -> bool {
        self.shared.is_not_sent.get()
    }

    /// Receives the number of payload bytes that had reached the agent when the link was lost; `None` if a report of
    /// the agent could add nothing.
    pub(crate) fn report_of_agent(&self) -> Option<oneshot::Receiver<u64>> {
        let is_unclear = self.shared.is_unclear.get();
        is_unclear.then(|| self.lost_report.of(self.id))
    }
}

/// One session, held by the task that serves its frontend. Dropping it before its end resets it.
pub(crate) struct Session {
    link: Rc<SharedMux>,
    id: SessionId,
    shared: Rc<SessionState>,
    /// Whether the agent has nothing more to be told.
    done: Cell<bool>,
    /// Whether the direction towards the target ended in order.
    finished: Cell<bool>,
}

impl Session {
    pub(super) fn new(link: Rc<SharedMux>, id: SessionId, shared: Rc<SessionState>) -> Self {
        Self {
            link,
            id,
            shared,
            done: Cell::new(false),
            finished: Cell::new(false),
        }
    }

    /// Lets arriving payload go straight to `stream` while the inbox is empty.
    pub(crate) fn deliver_to(&self, stream: Rc<dyn Sink>) {
        self.shared.inbox.borrow_mut().sink = Some(stream);
    }

    /// Ready with the number of payload bytes that may be sent now.
    pub(crate) fn poll_capacity(&self, cx: &mut Context<'_>) -> Poll<Result<usize, SessionEnd>> {
        poll_until(&self.shared.writable, cx, || {
            if let Some(reason) = self.reset_reason() {
                return Some(Err(reason));
            }
            if self.shared.is_held_back() {
                return None;
            }
            let capacity = self.link.state.borrow_mut().mux.send_capacity(self.id);
            (capacity > 0).then_some(Ok(capacity))
        })
    }

    /// Sends payload, at most as much as [`Session::poll_capacity`] returned. `ended_message`: the payload is the end
    /// of a message, or an empty message.
    ///
    /// # Errors
    /// Reason of the session's reset.
    pub(crate) fn send(&self, payload: Bytes, ended_message: bool) -> Result<(), SessionEnd> {
        let len = payload.len();
        // Payload that may wait for long must not pin the block that it was read into.
        let payload = if self.link.carrier.keeps_payload() && len <= PINNING_BYTES_MAX {
            Bytes::copy_from_slice(&payload)
        } else {
            payload
        };
        let sent = self
            .link
            .state
            .borrow_mut()
            .mux
            .send(self.id, payload, ended_message);
        match sent {
            Ok(()) => {
                self.link.metrics.bytes_moved(Direction::ToTarget, len);
                self.shared.hold.record.moved(Direction::ToTarget, len);
                self.link.writer.raise();
                Ok(())
            }
            Err(SendError::Closed) => Err(self.reset_reason().unwrap_or(SessionEnd::LinkLost)),
            Err(SendError::Short) => Err(SessionEnd::Internal),
        }
    }

    /// A handle that tells, even after the session's end, how much of the session had been sent.
    pub(crate) fn delivery(&self) -> DeliveryStatus {
        DeliveryStatus {
            shared: Rc::clone(&self.shared),
            lost_report: Rc::clone(self.link.lost_report()),
            id: self.id,
        }
    }

    fn reset_reason(&self) -> Option<SessionEnd> {
        match self.shared.inbox.borrow().end {
            Some(InboxEnd::Reset(reason)) => Some(reason),
            _ => None,
        }
    }

    /// Finishes the direction towards the target.
    pub(crate) fn finish(&self) {
        self.finished.set(true);
        self.link.with_mux(|mux| mux.finish(self.id));
    }

    /// Ends the session in order: finishes our direction now, and gives the target [`LEAVE_TIMEOUT`] to finish its own.
    pub(crate) fn leave(&self) {
        if let Some(mut state) = self.detach() {
            state.mux.finish(self.id);
            // If the target's direction is over, our finish ends the session.
            if self.shared.inbox.borrow().end.is_none() {
                let deadline = self.link.clock.now() + LEAVE_TIMEOUT;
                state.abandoned.push_back((self.id, deadline));
            }
            self.link.writer.raise();
        }
    }

    /// Resets the session.
    pub(crate) fn reset(&self, reason: SessionEnd) {
        // If the target's direction is over, a finish of ours completes the session. A session that broke off must not
        // look complete.
        let broke_off = match reason {
            SessionEnd::FrontendReset | SessionEnd::LaneLost => true,
            // A session whose directions are both over is dropped with this reason, perhaps before its finish was sent.
            SessionEnd::FrontendGone => !self.finished.get(),
            _ => false,
        };
        if !broke_off && self.shared.inbox.borrow().is_drained_to_the_end() {
            return self.leave();
        }
        if let Some(mut state) = self.detach() {
            state.mux.reset(self.id, reason);
            // A session that was reset already is counted.
            if self.reset_reason().is_none() {
                self.link.metrics.session_reset(reason);
            }
            self.link.writer.raise();
        }
    }

    /// Takes the session off its link, once; returns the link's state if the agent must still be told.
    fn detach(&self) -> Option<RefMut<'_, MuxState>> {
        if self.done.replace(true) {
            return None;
        }
        let mut state = self.link.state.borrow_mut();
        state.sessions.remove(&self.id);
        state.mux.is_live(self.id).then_some(state)
    }

    /// Ready once bytes wait, or an end does. An end comes after the last byte was taken.
    pub(crate) fn poll_incoming(&self, cx: &mut Context<'_>) -> Poll<Incoming> {
        poll_until(&self.shared.readable, cx, || {
            let inbox = self.shared.inbox.borrow();
            if !inbox.queue.is_empty() {
                return Some(Incoming::Bytes);
            }
            if inbox.moved
                && let Some(lane) = self.unread_lane()
            {
                return Some(Incoming::Lane(lane));
            }
            Some(match inbox.end? {
                InboxEnd::Finished => Incoming::Finished,
                InboxEnd::Reset(reason) => Incoming::Reset(reason),
            })
        })
    }

    #[cfg(test)]
    pub(super) const fn shared(&self) -> &Rc<SessionState> {
        &self.shared
    }

    /// Asks for a lane, to be offered once the session turns bulky.
    pub(crate) fn want_lane(&self) {
        *self.shared.lane.borrow_mut() = LaneState::Wanted;
    }

    /// The session's lane, once the agent has dialled it.
    pub(crate) fn lane(&self) -> Option<Rc<Lane>> {
        match &*self.shared.lane.borrow() {
            LaneState::Taken(lane) => Some(Rc::clone(lane)),
            LaneState::Unwanted | LaneState::Wanted => None,
        }
    }

    /// The session's lane, if no task has begun to move the lane's bytes to the frontend.
    fn unread_lane(&self) -> Option<Rc<Lane>> {
        let lane = self.lane()?;
        let pipe = lane.down.take()?;
        lane.down.set(Some(pipe));
        Some(lane)
    }

    /// Moves the direction towards the target to the lane, behind the payload that was sent; false if the direction is
    /// over.
    pub(crate) fn move_to_lane(&self) -> bool {
        self.link.with_mux(|mux| mux.move_to_lane(self.id))
    }

    /// Counts bytes that the lane's socket took towards the target.
    pub(crate) fn lane_sent(&self, count: usize) {
        self.link
            .metrics
            .lane_bytes_moved(Direction::ToTarget, count);
        self.shared.hold.record.moved(Direction::ToTarget, count);
        let now = self.link.clock.now();
        let mut state = self.link.state.borrow_mut();
        state.mux.lane_sent(now, self.id, count as u64);
        self.link.watch_if_asking(&state.mux);
    }

    /// Counts bytes from the lane that the frontend took.
    pub(crate) fn lane_received(&self, count: usize) {
        self.link
            .metrics
            .lane_bytes_moved(Direction::ToFrontend, count);
        self.shared.hold.record.moved(Direction::ToFrontend, count);
        let now = self.link.clock.now();
        let mut state = self.link.state.borrow_mut();
        state.mux.lane_received(now, count as u64);
        self.link.watch_if_asking(&state.mux);
    }

    /// Notes that the lane ended after `bytes`. [`Session::poll_incoming`] returns the end once the link has said what
    /// it means.
    pub(crate) fn lane_ended(&self, bytes: u64) {
        let event = self.link.with_mux(|mux| mux.lane_ended(self.id, bytes));
        let end = match event {
            Some(Event::Finished { .. }) => InboxEnd::Finished,
            Some(Event::Reset { reason, .. }) => {
                self.link.metrics.session_reset(reason);
                InboxEnd::Reset(reason)
            }
            _ => return,
        };
        self.shared.end(end, &self.link.metrics);
    }

    /// Waits until the target's connection stands, while no payload is to be sent before that.
    ///
    /// # Errors
    /// Reason of the session's reset.
    pub(crate) async fn until_opened(&self) -> Result<(), SessionEnd> {
        poll_fn(|cx| {
            poll_until(&self.shared.writable, cx, || match self.reset_reason() {
                Some(reason) => Some(Err(reason)),
                None => self.shared.is_opened.get().then_some(Ok(())),
            })
        })
        .await
    }

    /// Takes the rate-limit pass off the session, so that the session of the next try can use it.
    pub(crate) fn take_pass(&self) -> RatePass {
        self.shared.hold.record.pass.take()
    }

    /// Counts the payload from now on with `pass`.
    pub(crate) fn set_pass(&self, pass: RatePass) {
        self.shared.hold.record.pass.replace(pass);
    }

    /// Has `audit` record the end of a session that served HTTP requests so far, without the bytes of those requests.
    /// The target's last `ahead` bytes count for the record: they followed the answer that switched protocols.
    pub(crate) fn note_end(&self, mut audit: Box<SessionAudit>, ahead: usize) {
        let record = &self.shared.hold.record;
        let (to_target, to_frontend) = record.bytes();
        audit.before = (to_target, to_frontend.saturating_sub(ahead as u64));
        // A session that is in the audit log from its beginning keeps that record, so its end is not recorded twice.
        let _ = record.audit.set(audit);
    }

    /// Waits until the session is reset, for a task that does not wait for [`Session::poll_incoming`].
    pub(crate) async fn reset_by_agent(&self) -> SessionEnd {
        self.reset_raising(&self.shared.readable).await
    }

    /// Waits until the session is reset, for a task that does not wait for [`Session::poll_capacity`].
    pub(crate) async fn stopped(&self) -> SessionEnd {
        self.reset_raising(&self.shared.writable).await
    }

    /// Waits for a reset, which raises `signal`.
    async fn reset_raising(&self, signal: &Signal) -> SessionEnd {
        poll_fn(|cx| poll_until(signal, cx, || self.reset_reason())).await
    }

    /// Shows the waiting bytes to `take`, which returns how many it took; the sender gets credit for as many.
    pub(crate) fn take<E>(&self, take: impl FnOnce(&[u8]) -> Result<usize, E>) -> Result<usize, E> {
        let mut inbox = self.shared.inbox.borrow_mut();
        let taken = take(inbox.queue.front())?;
        inbox.advance(taken);
        drop(inbox);
        if taken > 0 {
            let mut state = self.link.state.borrow_mut();
            state.mux.consumed(self.id, taken);
            if state.mux.wants_transmit() {
                self.link.writer.raise();
            }
        }
        Ok(taken)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reset(SessionEnd::FrontendGone);
    }
}

/// Ready once `look` finds something, which it is asked whenever `signal` is raised.
fn poll_until<T>(signal: &Signal, cx: &mut Context<'_>, look: impl Fn() -> Option<T>) -> Poll<T> {
    loop {
        if let Some(found) = look() {
            return Poll::Ready(found);
        }
        ready!(signal.poll_wait(cx));
    }
}
