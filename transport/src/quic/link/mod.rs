//! The streams of one link: the control stream, and one for each session.
//!
//! Session *n* has the relay's bidirectional stream with index *n* - 1, so streams are opened in the order of the
//! sessions, and need no name on the wire. What arrives on a stream before its session's `Open` or `Opened` stays in
//! QUIC. `read` takes bytes out of the connection, `write` puts bytes into it, `session` is one session's stream.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use quinn_proto::{Connection, Dir, Side, StreamEvent, StreamId, VarInt};
use tieline_wire::{Error, Event, Mode, Moment, Mux, SessionId, SessionMap};

use self::session::{End, SessionStream};
use super::acknowledged::{LinkProgress, Unacknowledged};
use super::config::{RECEIVE_WINDOW_BYTES, STREAMS_AT_FIRST};
use super::ends::session_end;

mod read;
mod session;
mod write;

/// Streams of a connection, for a [`Mux`] that is [`over_streams`](Mux::over_streams).
///
/// Per turn of a connection: [`handle_event`](Self::handle_event) for each stream event of [`Connection::poll`], then
/// [`poll_event`](Self::poll_event) until `None`, then [`transmit`](Self::transmit), then [`Connection::poll_transmit`].
/// In this order what the peer is told has arrived has also been read, so that a reset never discards it.
#[derive(Debug)]
pub struct LinkStreams {
    is_relay: bool,
    /// How far the bytes of all streams have come.
    progress: LinkProgress,
    control: Control,
    /// Boxed: a hash table has up to four places for an entry.
    sessions: SessionMap<Box<SessionStream>>,
    /// The highest session whose stream this side has opened (relay), or knows (agent).
    known: u32,
    /// The peer opened streams.
    has_new: bool,
    /// Streams that the peer may have open; agent only.
    streams_max: u32,
    /// The peer has the large window.
    is_wide: bool,
    /// Sessions with something to read.
    readable: VecDeque<SessionId>,
    /// The rest of what was read for the first of them.
    chunk: Bytes,
    /// Bytes that were read for the first of them in its turn.
    chunk_bytes: usize,
    /// Sessions whose streams may take their pending bytes now.
    writable: VecDeque<SessionId>,
    /// Reset sessions whose last bytes are on their way, with the time until which their resets wait.
    lingering: VecDeque<(SessionId, Moment)>,
}

/// The control stream.
#[derive(Debug, Default)]
struct Control {
    stream: Option<StreamId>,
    is_readable: bool,
    /// The rest of what was read.
    input: Bytes,
    /// Frames of the present turn.
    gathered: BytesMut,
    /// Frames that QUIC has not taken yet.
    pending: VecDeque<Bytes>,
    unacknowledged: Unacknowledged,
}

impl LinkStreams {
    /// The relay's end of a new connection.
    #[must_use]
    pub fn relay() -> Self {
        Self::new(true)
    }

    /// The agent's end of a new connection.
    #[must_use]
    pub fn agent() -> Self {
        Self::new(false)
    }

    fn new(is_relay: bool) -> Self {
        let progress = LinkProgress::default();
        let control = Control {
            unacknowledged: Unacknowledged::of(&progress),
            ..Control::default()
        };
        Self {
            is_relay,
            progress,
            control,
            sessions: SessionMap::default(),
            known: 0,
            has_new: false,
            streams_max: STREAMS_AT_FIRST,
            is_wide: !is_relay,
            readable: VecDeque::new(),
            chunk: Bytes::new(),
            chunk_bytes: 0,
            writable: VecDeque::new(),
            lingering: VecDeque::new(),
        }
    }

    /// Tells how far the bytes of all streams have come, those that QUIC has not taken yet included.
    #[must_use]
    pub fn progress(&self) -> LinkProgress {
        self.progress.clone()
    }

    /// Notes what happened to a stream. Moves no byte.
    pub fn handle_event(&mut self, event: StreamEvent) {
        match event {
            StreamEvent::Opened { .. } => self.has_new = true,
            StreamEvent::Readable { id } if self.is_control(id) => self.control.is_readable = true,
            StreamEvent::Readable { id } => {
                if let Some(id) = session_of(id) {
                    self.list_readable(id);
                }
            }
            StreamEvent::Stopped { id, error_code } => self.stopped(id, error_code),
            StreamEvent::Writable { id } => {
                if let Some(id) = session_of(id)
                    && let Some(stream) = self.sessions.get_mut(&id)
                    && !std::mem::replace(&mut stream.is_listed_writable, true)
                {
                    self.writable.push_back(id);
                }
            }
            // Both are looked at in every turn, as is a stop of the control stream.
            StreamEvent::Finished { .. } | StreamEvent::Available { .. } => {}
        }
    }

    fn is_control(&self, id: StreamId) -> bool {
        self.control.stream == Some(id)
    }

    fn stopped(&mut self, id: StreamId, code: VarInt) {
        let Some(id) = session_of(id) else {
            return;
        };
        // The stream may be new, and told of in the same turn.
        let is_new = !self.is_relay && id.0 > self.known;
        if is_new || self.sessions.contains_key(&id) {
            let stream = self.stream(id);
            stream.stopped = Some(session_end(code));
            stream.abandon();
            self.list_readable(id);
        }
    }

    /// The stream of a session, made if it is new.
    fn stream(&mut self, id: SessionId) -> &mut SessionStream {
        let (is_relay, progress) = (self.is_relay, &self.progress);
        let stream = self.sessions.entry(id);
        stream.or_insert_with(|| Box::new(SessionStream::new(is_relay, Mode::default(), progress)))
    }

    fn list_readable(&mut self, id: SessionId) {
        if let Some(stream) = self.sessions.get_mut(&id)
            && !std::mem::replace(&mut stream.is_listed_readable, true)
        {
            self.readable.push_back(id);
        }
    }

    /// Takes the next event of the link off `connection`; `None` when nothing more has arrived. Payload of one session
    /// comes in a row.
    ///
    /// # Errors
    /// The peer broke a rule, or ended the control stream: the link must be closed, with the error's reason.
    pub fn poll_event(
        &mut self,
        now: Moment,
        connection: &mut Connection,
        mux: &mut Mux,
    ) -> Result<Option<Event>, Error> {
        self.accept(connection, mux)?;
        if let Some(event) = self.read_control(now, connection, mux)? {
            return Ok(Some(event));
        }
        self.read_sessions(now, connection, mux)
    }

    /// Puts what the mux has to send into `connection`.
    pub fn transmit(&mut self, now: Moment, connection: &mut Connection, mux: &mut Mux) {
        self.open_control(connection);
        self.open_streams(connection, mux);
        self.widen(connection, mux);
        self.flush(connection, mux);
        self.write(now, connection, mux);
        self.end_lingering(now, connection);
    }

    /// When to call [`LinkStreams::transmit`] again, if nothing else happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.lingering.front().map(|(_, until)| *until)
    }

    /// True once the peer has acknowledged all control frames that the mux gave, and every byte of the directions that
    /// ended: the connection may be closed without losing any of them.
    #[must_use]
    pub fn has_arrived(&self, connection: &mut Connection) -> bool {
        let control = &self.control;
        let has_control = control.pending.is_empty() && control.unacknowledged.bytes() == 0;
        let sessions = self.sessions.iter();
        let sending = sessions.filter(|(id, it)| id.0 <= self.known && it.end.is_none());
        // With the control stream.
        let most = sending.count() + 1;
        has_control && self.lingering.is_empty() && connection.streams().send_streams() <= most
    }

    /// Gives the peer of a trusted link its whole window.
    fn widen(&mut self, connection: &mut Connection, mux: &Mux) {
        if !self.is_wide && mux.is_trusted() {
            self.is_wide = true;
            connection.set_receive_window(VarInt::from_u32(RECEIVE_WINDOW_BYTES));
        }
    }

    /// Ends a session's stream in both directions, as far as they are not over.
    fn abandon(&mut self, connection: &mut Connection, id: SessionId, code: VarInt) {
        let stream = stream_of(id);
        // First: QUIC drops what it has of the stream within the reset.
        if let Some(session) = self.sessions.remove(&id) {
            session.abandon();
        }
        // Both fail only if the direction is over.
        let _ = connection.send_stream(stream).reset(code);
        let _ = connection.recv_stream(stream).stop(code);
    }

    /// Forgets a session's stream once both directions are over.
    fn forget_if_over(&mut self, id: SessionId) {
        if let Some(stream) = self.sessions.get(&id)
            && stream.is_read
            && stream.end == Some(End::Finish)
        {
            self.sessions.remove(&id);
        }
    }
}

/// The stream of a session.
fn stream_of(id: SessionId) -> StreamId {
    StreamId::new(Side::Server, Dir::Bi, u64::from(id.0.saturating_sub(1)))
}

/// The session of a stream; `None` for a stream of the agent.
fn session_of(id: StreamId) -> Option<SessionId> {
    let is_session = id.initiator() == Side::Server && id.dir() == Dir::Bi;
    let number = u32::try_from(id.index()).ok()?.checked_add(1)?;
    is_session.then_some(SessionId(number))
}
