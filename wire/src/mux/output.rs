//! [`Mux::poll_transmit`]: which bytes a driver sends next. First control frames, then a pong and grants, then
//! the frames of the sessions in turn.

use super::credit::Growth;
use super::schedule::{self, Next};
use super::sessions::{Chunk, End};
use super::{LINK, Mux, Transmit};
use crate::frame::{self, Kind};
use crate::generated as structs;
use crate::ids::{Moment, SessionId};
use crate::message::Bulk;

/// Capacity for control frames that is kept while none wait, in bytes.
const CONTROL_BYTES_KEPT: usize = 64 * 1024;

impl Mux {
    /// Adds the frames to send now to `out`; true if `out` has bytes to send.
    pub fn poll_transmit(&mut self, now: Moment, out: &mut Transmit) -> bool {
        self.now = now;
        if self.handshake.is_silent() {
            return !out.is_empty();
        }
        if !self.control.is_empty() {
            out.push_inline(&self.control);
            self.control.clear();
            self.control.shrink_to(CONTROL_BYTES_KEPT);
            if std::mem::take(&mut self.asks) {
                self.timers.asked(now);
            }
        }
        if let Some(stamp) = self.pong.take() {
            out.push_inline(&frame::encode(Kind::Pong, LINK, 8, false));
            out.push_inline(&structs::Pong::new(stamp).0);
        }
        while let Some(id) = self.due.pop_front() {
            self.transmit_grant(id, out);
        }
        while !out.is_full() {
            let Some(id) = self.schedule.front() else {
                break;
            };
            self.transmit_session(id, out);
        }
        !out.is_empty()
    }

    /// True if [`Mux::poll_transmit`] has something to add.
    #[must_use]
    pub fn wants_transmit(&self) -> bool {
        let empty = self.control.is_empty()
            && self.pong.is_none()
            && self.due.is_empty()
            && self.schedule.is_empty();
        !empty && !self.handshake.is_silent()
    }

    fn transmit_grant(&mut self, id: SessionId, out: &mut Transmit) {
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
            out.push_inline(&frame::encode(Kind::Credit, id, 4, false));
            out.push_inline(&structs::Credit::new(grant).0);
        }
    }

    fn transmit_session(&mut self, id: SessionId, out: &mut Transmit) {
        let Some(session) = self.sessions.live_mut(id) else {
            self.schedule.drop_front();
            return;
        };
        match schedule::next(&mut session.send) {
            Next::Data(chunk) => {
                self.budget.dequeue(chunk.cost());
                let Chunk {
                    payload,
                    end_of_message,
                } = chunk;
                let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                out.push_inline(&frame::encode(Kind::Data, id, len, end_of_message));
                self.counters.bytes_sent += u64::from(len);
                out.push_payload(payload);
                self.timers.asked(self.now);
                self.wake_if_writable(id);
            }
            Next::Bulk(bytes_total) => {
                let payload = self.encoder.encode(&Bulk { bytes_total });
                let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                out.push_inline(&frame::encode(Kind::Bulk, id, len, false));
                out.push_inline(payload);
                self.timers.asked(self.now);
            }
            Next::Yield => self.schedule.rotate(),
            Next::Idle => self.schedule.drop_front(),
            Next::End(End::Finish) => {
                out.push_inline(&frame::encode(Kind::Finish, id, 8, false));
                out.push_inline(&structs::Finish::new(session.send.bytes_total).0);
                self.timers.asked(self.now);
                self.forget_if_over(id);
            }
            Next::End(End::Reset(reason)) => {
                out.push_inline(&frame::encode(Kind::Reset, id, 2, false));
                out.push_inline(&structs::Reset::new(reason.code()).0);
                self.timers.asked(self.now);
                self.forget_if_over(id);
            }
        }
    }
}
