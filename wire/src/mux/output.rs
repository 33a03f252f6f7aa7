//! [`Mux::poll_transmit`]: which bytes a driver sends next. First control frames, then a pong and grants, then
//! the frames of the sessions in turn.
//!
//! What a session sends goes to an [`Output`]: into frames behind the control frames, or onto streams of its own.

use bytes::Bytes;

use super::credit::Growth;
use super::schedule::{self, Next};
use super::sessions::{Chunk, End};
use super::{LINK, Mux, Transmit};
use crate::frame::{self, Kind};
use crate::generated as structs;
use crate::ids::{Moment, SessionId};
use crate::message::Bulk;
use crate::reason::SessionEnd;

/// Capacity for control frames that is kept while none wait, in bytes.
const CONTROL_BYTES_KEPT: usize = 64 * 1024;

/// Where a mux puts what it has to send, in the order of the calls.
pub trait Output {
    /// True if control frames may be added now; otherwise they wait in the mux.
    fn takes_control(&self) -> bool;

    /// True if nothing more of any session should be added now.
    fn is_full(&self) -> bool;

    /// True if bytes and ends of this session may be added now; otherwise the session waits for [`Mux::resume`].
    fn takes(&self, session: SessionId) -> bool;

    /// Adds bytes of control frames.
    fn control(&mut self, bytes: &[u8]);

    /// Adds payload; empty only if it ends a message.
    fn data(&mut self, session: SessionId, payload: Bytes, end_of_message: bool);

    /// Ends the session's direction in order, after `bytes_total` payload bytes.
    fn finish(&mut self, session: SessionId, bytes_total: u64);

    /// Aborts the session, behind the payload that was added.
    fn reset(&mut self, session: SessionId, reason: SessionEnd);
}

/// Frames, all on one stream of bytes.
impl Output for Transmit {
    #[inline]
    fn takes_control(&self) -> bool {
        true
    }

    #[inline]
    fn is_full(&self) -> bool {
        self.has_enough()
    }

    #[inline]
    fn takes(&self, _: SessionId) -> bool {
        true
    }

    #[inline]
    fn control(&mut self, bytes: &[u8]) {
        self.push_inline(bytes);
    }

    #[inline]
    fn data(&mut self, session: SessionId, payload: Bytes, end_of_message: bool) {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.push_inline(&frame::encode(Kind::Data, session, len, end_of_message));
        self.push_payload(payload);
    }

    #[inline]
    fn finish(&mut self, session: SessionId, bytes_total: u64) {
        self.push_inline(&frame::encode(Kind::Finish, session, 8, false));
        self.push_inline(&structs::Finish::new(bytes_total).0);
    }

    #[inline]
    fn reset(&mut self, session: SessionId, reason: SessionEnd) {
        self.push_inline(&frame::encode(Kind::Reset, session, 2, false));
        self.push_inline(&structs::Reset::new(reason.code()).0);
    }
}

impl Mux {
    /// Adds the frames to send now to `out`; true if `out` has bytes to send. Not for a mux over streams, which has
    /// [`Mux::poll_streams`].
    pub fn poll_transmit(&mut self, now: Moment, out: &mut Transmit) -> bool {
        self.transmit(now, out);
        !out.is_empty()
    }

    /// Adds what is to be sent now to `out`.
    pub(super) fn transmit(&mut self, now: Moment, out: &mut impl Output) {
        self.now = now;
        if self.handshake.is_silent() {
            return;
        }
        if out.takes_control() {
            self.transmit_control(now, out);
        }
        while !out.is_full() {
            let Some(id) = self.schedule.front() else {
                break;
            };
            self.transmit_session(id, out);
        }
    }

    #[inline]
    fn transmit_control(&mut self, now: Moment, out: &mut impl Output) {
        if !self.control.is_empty() {
            out.control(&self.control);
            self.control.clear();
            self.control.shrink_to(CONTROL_BYTES_KEPT);
            if std::mem::take(&mut self.asks) {
                self.timers.asked(now);
            }
        }
        if let Some(stamp) = self.pong.take() {
            out.control(&frame::encode(Kind::Pong, LINK, 8, false));
            out.control(&structs::Pong::new(stamp).0);
        }
        while let Some(id) = self.due.pop_front() {
            self.transmit_grant(id, out);
        }
    }

    /// True if [`Mux::poll_transmit`] has something to add, or [`Mux::poll_streams`].
    #[must_use]
    pub fn wants_transmit(&self) -> bool {
        let empty = self.control.is_empty()
            && self.pong.is_none()
            && self.due.is_empty()
            && self.schedule.is_empty();
        !empty && !self.handshake.is_silent()
    }

    fn transmit_grant(&mut self, id: SessionId, out: &mut impl Output) {
        let Some(session) = self.sessions.live_mut(id) else {
            return;
        };
        session.recv.listed_due = false;
        if session.recv.ended || session.recv.lane.is_some() || session.is_resetting() {
            return;
        }
        let grant = session.recv.credit.grant(Growth {
            budget: &mut self.budget,
            rtt: self.timers.rtt().unwrap_or_default(),
            now: self.now,
        });
        if grant > 0 {
            out.control(&frame::encode(Kind::Credit, id, 4, false));
            out.control(&structs::Credit::new(grant).0);
        }
    }

    fn transmit_session(&mut self, id: SessionId, out: &mut impl Output) {
        let Some(session) = self.sessions.live_mut(id) else {
            self.schedule.drop_front();
            return;
        };
        if !out.takes(id) {
            session.send.scheduled = false;
            self.schedule.drop_front();
            return;
        }
        match schedule::next(&mut session.send) {
            Next::Data(chunk) => {
                self.budget.dequeue(chunk.cost());
                let Chunk {
                    payload,
                    end_of_message,
                } = chunk;
                self.counters.bytes_sent += payload.len() as u64;
                out.data(id, payload, end_of_message);
                self.timers.asked(self.now);
                self.wake_if_writable(id);
            }
            Next::Bulk(bytes_total) => {
                let payload = self.encoder.encode(&Bulk { bytes_total });
                let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                out.control(&frame::encode(Kind::Bulk, id, len, false));
                out.control(payload);
                self.timers.asked(self.now);
            }
            Next::Yield => self.schedule.rotate(),
            Next::Idle => self.schedule.drop_front(),
            Next::End(End::Finish) => {
                out.finish(id, session.send.bytes_total);
                self.timers.asked(self.now);
                self.forget_if_over(id);
            }
            Next::End(End::Reset(reason)) => {
                out.reset(id, reason);
                self.timers.asked(self.now);
                self.forget_if_over(id);
            }
        }
    }
}
