//! Bytes and ends that arrived, for the mux.

use bytes::Bytes;
use quinn_proto::{Connection, Dir, ReadError, StreamId, VarInt};
use tieline_wire::{Error, Event, Intake, LinkEnd, Moment, Mux, SessionEnd, SessionId, limits};

use super::super::ends::{peer, session_code, session_end};
use super::{LinkStreams, session_of, stream_of};

/// Priority of the control stream; sessions have 0.
const CONTROL_PRIORITY: i32 = 1;

/// Bytes of one session that are read before another's turn.
const TURN_BYTES: usize = 256 * 1024;

/// Most streams that an agent lets its relay have open: as many as there may be sessions.
const STREAMS_MAX: u32 = limits::SESSIONS_MAX;

/// What a stream has next.
enum Next {
    Chunk(Bytes),
    Nothing,
    Finished,
    Reset(VarInt),
    /// The stream was read to its end before.
    Closed,
}

impl LinkStreams {
    /// Takes note of the streams that the peer has opened.
    pub(super) fn accept(
        &mut self,
        connection: &mut Connection,
        mux: &mut Mux,
    ) -> Result<(), Error> {
        if !std::mem::take(&mut self.has_new) {
            return Ok(());
        }
        while let Some(stream) = connection.streams().accept(Dir::Bi) {
            if self.is_relay {
                self.accept_control(connection, stream)?;
                continue;
            }
            let Some(id) = session_of(stream) else {
                let detail = "more streams than a link has sessions";
                return Err(peer(LinkEnd::SessionLimit, detail));
            };
            self.known = id.0;
            self.stream(id);
            self.list_readable(id);
            mux.resume(id);
        }
        self.allow_streams(connection);
        Ok(())
    }

    fn accept_control(
        &mut self,
        connection: &mut Connection,
        stream: StreamId,
    ) -> Result<(), Error> {
        if self.control.stream.is_some() {
            return Err(peer(LinkEnd::Protocol, "a second stream of the agent"));
        }
        self.begin_control(connection, stream);
        self.control.is_readable = true;
        Ok(())
    }

    pub(super) fn begin_control(&mut self, connection: &mut Connection, stream: StreamId) {
        self.control.stream = Some(stream);
        // Fails only for a stream that is over, which the next read reports.
        let _ = connection
            .send_stream(stream)
            .set_priority(CONTROL_PRIORITY);
    }

    /// Agent: lets the relay open twice as many streams once half of them are in use.
    fn allow_streams(&mut self, connection: &mut Connection) {
        let in_use = u32::try_from(self.sessions.len()).unwrap_or(u32::MAX);
        if !self.is_relay && in_use > self.streams_max / 2 && self.streams_max < STREAMS_MAX {
            self.streams_max = (self.streams_max * 2).min(STREAMS_MAX);
            connection.set_max_concurrent_streams(Dir::Bi, VarInt::from_u32(self.streams_max));
        }
    }

    /// The next event of the control stream.
    pub(super) fn read_control(
        &mut self,
        now: Moment,
        connection: &mut Connection,
        mux: &mut Mux,
    ) -> Result<Option<Event>, Error> {
        loop {
            if !self.control.input.is_empty()
                && let Some(event) = mux.handle_input(now, &mut self.control.input)?
            {
                self.note(&event);
                return Ok(Some(event));
            }
            let Some(stream) = self.control.stream else {
                return Ok(None);
            };
            if matches!(connection.send_stream(stream).stopped(), Ok(Some(_))) {
                return Err(peer(LinkEnd::LinkLost, "the control stream was stopped"));
            }
            if !self.control.is_readable {
                return Ok(None);
            }
            match next_of(connection, stream) {
                Next::Chunk(chunk) => self.control.input = chunk,
                Next::Nothing => self.control.is_readable = false,
                Next::Finished | Next::Reset(_) | Next::Closed => {
                    return Err(peer(LinkEnd::LinkLost, "the control stream ended"));
                }
            }
        }
    }

    /// Lets a session's stream be read that waited for this event.
    fn note(&mut self, event: &Event) {
        match event {
            Event::Open { session, open } => {
                self.stream(*session).mode = open.mode;
                self.list_readable(*session);
            }
            Event::Opened { session } => self.list_readable(*session),
            _ => {}
        }
    }

    /// The next event of a session.
    pub(super) fn read_sessions(
        &mut self,
        now: Moment,
        connection: &mut Connection,
        mux: &mut Mux,
    ) -> Result<Option<Event>, Error> {
        while let Some(id) = self.readable.front().copied() {
            if let Some(event) = self.read_session(now, id, connection, mux)? {
                return Ok(Some(event));
            }
            self.chunk.clear();
            self.chunk_bytes = 0;
            // The session stays listed if its turn is over before its bytes are.
            let is_listed = self
                .sessions
                .get(&id)
                .is_some_and(|it| it.is_listed_readable);
            self.readable.pop_front();
            if is_listed {
                self.readable.push_back(id);
            }
        }
        Ok(None)
    }

    /// The next event of the session whose turn it is; `None` when its turn is over.
    fn read_session(
        &mut self,
        now: Moment,
        id: SessionId,
        connection: &mut Connection,
        mux: &mut Mux,
    ) -> Result<Option<Event>, Error> {
        loop {
            let Some(stream) = self.sessions.get_mut(&id) else {
                return Ok(None);
            };
            let intake = mux.intake(id);
            if intake == Intake::Over {
                self.chunk.clear();
            } else if let Some(event) = stream.input.next(now, id, &mut self.chunk, mux)? {
                return Ok(Some(event));
            }
            let next = match intake {
                Intake::Unopened => {
                    stream.is_listed_readable = false;
                    return Ok(None);
                }
                Intake::Unanswered => reset_of(connection, stream_of(id)),
                Intake::Open | Intake::Over if self.chunk_bytes >= TURN_BYTES => return Ok(None),
                Intake::Open | Intake::Over => next_of(connection, stream_of(id)),
            };
            match next {
                Next::Chunk(chunk) => {
                    self.chunk_bytes += chunk.len();
                    self.chunk = chunk;
                }
                Next::Reset(code) => {
                    return self.reset_by_peer(now, id, session_end(code), (connection, mux));
                }
                Next::Nothing | Next::Closed | Next::Finished => {
                    stream.is_listed_readable = false;
                    if let Some(reason) = stream.stopped {
                        return self.reset_by_peer(now, id, reason, (connection, mux));
                    }
                    if intake == Intake::Over {
                        self.discard_stray(id, connection, mux);
                    }
                    return match next {
                        Next::Finished => self.finished_by_peer(now, id, mux),
                        _ => Ok(None),
                    };
                }
            }
        }
    }

    fn finished_by_peer(
        &mut self,
        now: Moment,
        id: SessionId,
        mux: &mut Mux,
    ) -> Result<Option<Event>, Error> {
        let Some(stream) = self.sessions.get_mut(&id) else {
            return Ok(None);
        };
        if mux.intake(id) == Intake::Open && !stream.input.may_end() {
            let detail = format!("the stream of session {id} ended within a piece");
            return Err(peer(LinkEnd::Protocol, detail));
        }
        stream.is_read = true;
        self.forget_if_over(id);
        mux.finish_received(now, id)
    }

    fn reset_by_peer(
        &mut self,
        now: Moment,
        id: SessionId,
        reason: SessionEnd,
        (connection, mux): (&mut Connection, &mut Mux),
    ) -> Result<Option<Event>, Error> {
        self.abandon(connection, id, session_code(reason));
        mux.reset_received(now, id, reason)
    }

    /// Ends a stream that belongs to no session: the relay skipped its number.
    fn discard_stray(&mut self, id: SessionId, connection: &mut Connection, mux: &Mux) {
        let has_end = self.sessions.get(&id).is_some_and(|it| it.end.is_some());
        if !mux.is_live(id) && !has_end {
            self.abandon(connection, id, session_code(SessionEnd::Protocol));
        }
    }
}

/// Reads a chunk of at most one piece's length.
fn next_of(connection: &mut Connection, id: StreamId) -> Next {
    let mut stream = connection.recv_stream(id);
    let Ok(mut chunks) = stream.read(true) else {
        return Next::Closed;
    };
    let next = match chunks.next(limits::DATA_BYTES_MAX as usize) {
        Ok(Some(chunk)) => Next::Chunk(chunk.bytes),
        Ok(None) => Next::Finished,
        Err(ReadError::Blocked) => Next::Nothing,
        Err(ReadError::Reset(code)) => Next::Reset(code),
    };
    // The owner of the connection sends after each turn anyway.
    let _ = chunks.finalize();
    next
}

/// Whether the peer has reset a stream from which nothing may be read yet.
fn reset_of(connection: &mut Connection, id: StreamId) -> Next {
    match connection.recv_stream(id).received_reset() {
        Ok(Some(code)) => Next::Reset(code),
        Ok(None) => Next::Nothing,
        Err(_) => Next::Closed,
    }
}
