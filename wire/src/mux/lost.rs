//! Report of a lost link: how much of each session had arrived. The relay may send the rest again, since an
//! agent that sends this report no longer uses the lost link.

use bytes::Bytes;

use super::{Event, LINK, Mux};
use crate::error::Error;
use crate::frame::Kind;
use crate::ids::SessionId;
use crate::limits::LOST_SESSIONS_MAX;
use crate::message::{Decode, Lost};

impl Mux {
    /// Agent: report of this link, on which the relay had shown `nonce`. Valid only once the mux gets no
    /// more input.
    #[must_use]
    pub fn lost(&self, nonce: [u8; 32]) -> Lost {
        // A frame's payload counts once its header has arrived. The mux does not know the bytes of lanes.
        let framed = self.sessions.iter().filter(|it| it.1.recv.lane.is_none());
        let mut sessions: Vec<_> = framed.map(|it| (it.0, it.1.recv.bytes_total)).collect();
        sessions.sort_unstable();
        let surplus = sessions.len().saturating_sub(LOST_SESSIONS_MAX);
        sessions.drain(..surplus);
        Lost {
            nonce,
            last_session: SessionId(self.last_session()),
            sessions,
        }
    }

    /// Agent: reports an earlier link of the same run; call it after the hello and before the first
    /// registration.
    pub fn tell_lost(&mut self, lost: &Lost) {
        self.push_optional(Kind::Lost, LINK, lost);
    }

    pub(super) fn lost_received(&mut self, payload: &Bytes) -> Result<Option<Event>, Error> {
        let Some(left) = self.lost_left.checked_sub(1) else {
            self.counters.optional_frames_dropped += 1;
            return Ok(None);
        };
        self.lost_left = left;
        Ok(Some(Event::Lost(Lost::decode(payload)?)))
    }

    /// True if all bytes sent on a session are known to have reached the peer: a ping sent after them
    /// was answered. False may also mean that this is not known, as over streams: there a ping may overtake bytes.
    #[must_use]
    pub fn has_arrived(&self, id: SessionId) -> bool {
        let live = self.sessions.live(id).filter(|_| !self.is_over_streams);
        live.is_some_and(|session| {
            let send = &session.send;
            send.queue.is_empty() && self.timers.has_arrived(send.credit.active_at())
        })
    }
}
