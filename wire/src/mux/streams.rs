//! Links whose sessions have streams of their own, as over QUIC: control frames come and go on one ordered stream,
//! what a session carries on another, which may be early or late beside it.
//!
//! The driver opens the streams, moves their bytes and reports their ends; the mux keeps all state of sessions. Credit
//! stays the mux's, in `Credit` and `CreditReturn` on the control stream: it bounds what a session holds at its reader,
//! which the windows of QUIC, all of one size, cannot. There are no `Data`, `Finish` and `Reset` frames, and no lanes.
//!
//! Call order for a driver, per turn: [`Mux::handle_input`] with the bytes of the control stream; for each stream with
//! something to read [`Mux::intake`], then [`Mux::data_announced`] and [`Mux::data_received`], [`Mux::finish_received`]
//! or [`Mux::reset_received`]; last [`Mux::poll_streams`].

use bytes::Bytes;

use super::credit::HEADER;
use super::output::Output;
use super::receive::{end_direction, never_opened};
use super::sessions::Lookup;
use super::{Event, Mux};
use crate::error::Error;
use crate::frame::Header;
use crate::ids::{Moment, SessionId};
use crate::limits::DATA_BYTES_MAX;
use crate::message::Mode;
use crate::reason::{LinkEnd, SessionEnd};

/// What a driver may do with what arrived on a session's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// The session's `Open` has not arrived: everything waits.
    Unopened,
    /// The session's `Opened` has not arrived: bytes and their end wait, a reset counts.
    Unanswered,
    /// Bytes and ends count.
    Open,
    /// The session is over, or this side has reset it: everything is discarded.
    Over,
}

impl Mux {
    /// Makes this mux, before its first call, one whose sessions have streams of their own.
    #[must_use]
    pub fn over_streams(mut self) -> Self {
        self.is_over_streams = true;
        // No lane: streams do not wait for each other.
        self.settings.bulk_run_bytes = 0;
        self
    }

    /// Credit that a piece of a session costs beside its payload. On a stream of bytes a receiver sees no pieces.
    pub(super) fn piece_cost(&self, mode: Mode) -> u32 {
        match mode {
            Mode::Bytes if self.is_over_streams => 0,
            _ => HEADER,
        }
    }

    /// Form of a live session's stream; `None` for a session that is over or not open yet.
    #[must_use]
    pub fn stream_mode(&self, id: SessionId) -> Option<Mode> {
        let session = self.sessions.live(id)?;
        Some(match session.send.credit.has_pieces() {
            true => Mode::Messages,
            false => Mode::Bytes,
        })
    }

    /// What may be done with what arrived on the stream of a session.
    #[must_use]
    pub fn intake(&self, id: SessionId) -> Intake {
        match self.sessions.live(id) {
            Some(session) if session.is_resetting() => Intake::Over,
            Some(session) if self.handshake.is_relay() && !session.opened => Intake::Unanswered,
            Some(_) => Intake::Open,
            None if id.0 > self.sessions.highest() => Intake::Unopened,
            None => Intake::Over,
        }
    }

    /// Charges `len` payload bytes that are about to be read from a session's stream, in mode *messages* a whole piece,
    /// whose payload may follow in parts; `end_of_message`: the piece ends a message.
    ///
    /// # Errors
    /// The peer sent more than it had credit for, a piece that is too long, or bytes out of turn.
    pub fn data_announced(
        &mut self,
        now: Moment,
        id: SessionId,
        len: usize,
        end_of_message: bool,
    ) -> Result<(), Error> {
        self.heard_on_stream(now);
        self.timers.data(now);
        let bounded = u32::try_from(len).ok().filter(|len| *len <= DATA_BYTES_MAX);
        let Some(payload_len) = bounded else {
            let detail = format!("a piece of {len} bytes on session {id}");
            return Err(Error::peer(LinkEnd::FrameTooLong, detail));
        };
        self.data_header(Header {
            payload_len,
            session: id,
            kind: None,
            end_of_message,
        })
    }

    /// Takes payload that was charged; returns the event for it, unless the session is over by now.
    pub fn data_received(
        &mut self,
        id: SessionId,
        payload: Bytes,
        end_of_message: bool,
    ) -> Option<Event> {
        self.data(id, payload, end_of_message)
    }

    /// The peer's direction of a session ended in order, and every byte of it was taken.
    ///
    /// # Errors
    /// The session was never opened, or its end is out of turn.
    pub fn finish_received(&mut self, now: Moment, id: SessionId) -> Result<Option<Event>, Error> {
        self.heard_on_stream(now);
        let session = match self.sessions.lookup(id) {
            Lookup::Live(session) => session,
            Lookup::Ended => {
                self.counters.frames_dropped += 1;
                return Ok(None);
            }
            Lookup::NeverOpened => return Err(never_opened(id)),
        };
        let dropped = end_direction(id, session, &mut self.budget)?;
        self.forget_if_over(id);
        Ok(self.unless_dropped(dropped, Event::Finished { session: id }))
    }

    /// The peer aborted a session.
    ///
    /// # Errors
    /// The session was never opened.
    pub fn reset_received(
        &mut self,
        now: Moment,
        id: SessionId,
        reason: SessionEnd,
    ) -> Result<Option<Event>, Error> {
        self.heard_on_stream(now);
        let dropped = match self.sessions.lookup(id) {
            Lookup::Live(session) => session.is_resetting(),
            Lookup::Ended => true,
            Lookup::NeverOpened => return Err(never_opened(id)),
        };
        self.forget(id);
        Ok(self.unless_dropped(
            dropped,
            Event::Reset {
                session: id,
                reason,
            },
        ))
    }

    /// Bytes of a session prove that the peer is alive, and that it hears this side.
    fn heard_on_stream(&mut self, now: Moment) {
        self.now = now;
        self.timers.received(now);
        self.timers.heard(now);
    }

    /// Adds what is to be sent now to `out`. A session that `out` does not take waits for [`Mux::resume`].
    pub fn poll_streams(&mut self, now: Moment, out: &mut impl Output) {
        self.transmit(now, out);
    }

    /// A session that [`Output::takes`] turned away gets its turn again.
    pub fn resume(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.live_mut(id) {
            let send = &mut session.send;
            if !send.queue.is_empty() || send.end.is_some() && !send.ended {
                self.schedule.add(id, send);
            }
        }
    }
}
