//! Bulk lanes: a session that moves many bytes may continue on a connection of its own. [`Run`] detects
//! such a session; the other types hold the state of a direction that moves to a lane.
//!
//! A lane carries only payload bytes. The link says what they mean: `Bulk` at which byte a direction
//! moved to the lane, `Finish` how many bytes the direction has in all, `Reset` that it broke off. So
//! the end of a lane ends the session only once the link has said so.

use bytes::Bytes;

use super::receive::never_opened;
use super::sessions::{Lookup, SendHalf};
use super::{Event, Mux};
use crate::error::Error;
use crate::frame::Kind;
use crate::ids::{Moment, SessionId};
use crate::limits::{BULK_PIECE_BYTES_MIN, DATA_BYTES_SENT_MAX};
use crate::message::{Bulk, BulkNonce, BulkOffer, Decode};
use crate::reason::{LinkEnd, SessionEnd};

/// Consecutive large pieces of one direction.
#[derive(Debug, Default)]
pub(super) struct Run {
    bytes: u64,
    /// The last piece was as long as the longest frame: the next piece may be its rest.
    full: bool,
}

impl Run {
    /// Adds a piece; true while the run is at least `enough` bytes long.
    pub(super) fn add(&mut self, len: usize, enough: u64) -> bool {
        if self.full || len >= BULK_PIECE_BYTES_MIN {
            self.bytes += len as u64;
        } else {
            self.bytes = 0;
        }
        self.full = len == DATA_BYTES_SENT_MAX;
        enough > 0 && self.bytes >= enough
    }
}

/// The path of the direction to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendLane {
    /// In frames on the link.
    Link,
    /// `Bulk` waits behind the queued bytes; carries the payload bytes before it.
    Marked(u64),
    /// On the lane.
    Moved,
}

/// State of the peer's direction once it is on a lane.
#[derive(Debug, Default)]
pub(super) struct RecvLane {
    /// Bytes that the lane had carried when it ended.
    ended: Option<u64>,
    /// Bytes of the whole direction, from the peer's `Finish`.
    finished: Option<u64>,
}

impl Mux {
    /// Relay: offers a lane for a session. No effect at an agent, which must not offer lanes, and over streams.
    pub fn offer_bulk(&mut self, id: SessionId, nonce: &BulkNonce) {
        if self.handshake.is_relay() && self.is_live(id) && !self.is_over_streams {
            self.push_optional(Kind::BulkOffer, id, &BulkOffer(nonce));
        }
    }

    /// A session whose last pieces were all large, in either direction; each is returned once.
    pub fn poll_bulky(&mut self) -> Option<SessionId> {
        while let Some(id) = self.bulky.pop_front() {
            if self.is_live(id) {
                return Some(id);
            }
        }
        None
    }

    /// Moves the direction to the peer to the session's lane, behind the queued bytes: from now on the
    /// driver writes to the lane itself. False if the direction is over, moved already, or not open yet.
    pub fn move_to_lane(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.live_mut(id) else {
            return false;
        };
        let send = &mut session.send;
        let is_movable = send.end.is_none() && send.lane == SendLane::Link && send.may_start;
        if !is_movable || self.is_over_streams {
            return false;
        }
        send.lane = SendLane::Marked(send.bytes_total);
        self.schedule.add(id, send);
        true
    }

    /// Counts bytes that the lane took, for the total in `Finish`. Like data on the link, they are followed by a ping
    /// over the link, which shares their path.
    pub fn lane_sent(&mut self, now: Moment, id: SessionId, bytes: u64) {
        self.timers.asked(now);
        if let Some(session) = self.sessions.live_mut(id) {
            session.send.bytes_total += bytes;
        }
        self.counters.bytes_sent += bytes;
    }

    /// Counts bytes that arrived on a lane: like data on the link, they show that the peer is alive, and silence behind
    /// them is probed.
    pub fn lane_received(&mut self, now: Moment, bytes: u64) {
        self.timers.received(now);
        self.timers.heard(now);
        self.timers.data(now);
        self.counters.bytes_received += bytes;
    }

    /// The lane ended after `bytes` bytes. Returns the session's event now, or `None` until the link has
    /// said what the end means.
    pub fn lane_ended(&mut self, id: SessionId, bytes: u64) -> Option<Event> {
        let session = self.sessions.live_mut(id)?;
        if session.is_resetting() {
            return None;
        }
        session.recv.lane.as_mut()?.ended = Some(bytes);
        self.settle_lane(id)
    }

    /// The event of a direction whose lane has ended and whose `Finish` has arrived.
    fn settle_lane(&mut self, id: SessionId) -> Option<Event> {
        let recv = &mut self.sessions.live_mut(id)?.recv;
        let lane = recv.lane.as_ref()?;
        let (ended, finished) = (lane.ended?, lane.finished?);
        if recv.bytes_total.checked_add(ended) == Some(finished) {
            recv.ended = true;
            self.forget_if_over(id);
            return Some(Event::Finished { session: id });
        }
        // A FIN made the broken lane look complete; the link is sound.
        let reason = SessionEnd::LengthMismatch;
        self.reset(id, reason);
        Some(Event::Reset {
            session: id,
            reason,
        })
    }

    /// The peer's direction of a session continues on its lane.
    pub(super) fn bulk_received(
        &mut self,
        id: SessionId,
        payload: &Bytes,
    ) -> Result<Option<Event>, Error> {
        let sent = Bulk::decode(payload)?.bytes_total;
        let relay = self.handshake.is_relay();
        let session = match self.sessions.lookup(id) {
            Lookup::Live(session) => session,
            Lookup::NeverOpened => return Err(never_opened(id)),
            Lookup::Ended => {
                self.counters.frames_dropped += 1;
                return Ok(None);
            }
        };
        let dropped = session.is_resetting();
        let recv = &mut session.recv;
        // A missing `Opened` is not an error during a reset: it may have crossed the reset and been dropped.
        let out_of_turn = recv.ended || recv.lane.is_some() || relay && !session.opened;
        if out_of_turn && !dropped {
            return Err(Error::peer(
                LinkEnd::Protocol,
                format!("session {id} moved to a lane out of turn"),
            ));
        }
        if sent != recv.bytes_total {
            return Err(Error::peer(
                LinkEnd::LengthMismatch,
                format!(
                    "session {id}: {sent} bytes sent, {} received",
                    recv.bytes_total
                ),
            ));
        }
        recv.lane = Some(RecvLane::default());
        recv.credit.settle(&mut self.budget);
        if dropped {
            // Recorded despite the reset: the peer's `Finish` will count the bytes of the lane.
            self.counters.frames_dropped += 1;
            return Ok(None);
        }
        Ok(Some(Event::Bulk { session: id }))
    }

    /// The peer's `Finish` of a direction that is on a lane.
    pub(super) fn lane_finished(
        &mut self,
        id: SessionId,
        bytes_total: u64,
    ) -> Result<Option<Event>, Error> {
        if !self.takes_frames(id)? {
            return Ok(None);
        }
        let session = self.sessions.live_mut(id);
        let lane = session.and_then(|session| session.recv.lane.as_mut());
        if lane.is_some_and(|lane| lane.finished.replace(bytes_total).is_some()) {
            return Err(Error::peer(
                LinkEnd::Protocol,
                format!("session {id} ended twice"),
            ));
        }
        Ok(self.settle_lane(id))
    }

    /// Agent: the relay offers a lane.
    pub(super) fn offer_received(
        &mut self,
        id: SessionId,
        payload: &Bytes,
    ) -> Result<Option<Event>, Error> {
        let nonce = BulkNonce::decode(payload)?;
        let live = self.takes_frames(id)?;
        Ok(live.then_some(Event::BulkOffer { session: id, nonce }))
    }

    /// True if a frame may still act on its session; counts the frame as dropped otherwise.
    fn takes_frames(&mut self, id: SessionId) -> Result<bool, Error> {
        match self.sessions.lookup(id) {
            Lookup::Live(session) if !session.is_resetting() => Ok(true),
            Lookup::NeverOpened => Err(never_opened(id)),
            _ => {
                self.counters.frames_dropped += 1;
                Ok(false)
            }
        }
    }
}

impl SendHalf {
    /// Takes the marker that is due now; returns the payload bytes before it.
    pub(super) fn take_marker(&mut self) -> Option<u64> {
        let SendLane::Marked(bytes) = self.lane else {
            return None;
        };
        // The marker also goes in front of a reset: the peer reads the lane up to its end.
        self.lane = SendLane::Moved;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENOUGH: u64 = 256 * 1024;

    fn pieces_until_bulky(pieces: impl Iterator<Item = usize>) -> Option<usize> {
        let mut run = Run::default();
        pieces.take(100_000).position(|len| run.add(len, ENOUGH))
    }

    #[test]
    fn a_run_of_large_pieces_is_bulky_and_a_long_chat_never_is() {
        assert_eq!(pieces_until_bulky(std::iter::repeat(32 * 1024)), Some(7));
        assert_eq!(pieces_until_bulky(std::iter::repeat(1024)), None);
        let chat = [20 * 1024, 300].into_iter().cycle();
        assert_eq!(pieces_until_bulky(chat), None);
    }

    #[test]
    fn the_rest_of_a_large_read_does_not_end_a_run() {
        // Reads of 40 KiB, cut into frames.
        let frames = [32 * 1024, 8 * 1024].into_iter().cycle();
        assert_eq!(pieces_until_bulky(frames), Some(12));
    }

    #[test]
    fn without_a_threshold_no_run_asks_for_a_lane() {
        let mut run = Run::default();
        assert!((0..1000).all(|_| !run.add(64 * 1024, 0)));
    }
}
