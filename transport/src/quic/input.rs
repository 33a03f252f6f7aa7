//! What arrived on a session's stream, cut into payload.
//!
//! The relay's direction begins with one byte, the stream's type. Then, in mode *bytes*, everything is payload. In mode
//! *messages* payload comes in pieces: a varint of twice the piece's length, plus one if the piece ends a message, and
//! the piece.

use bytes::{Buf, Bytes};
use tieline_wire::{Error, Event, LinkEnd, Mode, Moment, Mux, SessionId, limits};

use super::ends::peer;
use super::varint::Varint;

/// Type of a session's stream: the first byte of the relay's direction. It makes the stream known to an agent whose
/// target speaks first.
pub const SESSION_STREAM: u8 = 0;

/// Position in the peer's direction of a session's stream.
#[derive(Debug)]
pub struct SessionInput {
    awaits_type: bool,
    /// Number in front of a piece.
    header: Varint,
    /// Bytes of the piece that are still to come, and whether it ends a message.
    piece: Option<(usize, bool)>,
}

impl SessionInput {
    /// The beginning of the relay's direction.
    #[must_use]
    pub fn of_relay() -> Self {
        Self {
            awaits_type: true,
            ..Self::of_agent()
        }
    }

    /// The beginning of the agent's direction.
    #[must_use]
    pub fn of_agent() -> Self {
        Self {
            awaits_type: false,
            header: Varint::default(),
            piece: None,
        }
    }

    /// True where the direction may end in order: behind its type, and not within a piece.
    #[must_use]
    pub fn may_end(&self) -> bool {
        !self.awaits_type && self.header.is_empty() && self.piece.is_none()
    }

    /// Takes the next event off `chunk`, which came on the stream of `id`; `None` when `chunk` is used up. Bytes of a
    /// session that is over are dropped.
    ///
    /// # Errors
    /// The peer broke a rule, and the link must be closed.
    pub fn next(
        &mut self,
        now: Moment,
        id: SessionId,
        chunk: &mut Bytes,
        mux: &mut Mux,
    ) -> Result<Option<Event>, Error> {
        while !chunk.is_empty() {
            if self.awaits_type {
                self.stream_type(id, chunk)?;
                continue;
            }
            let event = match mux.stream_mode(id) {
                Some(Mode::Bytes) => {
                    let most = chunk.len().min(limits::DATA_BYTES_MAX as usize);
                    let payload = chunk.split_to(most);
                    mux.data_announced(now, id, payload.len(), false)?;
                    mux.data_received(id, payload, false)
                }
                Some(Mode::Messages) => self.piece(now, id, chunk, mux)?,
                None => {
                    chunk.clear();
                    None
                }
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    fn stream_type(&mut self, id: SessionId, chunk: &mut Bytes) -> Result<(), Error> {
        let byte = chunk.get_u8();
        if byte != SESSION_STREAM {
            let detail = format!("stream of session {id} with type {byte}");
            return Err(peer(LinkEnd::Protocol, detail));
        }
        self.awaits_type = false;
        Ok(())
    }

    /// Takes a piece's number, or a part of its payload, off `chunk`.
    fn piece(
        &mut self,
        now: Moment,
        id: SessionId,
        chunk: &mut Bytes,
        mux: &mut Mux,
    ) -> Result<Option<Event>, Error> {
        let (left, ends_message) = match self.piece {
            Some(piece) => piece,
            None => {
                let Some(number) = self.header.take(chunk) else {
                    return Ok(None);
                };
                let len = usize::try_from(number >> 1).unwrap_or(usize::MAX);
                let ends_message = number & 1 == 1;
                mux.data_announced(now, id, len, ends_message)?;
                (len, ends_message)
            }
        };
        let part = chunk.split_to(left.min(chunk.len()));
        let left = left - part.len();
        self.piece = (left > 0).then_some((left, ends_message));
        Ok(mux.data_received(id, part, ends_message && left == 0))
    }
}
