//! One session's stream.

use std::collections::VecDeque;

use bytes::Bytes;
use quinn_proto::{Connection, StreamId, VarInt, WriteError};
use tieline_wire::{Mode, SessionEnd};

use super::super::acknowledged::{LinkProgress, Unacknowledged};
use super::super::input::{SESSION_STREAM, SessionInput};
use super::super::varint;

/// How this side's direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Finish,
    /// The reset waits until what was sent before it has arrived.
    Reset(VarInt),
}

/// One session's stream.
#[derive(Debug)]
pub(super) struct SessionStream {
    pub(super) mode: Mode,
    pub(super) input: SessionInput,
    /// Bytes that QUIC has not taken yet: one piece at most.
    pending: VecDeque<Bytes>,
    unacknowledged: Unacknowledged,
    pub(super) end: Option<End>,
    /// The peer's direction is over, and was read to its end.
    pub(super) is_read: bool,
    /// The peer takes no more bytes, for this reason.
    pub(super) stopped: Option<SessionEnd>,
    pub(super) is_listed_readable: bool,
    pub(super) is_listed_writable: bool,
}

impl SessionStream {
    /// A stream of the link that `progress` is of.
    pub(super) fn new(is_relay: bool, mode: Mode, progress: &LinkProgress) -> Self {
        Self {
            mode,
            input: match is_relay {
                true => SessionInput::of_agent(),
                false => SessionInput::of_relay(),
            },
            pending: VecDeque::new(),
            unacknowledged: Unacknowledged::of(progress),
            end: None,
            is_read: false,
            stopped: None,
            is_listed_readable: false,
            is_listed_writable: false,
        }
    }

    /// Queues the stream's first byte.
    pub(super) fn begin(&mut self) {
        self.pending
            .push_back(Bytes::from_static(&[SESSION_STREAM]));
    }

    /// True if a piece or an end may be queued; after a finish, only a reset can come.
    pub(super) fn takes(&self) -> bool {
        self.pending.is_empty() && !matches!(self.end, Some(End::Reset(_)))
    }

    /// True if everything that was queued has reached the peer.
    pub(super) fn has_arrived(&self) -> bool {
        self.pending.is_empty() && self.unacknowledged.bytes() == 0
    }

    /// Notes that bytes which are dropped from now on were not acknowledged.
    pub(super) fn abandon(&self) {
        self.unacknowledged.abandon();
    }

    /// Queues payload, without copying it.
    pub(super) fn push(&mut self, payload: Bytes, end_of_message: bool) {
        if self.mode == Mode::Messages {
            let number = (payload.len() as u64) << 1 | u64::from(end_of_message);
            let (header, len) = varint::encode(number);
            self.pending
                .push_back(Bytes::copy_from_slice(&header[..len]));
        }
        if !payload.is_empty() {
            self.pending.push_back(self.unacknowledged.count(payload));
        }
    }

    /// Gives QUIC what is pending; true if it took everything. Otherwise QUIC reports when the stream takes more.
    pub(super) fn write(&mut self, connection: &mut Connection, id: StreamId) -> bool {
        let is_all = write_chunks(connection, id, &mut self.pending);
        if self.pending.is_empty() {
            // An idle stream keeps no memory for pieces.
            self.pending = VecDeque::new();
        }
        is_all
    }
}

/// Gives QUIC the chunks of `pending` in order; true if it took them all, or the stream is over.
pub(super) fn write_chunks(
    connection: &mut Connection,
    id: StreamId,
    pending: &mut VecDeque<Bytes>,
) -> bool {
    // A write that QUIC takes in part must be tried again: only a write that is refused is reported later.
    while !pending.is_empty() {
        let chunks = pending.make_contiguous();
        match connection.send_stream(id).write_chunks(chunks) {
            Ok(written) => drop(pending.drain(..written.chunks)),
            Err(WriteError::Blocked) => return false,
            // What the peer stopped is a reset, and is read as one.
            Err(WriteError::Stopped(_) | WriteError::ClosedStream) => pending.clear(),
        }
    }
    true
}
