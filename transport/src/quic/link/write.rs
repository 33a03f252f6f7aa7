//! Bytes and ends of the mux, for QUIC.

use std::time::Duration;

use bytes::Bytes;
use quinn_proto::{Connection, Dir};
use tieline_wire::limits::STRANGER_CONTROL_BYTES_MAX;
use tieline_wire::{Moment, Mux, Output, SessionEnd, SessionId};

use super::super::ends::session_code;
use super::session::{End, SessionStream, write_chunks};
use super::{LinkStreams, stream_of};

/// Longest time for which a reset waits for the bytes before it, as on a bulk lane.
const LINGER: Duration = Duration::from_secs(2);

/// Most resets that wait.
const LINGERING_MAX: usize = 1024;

/// Control bytes of a trusted link that may be on their way. Those of a stranger are bounded as over TCP.
const CONTROL_BYTES_MAX: usize = 256 * 1024;

impl LinkStreams {
    /// Agent: opens the control stream, once the handshake is over.
    pub(super) fn open_control(&mut self, connection: &mut Connection) {
        if !self.is_relay
            && self.control.stream.is_none()
            && let Some(stream) = connection.streams().open(Dir::Bi)
        {
            self.begin_control(connection, stream);
        }
    }

    /// Relay: opens the streams of new sessions in order, as far as the agent allows.
    pub(super) fn open_streams(&mut self, connection: &mut Connection, mux: &mut Mux) {
        while self.is_relay && self.known < mux.last_session() {
            let Some(stream) = connection.streams().open(Dir::Bi) else {
                return;
            };
            self.known += 1;
            let id = SessionId(self.known);
            debug_assert_eq!(stream, stream_of(id), "streams are numbered like sessions");
            let Some(mode) = mux.stream_mode(id) else {
                self.abandon(connection, id, session_code(SessionEnd::Cancelled));
                continue;
            };
            let mut it = SessionStream::new(true, mode, &self.progress);
            it.begin();
            it.write(connection, stream);
            self.sessions.insert(id, Box::new(it));
            mux.resume(id);
        }
    }

    /// Gives QUIC what it did not take before.
    pub(super) fn flush(&mut self, connection: &mut Connection, mux: &mut Mux) {
        self.flush_control(connection);
        // Each session once: what QUIC has no room for is reported again.
        for _ in 0..self.writable.len() {
            let Some(id) = self.writable.pop_front() else {
                return;
            };
            if let Some(stream) = self.sessions.get_mut(&id) {
                stream.is_listed_writable = false;
                if stream.write(connection, stream_of(id)) {
                    mux.resume(id);
                }
            }
        }
    }

    fn flush_control(&mut self, connection: &mut Connection) {
        let control = &mut self.control;
        if !control.gathered.is_empty() {
            let frames = control.gathered.split().freeze();
            control
                .pending
                .push_back(control.unacknowledged.count(frames));
        }
        if let Some(stream) = control.stream {
            write_chunks(connection, stream, &mut control.pending);
        }
    }

    /// Takes what the mux has to send, until it has nothing more or the control frames must wait.
    pub(super) fn write(&mut self, now: Moment, connection: &mut Connection, mux: &mut Mux) {
        let control_bytes_max = match mux.is_trusted() {
            true => CONTROL_BYTES_MAX,
            false => STRANGER_CONTROL_BYTES_MAX,
        };
        let control = &self.control;
        let takes_control = control.stream.is_some()
            && control.pending.is_empty()
            && control.unacknowledged.bytes() < control_bytes_max;
        let mut writer = Writer {
            now,
            takes_control,
            streams: self,
            connection,
        };
        mux.poll_streams(now, &mut writer);
        self.flush_control(connection);
    }

    /// Sends the resets whose bytes have arrived, or have had their time.
    pub(super) fn end_lingering(&mut self, now: Moment, connection: &mut Connection) {
        for _ in 0..self.lingering.len() {
            let Some((id, until)) = self.lingering.pop_front() else {
                return;
            };
            let is_over = until <= now || self.lingering.len() >= LINGERING_MAX;
            let stream = self.sessions.get(&id);
            if stream.is_some_and(|it| !is_over && !it.has_arrived()) {
                self.lingering.push_back((id, until));
            } else {
                self.end_reset(connection, id);
            }
        }
    }

    fn end_reset(&mut self, connection: &mut Connection, id: SessionId) {
        let end = self.sessions.get(&id).and_then(|it| it.end);
        if let Some(End::Reset(code)) = end {
            self.abandon(connection, id, code);
        }
    }
}

/// Puts what a mux sends on the streams of a connection.
struct Writer<'a> {
    now: Moment,
    takes_control: bool,
    streams: &'a mut LinkStreams,
    connection: &'a mut Connection,
}

impl Output for Writer<'_> {
    fn takes_control(&self) -> bool {
        self.takes_control
    }

    fn is_full(&self) -> bool {
        false
    }

    fn takes(&self, session: SessionId) -> bool {
        let stream = self.streams.sessions.get(&session);
        session.0 <= self.streams.known && stream.is_some_and(|it| it.takes())
    }

    fn control(&mut self, bytes: &[u8]) {
        self.streams.control.gathered.extend_from_slice(bytes);
    }

    fn data(&mut self, session: SessionId, payload: Bytes, end_of_message: bool) {
        // Control frames go first: the connection's window, which all streams share, must have room for an `Open` before
        // bytes fill it that wait for that `Open`.
        self.streams.flush_control(self.connection);
        if let Some(stream) = self.streams.sessions.get_mut(&session) {
            stream.push(payload, end_of_message);
            stream.write(self.connection, stream_of(session));
        }
    }

    fn finish(&mut self, session: SessionId, _: u64) {
        if let Some(stream) = self.streams.sessions.get_mut(&session) {
            stream.end = Some(End::Finish);
        }
        // Fails only for a stream that the peer has stopped, which is read as a reset.
        let _ = self.connection.send_stream(stream_of(session)).finish();
        self.streams.forget_if_over(session);
    }

    fn reset(&mut self, session: SessionId, reason: SessionEnd) {
        let until = self.now + LINGER;
        if let Some(stream) = self.streams.sessions.get_mut(&session) {
            stream.end = Some(End::Reset(session_code(reason)));
            if !stream.has_arrived() {
                self.streams.lingering.push_back((session, until));
                return;
            }
        }
        self.streams.end_reset(self.connection, session);
    }
}
